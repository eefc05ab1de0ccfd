"""Calls about datasets."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from api.client.transport import Transport

Json = dict[str, Any]


class DatasetCalls(Transport):
    def datasets(self) -> list[Json]:
        return self.get("/v1/datasets")["items"]

    def dataset(self, name: str) -> Json:
        return self.get(f"/v1/datasets/{quote(name, safe='')}")

    def validate_dataset(self, path: str) -> Json:
        """Read a corpus that lies at ``path`` on the server without registering it; its counts."""
        return self.post("/v1/datasets/validate", {"path": path})

    def register_dataset(self, name: str, path: str) -> Json:
        """``path`` lies on the server, inside its data roots."""
        return self.post("/v1/datasets", {"name": name, "path": path})

    def dataset_statistics(self, name: str) -> Json:
        return self.get(f"/v1/datasets/{quote(name, safe='')}/statistics")

    def dataset_documents(self, name: str, offset: int = 0, limit: int = 20, view: str = "interleaved") -> Json:
        """{"items": [{"id", "segments": [{"text"} | {"image", "image_url"}]}], "total", "offset"}."""
        return self.get(f"/v1/datasets/{quote(name, safe='')}/documents", offset=offset, limit=limit, view=view)

    def dataset_image(self, name: str, image: str) -> bytes:
        return self.send("GET", f"/v1/datasets/{quote(name, safe='')}/images/{quote(image)}").content
