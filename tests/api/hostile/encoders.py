"""Encoders that are more than they weigh: numbers, shapes, expressions and files that would fill memory or run code.

Each is a whole encoder, ours or another library's, with one thing at its worst.
"""

import base64
import json
import shutil
import struct


def change_json(folder, name, change):
    file = folder / name
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(change(found) or found), encoding="utf-8")


def _set(name, **values):
    return lambda folder: change_json(folder, name, lambda found: found.update(values))


def config(**values):
    return _set("config.json", **values)


def side(which, **values):
    return lambda folder: change_json(folder, "config.json", lambda found: found[f"{which}_config"].update(values))


def tokenizer(**values):
    return _set("tokenizer.json", **values)


def words(**values):
    return lambda folder: change_json(folder, "tokenizer.json", lambda found: found["model"].update(values))


def raw(name, data):
    return lambda folder: (folder / name).write_bytes(data) and None


def replaced(name, before, after):
    """A value as no JSON library writes it."""

    def change(folder):
        text = (folder / name).read_text(encoding="utf-8")
        assert before in text
        (folder / name).write_text(text.replace(before, after, 1), encoding="utf-8")

    return change


def both(*changes):
    return lambda folder: [change(folder) for change in changes] and None


def header(change):
    """The weights' header, without its ``__metadata__``, changed in place or given anew as bytes."""

    def write(folder):
        file = folder / "model.safetensors"
        data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        found = json.loads(data[8 : 8 + length])
        found.pop("__metadata__", None)
        changed = change(found)
        body = changed if isinstance(changed, bytes) else json.dumps(found).encode()
        file.write_bytes(struct.pack("<Q", len(body)) + body + data[8 + length :])

    return write


def first(**values):
    """One tensor of the header."""
    return header(lambda found: found[min(found)].update(values))


def _overlapping(found):
    one, two = sorted(found)[:2]
    found[two]["data_offsets"], found[two]["shape"], found[two]["dtype"] = (
        found[one]["data_offsets"], found[one]["shape"], found[one]["dtype"],
    )  # fmt: skip


def _split(expression):
    return {"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": False}


def _map_of(texts):
    """A compiled normalisation map, whose texts are these."""
    return {
        "type": "Precompiled",
        "precompiled_charsmap": base64.b64encode(struct.pack("<I", 1024) + bytes(1024) + texts).decode(),
    }


def _timm(**values):
    """Another library's configuration in the place of the first."""
    whole = {"architecture": "vit_tiny_patch16_224", "model_args": {}, "pretrained_cfg": {}}
    return both(_without_json, raw("config.json", json.dumps({**whole, **values}).encode()))


def _openclip(vision, text):
    towers = {"vision_cfg": {"layers": 1, **vision}, "text_cfg": {"layers": 1, **text}}
    config = json.dumps({"model_cfg": {"embed_dim": 24, **towers}}).encode()
    return both(_without_json, raw("open_clip_config.json", config))


def _without_json(folder):
    for file in folder.glob("*.json"):
        file.unlink()


BOMB = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1_000_000}
REDOS = _split(r"(?:a|a|aa)+$")
ADDED = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
DIGITS = "9" * 4000
CONFIGS = {
    "a processor of 4096 pixels": _set("processor_config.json", image_size=4096),
    "1500 text layers": config(text_layers=1500),
    "a negative head width": config(vision_head_width=-16),
    "3,000,000 words": config(vocab_size=3_000_000),
    "an mlp_ratio that is no number": replaced("config.json", '"mlp_ratio": 4.0', '"mlp_ratio": NaN'),
    "a name twice": replaced("config.json", '"context_length": 48', '"context_length": 48, "context_length": 480000'),
    "JSON without end": raw("config.json", b'{"model_type": "lcl", "a": ' + b"[" * 100_000),
    "code to import": config(auto_map={"AutoModel": "evil.Model"}),
    "a quantisation": config(quantization_config={"quant_method": "awq"}),
}  # fmt: skip
HEADERS = {
    "sides of 4000 digits": header(lambda found: (
        b'{"a":{"dtype":"F32","data_offsets":[0,0],"shape":[' + b",".join([DIGITS.encode()] * 400) + b"]}}"
    )),
    "offsets that overlap": header(_overlapping),
    "a header without end": header(lambda found: b'{"a": ' + b"[" * 100_000),
}  # fmt: skip
TOKENIZERS = {
    "a replacement of a letter by 10^6": tokenizer(normalizer=BOMB),
    "replacements that double 30 times": tokenizer(normalizer={"type": "Sequence", "normalizers": [
        {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}] * 30}),
    "an expression of exponential time": tokenizer(pre_tokenizer=REDOS),
    "10,000 added words": tokenizer(
        added_tokens=[{"id": number, "content": f"x{number}", **ADDED} for number in range(10_000)]
    ),
    "an id beyond the embeddings": lambda folder: change_json(
        folder, "tokenizer.json", lambda found: found["model"]["vocab"].update({"beyond": 2**20 - 1})
    ),
    "an id below nought": lambda folder: change_json(
        folder, "tokenizer.json", lambda found: found["model"]["vocab"].update({"!": -1})
    ),
}  # fmt: skip
FILES = {
    "a README of 3 MB": raw("README.md", b"x" * (3 << 20)),
    "an adapter of another model": raw("adapter_config.json", b'{"base_model_name_or_path": "attacker/repo"}'),
}
FOREIGN = {
    "a backbone of a hub": config(model_type="detr", backbone="hf-hub:attacker/repo", use_timm_backbone=True),
    "a backbone in a known type": config(backbone="hf-hub:attacker/repo", use_pretrained_backbone=True),
    "a kernel of a hub, elsewhere": config(attn_implementation="attacker/kernel"),
    "code beside the weights": config(auto_map={"AutoConfig": "code.C"}),
    "a text tower of 100 layers": side("text", num_hidden_layers=100),
    "images of 4096 pixels": side("vision", image_size=4096),
    "a processor with code": _set("preprocessor_config.json", auto_map={"AutoImageProcessor": "code.P"}),
    "a tokenizer with code": _set("tokenizer_config.json", auto_map={"AutoTokenizer": ["code.T", None]}),
    "a tokenizer in another file": _set("tokenizer_config.json", tokenizer_file="/etc/passwd"),
    "a map that makes a megabyte of a letter": tokenizer(normalizer=_map_of(b"a" * (1 << 20) + b"\0")),
    "weights of timm in a file": _timm(pretrained_cfg={"file": "/etc/passwd"}),
    "weights of timm at an address": _timm(pretrained_cfg={"url": "http://192.0.2.1/x.pth"}),
    "weights of timm on a hub": _timm(pretrained_cfg={"hf_hub_id": "attacker/repo"}),
    "a name of timm that is an address": _timm(architecture="hf-hub:attacker/repo"),
    "timm with 4096 pixels": _timm(model_args={"img_size": 4096}),
    "a text tower of OpenCLIP on a hub": _openclip({}, {"hf_model_name": "attacker/repo"}),
    "weights of OpenCLIP that are fetched": _openclip({"timm_model_pretrained": True}, {}),
}  # fmt: skip
OURS = {**CONFIGS, **HEADERS, **TOKENIZERS, **FILES}
ALL = {**OURS, **FOREIGN}


def slug(name):
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def make(name, target, ours, foreign):
    """The encoder of that name in ``target``: a changed copy of ``ours`` or of ``foreign``."""
    shutil.copytree(ours if name in OURS else foreign, target)
    ALL[name](target)
    return target
