"""What an encoder's small files may say: all that is genuine passes; what the sandbox cannot find out is refused."""

import json
import shutil

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.check import check_encoder, check_tokenizer
from lcl_core.encoders.registry import load_image_encoder
from lcl_core.pretrained import pretrained_encoders
from tests.api.hostile import encoders
from tests.api.sample_assets import save_encoder
from tests.lcl_core.encoders.external_samples import save_huggingface, save_openclip, save_timm


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("ours") / "encoder")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    return save_huggingface(tmp_path_factory.mktemp("foreign") / "encoder", "clip")


def test_genuine_encoders_pass(ours, foreign, tmp_path):
    shipped = [found.directory for found in pretrained_encoders()]
    made = [save_huggingface(tmp_path / kind, kind) for kind in ("vit", "dinov2", "resnet", "siglip", "bert")]
    made += [save_openclip(tmp_path / f"openclip-{kind}", kind) for kind in ("vit", "resnet", "coca", "timm")]
    made += [save_timm(tmp_path / "timm", img_size=64, depth=2, embed_dim=32, num_heads=2)]
    for directory in (ours, foreign, *shipped, *made):
        check_encoder(directory)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("a name twice", "appears twice"),
        ("JSON without end", "nested too deeply"),
        ("code to import", "auto_map"),
        ("a kernel of a hub, elsewhere", "attn_implementation"),
        ("a quantisation", "quantization_config"),
        ("a backbone in a known type", "backbone"),
        ("a processor with code", "preprocessor_config.json.*auto_map"),
        ("a tokenizer in another file", "tokenizer_file"),
        ("weights of timm at an address", "url"),
        ("a name of timm that is an address", "hubs are not contacted"),
        ("a text tower of OpenCLIP on a hub", "hf_model_name"),
        ("an adapter of another model", "adapter"),
        ("a replacement of a letter by 10^6", "longer than what it replaces"),
        ("replacements that double 30 times", "longer than what it replaces"),
        ("a map that makes a megabyte of a letter", "64 bytes of a character"),
        ("an expression of exponential time", "is of no tokenizer that is known here"),
        ("a README of 3 MB", "bytes are more"),
    ],
)
def test_what_is_refused_before_a_library_reads_it(ours, foreign, tmp_path, name, words):
    directory = encoders.make(name, tmp_path / "encoder", ours, foreign)
    with pytest.raises(UserError, match=words) as caught:
        check_encoder(directory)
    assert caught.value.code == "encoder_unreadable"
    assert str(directory) in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("vision", "words"),
    [
        ("timm:local-dir:/etc", "vision: .*no vision tower"),
        ("hybrid", "vision: .*no vision tower"),
        ("timm:resnet18", "timm:resnet18 has 256 channels"),
    ],
)
def test_a_vision_tower_from_elsewhere_is_refused(ours, tmp_path, vision, words):
    directory = shutil.copytree(ours, tmp_path / "encoder")
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps({**config, "vision": vision}))
    with pytest.raises(UserError, match=words):
        load_image_encoder(directory)


@pytest.mark.parametrize("kind", ["CLIP", "Bert", "Roberta", "XLMRoberta"])
def test_tokenizers_of_transformers_pass(tmp_path, kind):
    import transformers

    getattr(transformers, f"{kind}Tokenizer")().save_pretrained(tmp_path)
    check_tokenizer(tmp_path / "tokenizer.json")


def test_an_export_for_transformers_is_still_ours(ours, tmp_path):
    from lcl_core.encoders.export import export

    export("huggingface", ours, tmp_path / "copy")
    assert "auto_map" in json.loads((tmp_path / "copy" / "config.json").read_text())
    assert check_encoder(tmp_path / "copy").kind == "lcl"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("config.json", lambda found: {"img_token_id": found["soi_token_id"]}, "ids of its special tokens"),
        ("processor_config.json", lambda found: {"image_size": 4096}, "image_size 4096 is not that of config.json"),
        (
            "tokenizer.json",
            lambda found: {"model": {**found["model"], "vocab": {**found["model"]["vocab"], "beyond": 2**20 - 1}}},
            "no row of the",
        ),
    ],
)
def test_files_that_do_not_belong_together_are_refused(ours, tmp_path, file, change, words):
    directory = shutil.copytree(ours, tmp_path / "other")
    found = json.loads((ours / file).read_text())
    (directory / file).write_text(json.dumps({**found, **change(found)}))
    with pytest.raises(UserError, match=words):
        load_image_encoder(directory)
