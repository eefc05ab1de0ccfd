"""A small encoder, images, and a collection of them."""

import io
from typing import Any

from PIL import Image

from lcl_core.db import complete_run, leases, submit
from lcl_core.specs.parsing import parse_spec

Json = dict[str, Any]
COLOURS = ("red", "green", "blue", "white")


def save_encoder(
    directory,
    seed=0,
    texts=("a red square", "a blue circle", "green triangles on white"),
    vocab_size=280,
    context_length=48,
    vision_width=32,
):
    """An encoder with fresh weights, as a run saves it: 32-pixel images, vectors of 24 numbers."""
    from lcl_core.data.tokenizer import train_bpe
    from lcl_core.model import LCLConfig, LCLProcessor
    from lcl_core.train.factory import build_model

    tokenizer = train_bpe(texts, vocab_size=vocab_size)
    config = LCLConfig(
        image_size=32,
        patch_size=16,
        vision_width=vision_width,
        vision_layers=1,
        vision_head_width=16,
        text_width=24,
        text_layers=1,
        text_heads=2,
        context_length=context_length,
        vocab_size=tokenizer.vocab_size,
        **{f"{name}_token_id": getattr(tokenizer.specials, name) for name in ("sot", "eot", "img", "soi", "eoi")},
    )
    build_model(config, seed).save_pretrained(directory)
    LCLProcessor(tokenizer, config.image_size).save_pretrained(directory)
    return directory


def png(colour, size=(24, 24)):
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def images_by_colour():
    """PNG files by the name of their colour."""
    return {colour: png(colour) for colour in COLOURS}


def make_collection(live_service, encoder, encoder_dir, sample_images, name="squares"):
    """What an index run of the four images makes, registered as a worker registers it.

    Captions get vectors if the encoder reads texts.
    """
    from lcl_core.collections.writer import CollectionItem
    from lcl_core.encoders.engine import EncoderEngine
    from tests.lcl_core.collections.building import build_collection

    session = EncoderEngine(encoder_dir, "cpu")
    items = [
        CollectionItem(
            f"{hue}.png", data, "image/png", captions=(f"a {hue} square",), labels={"hue": hue[0]}, split="val"
        )
        for hue, data in sample_images.items()
    ]
    texts = [item.captions[0] for item in items]
    spec = parse_spec("index", {"encoder": encoder["id"], "collection": name})
    with live_service.context.database.session() as database_session:
        run_id = submit.submit(database_session, "index", spec).id
    claim = live_service.claim(run_id)
    with live_service.context.database.session() as database_session:
        leases.begin_attempt(database_session, claim, encoder_id=encoder["id"], from_scratch=False)
    vectors = session.embed_images([Image.open(io.BytesIO(data)).convert("RGB") for data in sample_images.values()])
    folder = live_service.run_dir(run_id).artifacts / "collection"
    text_vectors = dict(zip(texts, session.embed_texts(texts), strict=True)) if session.reads_texts else None
    build_collection(folder, items, vectors, text_vectors, name=name, encoder_hash=encoder["hash"])
    facts = {"path": "artifacts/collection", "encoder_hash": encoder["hash"], "images": 4, "texts": 4}
    facts |= {"dim": session.dim}
    live_service.settle(claim, complete_run.RunSucceeded({"collection": facts}))
    return live_service.admin.collection(name)
