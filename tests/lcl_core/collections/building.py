"""Collections that fit in memory, written at once."""

from __future__ import annotations

import numpy as np

from lcl_core.collections.writer import CollectionWriter
from lcl_core.common.errors import UserError
from lcl_core.common.paths import storable_text


def build_collection(directory, items, image_vectors, text_vectors, arranged=False, **header):
    """``text_vectors``: {caption: [E]}, for every caption of the items; None: captions get no vectors."""
    header = {"dataset_hash": "", "dim": int(np.shape(image_vectors)[-1]), **header}
    with CollectionWriter(directory, **header, text_vectors=text_vectors is not None) as writer:
        writer.add_items(items, image_vectors)
        if text_vectors is not None and (texts := writer.texts()):
            known = {storable_text(text): vector for text, vector in text_vectors.items()}
            if missing := [text for text in texts if text not in known]:
                raise UserError(f"caption {missing[0]!r} has no vector", code="invalid_value")
            writer.add_text_vectors(np.stack([known[text] for text in texts]))
        writer.link()
        if arranged:
            writer.arrange()
