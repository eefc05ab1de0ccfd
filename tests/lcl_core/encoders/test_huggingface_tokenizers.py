"""A text is cut as ``tokenizer.json`` says, whatever class of transformers the directory names."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer
from torch.nn import functional as F

from lcl_core.common.errors import UserError
from lcl_core.encoders.huggingface import HuggingFaceImageEncoder, HuggingFaceTextEncoder
from tests.lcl_core.encoders.external_samples import perturb_weights, save_huggingface

SMALL = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 20, "vocab_size": 12,
}  # fmt: skip
LOWERCASE = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True
}  # fmt: skip
SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}


def template(before, after):
    pieces: list[dict[str, Any]] = [{"SpecialToken": {"id": word, "type_id": 0}} for word, _ in before]
    pieces += [{"Sequence": {"id": "A", "type_id": 0}}]
    pieces += [{"SpecialToken": {"id": word, "type_id": 0}} for word, _ in after]
    used = {word: {"id": word, "ids": [number], "tokens": [word]} for word, number in (*before, *after)}
    return {"type": "TemplateProcessing", "single": pieces, "pair": pieces, "special_tokens": used}


def write_tokenizer(directory, specials, settings, **steps):
    """The two files in place of any others; what the library ``tokenizers`` reads of the first."""
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        (directory / name).unlink(missing_ok=True)
    added = [
        {"id": number, "content": word, "special": True, "normalized": False, "single_word": False, "lstrip": False,
         "rstrip": False}
        for number, word in enumerate(specials)
    ]  # fmt: skip
    empty = {"truncation": None, "padding": None, "normalizer": None, "pre_tokenizer": None, "decoder": None}
    file = {"version": "1.0", **empty, "post_processor": None, "added_tokens": added, **steps}
    (directory / "tokenizer.json").write_text(json.dumps(file))
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def save_bert(directory, settings):
    perturb_weights(transformers.BertModel(transformers.BertConfig(**SMALL))).save_pretrained(directory)
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = [*specials, "a", "bus", "##es", "A", "Bus"]
    return write_tokenizer(
        directory, specials, settings, normalizer=LOWERCASE, pre_tokenizer={"type": "BertPreTokenizer"},
        post_processor=template([("[CLS]", 2)], [("[SEP]", 3)]),
        model={
            "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
            "vocab": {word: number for number, word in enumerate(words)},
        },
    )  # fmt: skip


def save_roberta(directory, settings):
    config = transformers.RobertaConfig(**SMALL, pad_token_id=1)
    perturb_weights(transformers.RobertaModel(config)).save_pretrained(directory)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*specials, "a", "b", "Ġ", "ab", "Ġa", "Ġab"]
    return write_tokenizer(
        directory, specials, settings,
        pre_tokenizer={"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True},
        post_processor={
            "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0], "trim_offsets": True,
            "add_prefix_space": False,
        },
        model={
            "dropout": None, "unk_token": None, "continuing_subword_prefix": "", "end_of_word_suffix": "",
            "fuse_unk": False, "vocab": {word: number for number, word in enumerate(words)},
            "merges": ["a b", "Ġ a", "Ġa b"],
        },
    )  # fmt: skip


def save_xlm_roberta(directory, settings):
    config = transformers.XLMRobertaConfig(**SMALL, pad_token_id=1)
    perturb_weights(transformers.XLMRobertaModel(config)).save_pretrained(directory)
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    pieces = [*((word, 0.0) for word in specials), ("▁", -2.0), ("a", -3.0), ("b", -3.0), ("▁a", -1.0)]
    return write_tokenizer(
        directory, specials, settings, pre_tokenizer=SPACES,
        post_processor=template([("<s>", 0)], [("</s>", 2)]), model={"unk_id": 3, "vocab": pieces},
    )  # fmt: skip


@torch.no_grad()
def assert_reads(directory, texts, expected):
    """Each text alone, and all of them padded, are the mean of the model's states over these ids."""
    encoder = HuggingFaceTextEncoder.load(directory)
    model = transformers.AutoModel.from_pretrained(directory).eval()
    means = [model(input_ids=torch.tensor([ids])).last_hidden_state[0].mean(0) for ids in expected]
    torch.testing.assert_close(encoder.features(texts), torch.stack(means), atol=1e-5, rtol=1e-4)
    assert encoder.count_tokens(texts) == [len(ids) for ids in expected]


@pytest.mark.parametrize("save", [save_bert, save_roberta, save_xlm_roberta])
def test_files_of_early_versions_are_read_as_tokenizers_reads_them(tmp_path, save):
    """They have no ``model.type``, and few settings: the padding is the class's."""
    raw = save(tmp_path, {"model_max_length": 512})
    texts = ["a bus", " ab a", "buses ab", "<mask> a ", "b  a"]
    assert_reads(tmp_path, texts, [raw.encode(text).ids for text in texts])


def test_berts_normaliser_is_as_the_settings_say(tmp_path):
    raw = save_bert(tmp_path, {"do_lower_case": False, "model_max_length": 512})
    assert raw.encode("A Bus").ids == [2, 5, 6, 3]
    assert_reads(tmp_path, ["A Bus"], [[2, 8, 9, 3]])


GEMMA = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]


@torch.no_grad()
def test_gemmas_tokenizer_beside_siglip_is_the_saved_one(tmp_path):
    """transformers' class has its own normaliser, and pads on the left."""
    save_huggingface(tmp_path, "siglip")
    words = [*GEMMA, "▁", "a", "b", "▁a", "ab", "▁ab"]
    raw = write_tokenizer(
        tmp_path, GEMMA,
        {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "spaces_between_special_tokens": False},
        normalizer={"type": "Sequence", "normalizers": [
            {"type": "Lowercase"}, {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        ]},
        post_processor=template([], [("<eos>", 1)]),
        model={
            "type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None,
            "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": False,
            "vocab": {word: number for number, word in enumerate(words)},
            "merges": [["a", "b"], ["▁", "a"], ["▁a", "b"], ["▁", "ab"]],
        },
    )  # fmt: skip
    texts = ["a AB b", "ab", "c b"]
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(texts[0])["input_ids"] != raw.encode(texts[0]).ids
    assert_pair_reads(tmp_path, texts, [raw.encode(text).ids for text in texts], pad=0)


@torch.no_grad()
def assert_pair_reads(directory, texts, expected, pad):
    """Texts, padded to SigLIP's full length, have the library's vectors of these ids."""
    model = transformers.AutoModel.from_pretrained(directory).eval()
    ids = torch.tensor([[*each, *[pad] * (12 - len(each))] for each in expected])
    found = HuggingFaceImageEncoder.load(directory).encode_texts(texts)
    assert found is not None
    vectors = F.normalize(model.get_text_features(input_ids=ids).pooler_output, dim=-1)
    torch.testing.assert_close(found, vectors, atol=1e-5, rtol=1e-4)


def save_siglip(directory, settings, **steps):
    save_huggingface(directory, "siglip")
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("a", -3.0), ("b", -3.0), ("▁a", -1.0)]
    pieces += [("▁bus", -1.0), ("A", -3.0), ("!", -3.0)]
    model = {"type": "Unigram", "unk_id": 2, "vocab": pieces}
    write_tokenizer(
        directory, ["<pad>", "</s>", "<unk>"], settings, pre_tokenizer=SPACES,
        post_processor=template([], [("</s>", 1)]), model=model, **steps,
    )  # fmt: skip


SIGLIP = {"tokenizer_class": "SiglipTokenizer", "model_max_length": 64}
MARKS = r"""[!"\#\$%\&'\(\)\*\+,\-\.:;=\?@\[\\\]\^_`\{\|\}\~]"""
IN_THE_FILE = {
    "type": "Sequence",
    "normalizers": [
        {"type": "Lowercase"},
        {"type": "Replace", "pattern": {"Regex": MARKS}, "content": ""},
        {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
        {"type": "Strip", "strip_left": True, "strip_right": True},
    ],
}  # fmt: skip


@pytest.mark.parametrize("normalizer", [None, IN_THE_FILE], ids=["without", "with"])
@pytest.mark.parametrize("settings", [SIGLIP, {"model_max_length": 64}], ids=["named", "unnamed"])
def test_siglips_texts_are_cleaned_as_its_class_does(tmp_path, normalizer, settings):
    """With ids of SiglipTokenizer on such pieces; it needs a library and a file that are not there."""
    save_siglip(tmp_path, settings, normalizer=normalizer)
    texts = ["A bus!", "  a,  BUS ", "a ▁ b", "!?", "a-b"]
    expected = [[6, 7, 1], [6, 7, 1], [6, 3, 5, 1], [1], [6, 5, 1]]
    assert_pair_reads(tmp_path, texts, expected, pad=1)


def test_siglips_capitals_stay_where_its_settings_say_so(tmp_path):
    save_siglip(tmp_path, {**SIGLIP, "do_lower_case": False, "pad_token": "<pad>"})
    assert_pair_reads(tmp_path, ["A bus!"], [[3, 8, 7, 1]], pad=0)


def test_siglip_without_its_tokenizer_file_is_refused_with_the_way_out(tmp_path):
    save_siglip(tmp_path, SIGLIP)
    (tmp_path / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"spiece\.model.*add tokenizer\.json"):
        HuggingFaceImageEncoder.load(tmp_path)
