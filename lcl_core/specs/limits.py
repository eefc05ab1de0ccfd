"""Limits of a pre-training that exclude each other: no item of its data could be read.

Only new specs are checked. Stored ones open with any limits, so that their runs continue.
"""

from __future__ import annotations

from lcl_core.specs.data import VIEW_ITEMS, VIEW_RECORDS
from lcl_core.specs.pretrain import PretrainSpec, bad_field

_PAIR_TOKENS = 5  # besides those of the image: four that render_pair reserves, and one of the text


def check_limits(spec: PretrainSpec) -> None:
    """Raises: UserError ``bad_spec`` naming the field."""
    data, batch, context = spec.data, spec.batch, spec.model.context_length
    views = {source.view for source in data.sources} | ({spec.monitor.view} if spec.monitor else set())
    if data.min_images > data.max_images and any(VIEW_RECORDS[view] == "documents" for view in views):
        message = f"no document has {data.min_images} images, since it keeps at most data.max_images {data.max_images}"
        raise bad_field("data.min_images", f"{message}; lower it, or raise that")
    if data.min_images > batch.images and data.piece_images is None and "interleaved" in views:
        message = f"a batch of {batch.images} images has no room for a document of data.min_images {data.min_images}"
        raise bad_field("batch.images", f"{message}; raise it, lower that, or cut documents with data.piece_images")
    least = spec.model.num_image_tokens + _PAIR_TOKENS
    if context < least and any(VIEW_ITEMS[view] == "pairs" for view in views):
        message = f"{context} tokens have room for an image of {spec.model.num_image_tokens} tokens and none for its"
        raise bad_field("model.context_length", f"{message} text; take {least} at least, or raise model.patch_size")
