"""Encoders in memory and collections on disk. Importing this loads no torch; an encoder's first use does."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lcl_core.serving.batcher import Batcher, Overloaded, Unloaded
    from lcl_core.serving.batching_session import BatchingSession
    from lcl_core.serving.build import CollectionWriter, NewItem, build_collection
    from lcl_core.serving.changed import ChangedCollection
    from lcl_core.serving.changes import Change, ChangesWriter, HandedChanges
    from lcl_core.serving.collection import Collection, Hit
    from lcl_core.serving.options import CaptionOptions
    from lcl_core.serving.overlay import Overlay
    from lcl_core.serving.pool import EncoderPool
    from lcl_core.serving.projection import project
    from lcl_core.serving.session import EncoderSession

_HOMES = {
    "Batcher": "batcher",
    "BatchingSession": "batching_session",
    "CaptionOptions": "options",
    "Change": "changes",
    "ChangedCollection": "changed",
    "ChangesWriter": "changes",
    "Collection": "collection",
    "CollectionWriter": "build",
    "EncoderPool": "pool",
    "EncoderSession": "session",
    "HandedChanges": "changes",
    "Hit": "collection",
    "NewItem": "build",
    "Overlay": "overlay",
    "Overloaded": "batcher",
    "Unloaded": "batcher",
    "build_collection": "build",
    "project": "projection",
}
__all__ = [
    "Batcher",
    "BatchingSession",
    "CaptionOptions",
    "Change",
    "ChangedCollection",
    "ChangesWriter",
    "Collection",
    "CollectionWriter",
    "EncoderPool",
    "EncoderSession",
    "HandedChanges",
    "Hit",
    "NewItem",
    "Overlay",
    "Overloaded",
    "Unloaded",
    "build_collection",
    "project",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
