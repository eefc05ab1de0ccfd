"""Calls about datasets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from api.client.transport import Transport

Json = dict[str, Any]


class DatasetCalls(Transport):
    def datasets(self) -> list[Json]:
        return self.get("/v1/datasets")["items"]

    def dataset(self, name: str) -> Json:
        return self.get(f"/v1/datasets/{quote(name, safe='')}")

    def dataset_versions(self, name: str) -> list[Json]:
        """What the name stood for, newest first: {"version", "content_hash", "path", "created_at", …}."""
        return self.get(f"/v1/datasets/{quote(name, safe='')}/versions")["items"]

    def validate_dataset(self, name: str, **examination: Any) -> Json:
        """Queue a run that examines a dataset. ``examination``: workers, tokens, similarity_threshold, min_image_side.

        Returns: the run; once it has succeeded, its result has the ``report``.
        """
        return self.post(f"/v1/datasets/{quote(name, safe='')}/validate", examination)

    def validate_path(
        self, path: str, format: str = "auto", options: Mapping[str, Any] | None = None, **examination: Any
    ) -> Json:
        """The same for what lies at ``path`` on the server, in whatever format; nothing is registered."""
        body = {"path": path, "format": format, "options": dict(options or {}), **examination}
        return self.post("/v1/datasets/validate", body)

    def register_dataset(self, name: str, path: str, new_version: bool = False) -> Json:
        """``path`` lies on the server, or is a URL, inside its data roots. ``new_version``: the name may exist."""
        return self.post("/v1/datasets", {"name": name, "path": path, "new_version": new_version})

    def delete_dataset(self, name: str) -> None:
        """With its versions, unless something needs it; a corpus in the data roots stays. For its owner and admins."""
        self.send("DELETE", f"/v1/datasets/{quote(name, safe='')}")

    def dataset_statistics(self, name: str) -> Json:
        return self.get(f"/v1/datasets/{quote(name, safe='')}/statistics")

    def dataset_documents(
        self,
        name: str,
        offset: int = 0,
        limit: int = 20,
        view: str = "interleaved",
        split: str | None = None,
        source: str | None = None,
        tokens: bool = False,
    ) -> Json:
        """{"items": [{"id", "segments": [{"text"} | {"image", "image_url"}]}], "total", "offset", "splits", "sources"}.

        ``tokens``: with the number of tokens of each segment.
        """
        where = {"offset": offset, "limit": limit, "view": view, "split": split, "source": source}
        return self.get(f"/v1/datasets/{quote(name, safe='')}/documents", **where, tokens=tokens or None)

    def dataset_image(self, name: str, image: str) -> bytes:
        return self.send("GET", f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}").content
