"""What the files of sentence-transformers may say, and what an import copies of them."""

from __future__ import annotations

import pytest

from lcl_core.common.errors import UserError
from lcl_core.encoders.check import check_encoder
from lcl_core.encoders.pooling import SentencePooling, files_to_import, read_pooling
from tests.lcl_core.encoders.external_samples import save_huggingface, save_sentence_encoder

CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
NETWORK, POOLING = (f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling"))
MOVED = (
    "sentence_transformers.base.modules.transformer.Transformer",
    "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
)


def test_names_of_both_versions_of_the_library_are_read(tmp_path):
    old = save_sentence_encoder(tmp_path / "old", CLS, max_seq_length=256, do_lower_case=False)
    new = save_sentence_encoder(tmp_path / "new", {"pooling_mode": "cls"}, *MOVED, max_seq_length=256)
    assert read_pooling(old) == read_pooling(new) == SentencePooling(("cls",), 256)
    assert check_encoder(old).reads == check_encoder(new).reads == ("texts",)


def test_a_directory_without_modules_says_nothing(tmp_path):
    directory = save_sentence_encoder(tmp_path, CLS)
    (directory / "modules.json").unlink()
    assert read_pooling(directory) is None
    assert "pooling_config.json" not in files_to_import(directory)


@pytest.mark.parametrize(
    ("pooling", "types", "words"),
    [
        (CLS, (NETWORK, POOLING, "sentence_transformers.models.Dense"), "modules.json.*Dense cannot be applied"),
        (CLS, (POOLING, NETWORK), "modules.json.*cannot be applied"),
        (CLS, (NETWORK, "code.of.Pooling"), "modules.json.*code.of.Pooling cannot be applied"),
        (
            {"pooling_mode_weightedmean_tokens": True},
            (),
            "1_Pooling/config.json.*weightedmean_tokens' cannot be applied",
        ),
        ({"pooling_mode": "lasttoken"}, (), "1_Pooling/config.json.*'lasttoken' cannot be applied"),
        ({"pooling_mode_cls_token": False}, (), "1_Pooling/config.json.*chooses no pooling"),
        ({**CLS, "pooling_mode_of_others": True}, (), "'pooling_mode_of_others' cannot be applied"),
    ],
)
def test_what_cannot_be_applied_is_refused(tmp_path, pooling, types, words):
    directory = save_sentence_encoder(tmp_path, pooling, *types)
    with pytest.raises(UserError) as caught:
        check_encoder(directory)
    assert caught.value.code == "encoder_unreadable"
    caught.match(words)


def test_a_pooling_that_is_named_and_missing_is_refused(tmp_path):
    directory = save_sentence_encoder(tmp_path, CLS)
    (directory / "1_Pooling" / "config.json").unlink()
    for read in (read_pooling, files_to_import):
        with pytest.raises(UserError, match=r"1_Pooling/config.json, which is not there; add .*, or remove modules"):
            read(directory)


@pytest.mark.parametrize("name", ["1_Pooling", "1_Pooling/config.json"])
def test_a_link_in_place_of_the_pooling_is_refused(tmp_path, name):
    directory = save_sentence_encoder(tmp_path / "encoder", CLS)
    (directory / name).rename(tmp_path / "elsewhere")
    (directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="which is not there"):
        files_to_import(directory)


def test_the_pooling_is_copied_beside_the_weights(tmp_path):
    directory = save_sentence_encoder(tmp_path / "encoder", CLS)
    files = files_to_import(directory)
    assert files.pop("pooling_config.json") == directory / "1_Pooling" / "config.json"
    assert all(path == directory / name for name, path in files.items())
    (tmp_path / "copy").mkdir()
    for name, path in files_to_import(directory).items():
        (tmp_path / "copy" / name).write_bytes(path.read_bytes())
    assert read_pooling(tmp_path / "copy") == read_pooling(directory) == SentencePooling(("cls",))
    assert files_to_import(tmp_path / "copy").keys() == {*files, "pooling_config.json"}


def test_files_of_encoders_of_images_are_copied_as_they_are(tmp_path):
    directory = save_huggingface(tmp_path, "vit")
    (directory / "modules.json").write_text("nothing reads this")
    assert files_to_import(directory) == {path.name: path for path in directory.iterdir()}
