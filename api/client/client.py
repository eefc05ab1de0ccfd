"""The client: all calls in one object."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from api.client.inference import InferenceCalls
from api.client.payloads import Json, Progress, Where, data_url, open_corpus_archive, without_none
from api.client.runs import RunCalls
from api.client.transport import Transport, read_json, v1

VECTORS_PER_PAGE = 1000
UPLOAD_TIMEOUT = httpx.Timeout(600.0, connect=10.0)
UPLOAD_CHUNK_BYTES = 1 << 20
ITEMS_PER_CHANGE = 256  # of one request that changes labels of images or tags of documents


class DatasetCalls(Transport):
    def datasets(self) -> list[Json]:
        return self.get(v1("datasets"))["items"]

    def dataset(self, name: str) -> Json:
        return self.get(v1("datasets", name))

    def dataset_tags(self, name: str) -> dict[str, int]:
        """How many documents and captioned images have each tag."""
        return self.dataset(name)["tags"]

    def register_dataset(self, name: str, path: str, new_version: bool = False) -> Json:
        """``path``: on the server, or a URL, inside its data roots. ``new_version``: the name may exist."""
        return self.post(v1("datasets"), {"name": name, "path": path, "new_version": new_version})

    def upload_corpus(self, source: str | Path, on_progress: Progress | None = None) -> Json:
        """Send a folder or a zip, in any readable format. Returns: the upload, whose ``path`` a spec can name."""
        with open_corpus_archive(Path(source)) as archive:
            size = archive.seek(0, os.SEEK_END)
            archive.seek(0)

            def chunks() -> Iterator[bytes]:
                while chunk := archive.read(UPLOAD_CHUNK_BYTES):
                    yield chunk
                    if on_progress is not None:
                        on_progress(archive.tell(), size)

            headers = {"content-type": "application/zip", "content-length": str(size)}
            response = self.send("POST", v1("uploads"), content=chunks(), headers=headers, timeout=UPLOAD_TIMEOUT)
        return read_json(response)

    def delete_upload(self, upload_id: str) -> None:
        self.remove(v1("uploads", upload_id))

    def delete_dataset(self, name: str) -> None:
        """All versions, unless something uses them. A corpus in the data roots stays. For its owner and admins."""
        self.remove(v1("datasets", name))

    def dataset_statistics(self, name: str) -> Json:
        return self.get(v1("datasets", name, "statistics"))

    def dataset_documents(
        self, name: str, offset: int = 0, limit: int = 20, view: str = "interleaved", **filters: Any
    ) -> Json:
        """{"items": [{"id", "item", "tags", "segments": [{"text"} | {"image", "image_url"}]}], "next", "total", …}.

        ``filters``: split, source, q (words that a document has all of), tag.
        """
        path = v1("datasets", name, "documents")
        return self.get(path, offset=offset, limit=limit, view=view, **filters)

    def tag_documents(
        self, name: str, items: Sequence[str], *, add: Sequence[str] = (), remove: Sequence[str] = ()
    ) -> int:
        """Change tags of documents and captioned images, by their ``item``. Returns: how many have other tags now."""
        change = {"add": list(add), "remove": list(remove)}
        return self._change_items(v1("datasets", name, "tags"), "items", items, change)

    def dataset_image(self, name: str, image: str) -> bytes:
        return self.read(f"{v1('datasets', name, 'images')}/{quote(image)}")

    def _change_items(
        self, path: str, key: str, items: Sequence[str], change: Json, on_progress: Progress | None = None
    ) -> int:
        """In requests of up to 256 items; after an error the items of the requests before it are changed."""
        changed = 0
        for start in range(0, len(items), ITEMS_PER_CHANGE):
            part = list(items[start : start + ITEMS_PER_CHANGE])
            changed += self.patch(path, {key: part, **change})["changed"]
            if on_progress is not None:
                on_progress(start + len(part), len(items))
        return changed


class CollectionCalls(DatasetCalls):
    def collections(self) -> list[Json]:
        return self.get(v1("collections"))["items"]

    def collection(self, id_or_name: str) -> Json:
        return self.get(v1("collections", id_or_name))

    def search(
        self,
        collection: str,
        *,
        text: str | None = None,
        image: bytes | None = None,
        vector: Sequence[float] | None = None,
        item: str | None = None,
        weights: Mapping[str, float] | None = None,
        target: str = "images",
        k: int = 20,
        where: Where | None = None,
        offset: int = 0,
        match: str = "both",
    ) -> Json:
        """Nearest items to a text, an image, a vector or an item, best first: {"hits": […], "read_as", "took_ms", …}.

        Args:
            item: id of an image or text of the collection.
            offset: hits to skip, those of earlier pages.
            match: what a text is compared with: ``looks`` of images, words of their ``captions``, or ``both``.
            weights: of the parts of a combined query, by name; default 1; negative: away from the part.
            where: {label: value or values}; of a number or a date {label: {"gte": 1990, "lt": 2000}}; of a set
                {label: {"all": ["red", "round"]}}, {"any": values} or {"none": values}.
        """
        image_url = None if image is None else data_url(image)
        body = without_none(text=text, image=image_url, vector=vector, item=item, weights=weights)
        body |= {"target": target, "k": k, "where": dict(where or {}), "offset": offset, "match": match}
        return self.post(v1("collections", collection, "search"), body, repeatable=True)

    def duplicates(self, collection: str, *, threshold: float = 0.95, offset: int = 0, limit: int = 20) -> Json:
        """Groups of near-duplicates, the largest first: {"groups": [{"size", "items"}], "total"}."""
        path = v1("collections", collection, "duplicates")
        return self.get(path, threshold=threshold, offset=offset, limit=limit)

    def items(self, collection: str, offset: int = 0, limit: int = 50) -> list[Json]:
        """Records of images, at most 200 at once."""
        return self.get(v1("collections", collection, "items"), offset=offset, limit=limit)["items"]

    def item(self, collection: str, item_id: str) -> Json:
        """The record of an image: captions, labels, split, source, image_url."""
        return self.get(v1("collections", collection, "items", item_id))

    def item_image(self, collection: str, item_id: str) -> bytes:
        return self.read(v1("collections", collection, "items", item_id, "image"))

    def add_items(self, collection: str, items: Sequence[Mapping[str, Any]], *, replace: bool = False) -> Json:
        """Add images, all or none: {"ids", "images": number of images afterwards}. A repeated call adds nothing.

        ``items``: {"image": bytes} with any of name (default: by its bytes), captions, labels, split, source.
        """
        body = {"items": [{**item, "image": data_url(item["image"])} for item in items], "replace": replace}
        return self.post(v1("collections", collection, "items"), body, repeatable=True)

    def change_labels(
        self,
        collection: str,
        item_ids: Sequence[str],
        *,
        labels: Mapping[str, str | Sequence[str] | None] | None = None,
        add: Mapping[str, Sequence[str]] | None = None,
        remove: Mapping[str, Sequence[str]] | None = None,
        on_progress: Progress | None = None,
    ) -> int:
        """Change labels of images; of each 256 all are changed or none. Returns: how many have other labels now.

        ``labels``: {label: value}, None removes it; ``add``, ``remove``: {label: members} of labels that are sets.
        """
        change = without_none(labels=labels, add=add, remove=remove)
        return self._change_items(v1("collections", collection, "items"), "ids", item_ids, change, on_progress)

    def remove_item(self, collection: str, item_id: str) -> None:
        self.remove(v1("collections", collection, "items", item_id))

    def delete_collection(self, id_or_name: str) -> None:
        """With its files; for its owner and admins."""
        self.remove(v1("collections", id_or_name))

    def export_collection(self, id_or_name: str, path: str | Path, target: str = "images") -> Path:
        """Write records and vectors of all current items to ``path``, as JSON lines."""
        return self.download(v1("collections", id_or_name, "export"), path, params={"target": target})

    def collection_map_file(self, collection: str, limit: int = 50_000, method: str = "tsne") -> bytes:
        """Map of up to 100,000 images by ``tsne`` or ``pca``, as safetensors: ``points``, ``ids``, ``label.NAME``."""
        return self.read(v1("collections", collection, "map.safetensors"), limit=limit, method=method)

    def vectors(self, collection: str, target: str = "images") -> tuple[list[str], list[list[float]]]:
        """All ids and their vectors, of one state of the collection."""
        pages = list(self.vector_pages(collection, target))
        return [id for page in pages for id in page["ids"]], [row for page in pages for row in page["vectors"]]

    def vector_pages(self, collection: str, target: str = "images") -> Generator[Json]:
        """{"ids", "vectors", "total"} of one page after the other, at least one, all of one state of the collection."""
        ids: list[str] = []
        rows: list[list[float]] = []
        with self.stream(v1("collections", collection, "export"), params={"target": target}) as response:
            total, rest = int(response.headers["x-total-count"]), b""
            for chunk in response.iter_bytes(1 << 20):
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    record = json.loads(line)
                    ids.append(record["id"])
                    rows.append(array("f", record["vector"]).tolist())
                    if len(ids) == VECTORS_PER_PAGE:
                        yield {"ids": ids, "vectors": rows, "total": total}
                        ids, rows = [], []
        if ids or not total:
            yield {"ids": ids, "vectors": rows, "total": total}


class Client(CollectionCalls, RunCalls, InferenceCalls):
    """Calls one service with one key. A context manager; safe to share."""

    def health(self) -> Json:
        """The response of ``/readyz``, also when not ready; ``loading``: calls that wait for an encoder."""
        return read_json(self.send("GET", "/readyz", expected=(503,)))

    def guide_file(self, path: str = "") -> httpx.Response:
        """A file of the documentation site, by default its first page. Raises: ApiError 404 where none is built."""
        return self.send("GET", f"/docs/guide/{quote(path)}")

    def status(self) -> Json:
        """{"ready", "version", "database", "checks", "workers", "slots", "runs": {state: number}}."""
        return self.get(v1("status"))

    def workers(self) -> list[Json]:
        return self.get(v1("workers"))["items"]

    def keys(self) -> list[Json]:
        return self.get(v1("keys"))["items"]

    def own_key(self) -> Json:
        """Owner, role and expiry of the key of this client."""
        return self.get(v1("keys", "mine"))

    def create_key(self, owner: str, role: str, expires: str | None = None) -> Json:
        """``role``: viewer, submitter or admin; ``expires``: ISO time. ``key`` of the response is shown only here."""
        return self.post(v1("keys"), {"owner": owner, "role": role, "expires": expires})

    def revoke_key(self, prefix: str) -> None:
        self.remove(v1("keys", prefix))

    def audit(self, **query: Any) -> Json:
        """{"items", "next_cursor"}: audit log, newest first; ``query``: owner, action, object, limit, cursor."""
        return self.get(v1("audit"), **query)

    def create_webhook(self, url: str, events: Sequence[str] = ()) -> Json:
        """``secret`` of the response is shown only here. ``events``: such as "run.failed"; default: every event."""
        return self.post(v1("webhooks"), without_none(url=url, events=list(events) or None))

    def webhooks(self) -> list[Json]:
        return self.get(v1("webhooks"))["items"]

    def deliveries(self, webhook_id: str) -> list[Json]:
        """The last messages to a webhook, newest first."""
        return self.get(v1("webhooks", webhook_id, "deliveries"))["items"]

    def delete_webhook(self, webhook_id: str) -> None:
        self.remove(v1("webhooks", webhook_id))
