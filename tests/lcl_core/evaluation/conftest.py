"""A small corpus drawn on the spot, and an encoder directory for it."""

import json

import pytest
import tokenizers
import tokenizers.decoders
import tokenizers.models
import tokenizers.pre_tokenizers
import tokenizers.trainers
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lcl_core.common.run_dir import RunDir
from lcl_core.data import train_bpe
from lcl_core.model import LCLConfig, LCLProcessor
from lcl_core.train.factory import build_model

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (30, 40, 220), "grey": (128, 128, 128)}


def save_encoder(folder, *, seed=0):
    """A tiny model with its initial weights at ``seed``, in the layout of a registered encoder."""
    tokenizer = train_bpe([f"a {colour} square, number {n}" for colour in COLOURS for n in range(9)], 300)
    specials = tokenizer.specials
    config = LCLConfig(
        image_size=16, patch_size=8, vision_width=32, vision_layers=2, vision_head_width=16,
        text_width=32, text_layers=2, text_heads=2, context_length=40, vocab_size=tokenizer.vocab_size,
        sot_token_id=specials.sot, eot_token_id=specials.eot, img_token_id=specials.img,
        soi_token_id=specials.soi, eoi_token_id=specials.eoi,
    )  # fmt: skip
    build_model(config, seed).save_pretrained(folder)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(folder)
    return folder


TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def save_language_model(folder, *, template=TEMPLATE, seed=0, steps=0):
    """A causal language model of two layers in Hugging Face's layout; after ``steps`` it knows captions of squares."""
    texts = [f"a {colour} square, number {n}" for colour in COLOURS for n in range(9)]
    texts += ["Is this picture about squares? Answer the question using a single word or phrase. yes no"]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<|unk|>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    specials = ["<|unk|>", "<|end|>", "<|user|>", "<|assistant|>"]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400, special_tokens=specials, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<|unk|>", eos_token="<|end|>", pad_token="<|end|>",
        additional_special_tokens=["<|user|>", "<|assistant|>"], chat_template=template,
    )  # fmt: skip
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=256, eos_token_id=fast.eos_token_id, bos_token_id=None,
        pad_token_id=fast.pad_token_id, tie_word_embeddings=True, initializer_range=0.3,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        _teach(model, fast, steps)
    model.save_pretrained(folder)
    fast.save_pretrained(folder)
    return folder


def _teach(model, tokenizer, steps):
    """Texts that say the colour, then captions of it: the model learns to speak of what came before."""
    reported = [f"{colour}{rest}" for colour in COLOURS for rest in (" square", " square", " square, number 7")]
    hints = [(tokenizer(text.split()[0])["input_ids"] * 4)[:4] for text in reported]
    said = [tokenizer(f"a {text}<|end|>")["input_ids"] for text in reported]
    width = max(map(len, said))
    ids = torch.tensor([hint + ids + [1] * (width - len(ids)) for hint, ids in zip(hints, said, strict=True)])
    targets = torch.tensor([[-100] * 4 + ids + [-100] * (width - len(ids)) for ids in said])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimizer.zero_grad()
        model(input_ids=ids, labels=targets).loss.backward()
        optimizer.step()


@pytest.fixture(scope="session")
def save_tiny_language_model():
    return save_language_model


@pytest.fixture(scope="session")
def language_model_dir(tmp_path_factory):
    return save_language_model(tmp_path_factory.mktemp("language"))


@pytest.fixture(scope="session")
def taught_language_model_dir(tmp_path_factory):
    """One that knows how captions and short answers go, as a real one does."""
    return save_language_model(tmp_path_factory.mktemp("taught"), steps=80)


@pytest.fixture(scope="session")
def save_tiny_encoder():
    return save_encoder


@pytest.fixture(scope="session")
def encoder_dir(tmp_path_factory):
    return save_encoder(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def squares(tmp_path_factory):
    """Coloured squares: 40 to learn from, 12 to be asked about, one of which has an unseen label and one no label."""
    folder = tmp_path_factory.mktemp("squares")
    (folder / "images").mkdir()
    lines = []
    for number in range(52):
        colour = list(COLOURS)[number % 4]
        shade = tuple(min(255, channel + number % 7) for channel in COLOURS[colour])
        Image.new("RGB", (20, 16 + number % 3), shade).save(folder / "images" / f"{number}.png")
        labels = {"colour": {50: "pink"}.get(number, colour)} if number != 51 else {}
        captions = [f"a {colour} square", f"a {colour} square, number {number}"][: 1 + (number != 49)]
        split, source = ("train" if number < 40 else "test"), ("even", "odd")[number % 2]
        lines.append(
            {"image": f"{number}.png", "captions": captions, "labels": labels, "split": split, "source": source}
        )
    (folder / "pairs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def new_run(tmp_path, squares, encoder_dir):
    """Makes a prepared RunDir; keyword arguments are spec fields."""

    def make(name="run", weights=encoder_dir, corpus=squares, encoders=None, datasets=None, **fields):
        spec = {
            "encoder": "tiny",
            "dataset": "squares",
            "splits": ["test"],
            "figures": False,
            "classification": {"labels": ["colour"], "epochs": 4, "batch_size": 16},
            **fields,
        }
        run_dir = RunDir(tmp_path / name)
        run_dir.path.mkdir()
        run_dir.prepare(
            {
                "run_id": f"run_{name}",
                "kind": "evaluate",
                "spec": spec,
                "datasets": {"squares": str(corpus), **(datasets or {})},
                "encoders": {"tiny": str(weights), **(encoders or {})},
                "cache": str(tmp_path / "cache"),
                "attempt": 1,
            }
        )
        return run_dir

    return make
