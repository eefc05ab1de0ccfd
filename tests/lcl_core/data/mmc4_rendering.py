"""Documents of MMC4 as token ids, by the functions that training uses, with choices that a test can make itself."""

import random

from lcl_core.data.sampling.document_plan import encode_document, images_by_sentence, plan_document
from lcl_core.specs.data import DataSpec


class Draw:
    """What is drawn for a document: ``picks`` of a sentence's images, ``before`` of each image kept; None: random."""

    def __init__(self, groups, picks, before, draw):
        self._picks = None if picks is None else iter([p for p, g in zip(picks, groups, strict=True) if len(g) > 1])
        self._before = None if before is None else iter(before)
        self._draw = draw or random.Random()

    def randrange(self, stop):
        return self._draw.randrange(stop) if self._picks is None else next(self._picks)

    def random(self):
        return self._draw.random() if self._before is None else float(not next(self._before))


def render_mmc4(
    doc,
    tokenizer,
    num_image_tokens,
    context_length,
    similarity_threshold=0.24,
    max_images=6,
    min_images=1,
    picks=None,
    before=None,
    readable=lambda name: True,
    numerics="fixed",
    image_first_probability=0.5,
    draw=None,
):
    """(ids, names of the images), or None for a document that is dropped."""
    draw = Draw(images_by_sentence(doc, similarity_threshold).values(), picks, before, draw)
    plan = plan_document(doc, DataSpec(similarity_threshold=similarity_threshold, max_images=max_images), draw)
    if plan is None:
        return None
    document = plan.to_document([name for name in plan.images if readable(name)], draw, image_first_probability)
    return encode_document(document, tokenizer, num_image_tokens, context_length, min_images, numerics)
