"""Limits of a pre-training that exclude each other: no item of its data could be read.

Only new specs are checked. Stored ones open with any limits, so that their runs continue.
"""

from __future__ import annotations

from lcl_core.common.errors import UserError
from lcl_core.specs.data import VIEW_ITEMS, VIEW_RECORDS
from lcl_core.specs.pretrain import PretrainSpec

_PAIR_TOKENS = 5  # besides those of the image: four that render_pair reserves, and one of the text


def check_limits(spec: PretrainSpec) -> None:
    """Raises: UserError ``bad_spec`` naming the field."""
    data, batch, context = spec.data, spec.batch, spec.model.context_length
    trained = {source.view for source in data.sources}
    held_out = set() if spec.monitor is None else {spec.monitor.view}
    views = trained | held_out
    if data.min_images > data.max_images and any(VIEW_RECORDS[view] == "documents" for view in views):
        message = f"no document has {data.min_images} images, since it keeps at most data.max_images {data.max_images}"
        raise _bad_field("data.min_images", f"{message}; lower it, or raise that")
    if data.min_images > batch.images and data.piece_images is None and "interleaved" in views:
        message = f"a batch of {batch.images} images has no room for a document of data.min_images {data.min_images}"
        raise _bad_field("batch.images", f"{message}; raise it, lower that, or cut documents with data.piece_images")
    for found, image_tokens in ((trained, spec.kept_patches), (held_out, spec.model.num_image_tokens)):
        least = image_tokens + _PAIR_TOKENS
        if context < least and any(VIEW_ITEMS[view] == "pairs" for view in found):
            message = f"{context} tokens have room for an image of {image_tokens} tokens and none for its text"
            raise _bad_field("model.context_length", f"{message}; take {least} at least, or raise model.patch_size")


def _bad_field(field: str, message: str) -> UserError:
    return UserError(f"{field}: {message}", code="bad_spec", field=field)
