"""Routes beside the page, answered through the API: images, maps, vectors, studies, files of runs, the guide."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import chain
from pathlib import PurePosixPath
from typing import Annotated
from urllib.parse import quote

import httpx
import numpy as np
from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse

from api.client import ApiError, Client
from ui.security import RequestPlaces

Page = tuple[Sequence[str], Sequence[Sequence[float]]]  # names of images, and their vectors
Writer = Callable[[int, Iterable[Page]], Iterator[bytes]]


def as_npy(total: int, pages: Iterable[Page]) -> Iterator[bytes]:
    """float32 [total, dim] for ``numpy.load``, without the names. Raises: ValueError for another number of vectors."""
    written = 0
    for _, vectors in pages:
        rows = np.asarray(vectors, dtype="<f4")
        if not written:
            out, shape = io.BytesIO(), (total, rows.shape[1] if rows.ndim == 2 else 0)
            np.lib.format.write_array_header_1_0(out, {"descr": "<f4", "fortran_order": False, "shape": shape})
            yield out.getvalue()
        written += len(rows)
        yield rows.tobytes()
    if written != total:
        raise ValueError(f"{written} vectors came and {total} were announced: the download is incomplete")


def as_csv(total: int, pages: Iterable[Page]) -> Iterator[bytes]:
    """``name,v0,v1,…``, one line an image."""
    headed = False
    for names, vectors in pages:
        out = io.StringIO()
        writer = csv.writer(out)
        if not headed:
            writer.writerow(["name", *(f"v{i}" for i in range(len(vectors[0]) if vectors else 0))])
            headed = True
        writer.writerows([name, *(f"{value:.7g}" for value in row)] for name, row in zip(names, vectors, strict=True))
        yield out.getvalue().encode()


FORMATS: dict[str, tuple[Writer, str]] = {
    "npy": (as_npy, "application/octet-stream"),
    "csv": (as_csv, "text/csv; charset=utf-8"),
}


IMAGE_SIGNATURES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif", b"RIFF": "image/webp"}
AVIF_BRANDS = (b"ftypavif", b"ftypavis")  # after four bytes of length
UNREADABLE_IMAGE_SVG = """<svg xmlns="http://www.w3.org/2000/svg" width="150" height="104" viewBox="0 0 150 104">
<rect x="1" y="1" width="148" height="102" rx="8" fill="#fdeae7" stroke="#f3b8ae" stroke-dasharray="5 4"/>
<path d="M58 58l12-15 10 11 6-7 11 11M58 28h39v34H58z" fill="none" stroke="#b42318" stroke-width="2.5"/>
<path d="M52 68l51-46" stroke="#b42318" stroke-width="2.5"/>
<text x="75" y="88" font-family="sans-serif" font-size="11.5" text-anchor="middle" fill="#b42318">cannot be read</text>
</svg>"""
MAX_READS, MAX_WAITING_READS = (
    8,
    64,
)  # of one key, of the 40 threads of routes: a browser asks for a hundred images at once
MAX_DOWNLOADS = 8  # streamed ones of one key: each holds one of the page's connections to the service
GUIDE_HEADERS = ("content-type", "content-security-policy", "cache-control")
MAP_IMAGES = 10_000  # of a map: as many as an index run arranges, and as are drawn while they move
DATASET_IMAGE_SECONDS = 3600  # that a browser keeps an image of a dataset
ITEM_SECONDS = 300  # that it keeps an image or caption of a collection, which may be replaced under the same id


def image_media_type(data: bytes) -> str:
    """Media type by the first bytes; other content is never shown by a browser."""
    if data[4:12] in AVIF_BRANDS:
        return "image/avif"
    return next(
        (kind for start, kind in IMAGE_SIGNATURES.items() if data.startswith(start)), "application/octet-stream"
    )


def _resources() -> Iterator[ExitStack]:
    """What a response needs until it has been sent, or the browser has left."""
    with ExitStack() as resources:
        yield resources


Resources = Annotated[ExitStack, Depends(_resources)]


def build_file_routes(client: Client) -> APIRouter:
    """Routes beside the page, of an application with ``error_response``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:  # waits for no thread: others may wait for the service in all of them
        return {"status": "ok"}

    router.include_router(_reads(client), dependencies=[Depends(RequestPlaces(MAX_READS, MAX_WAITING_READS))])
    router.include_router(_downloads(client), dependencies=[Depends(RequestPlaces(MAX_DOWNLOADS))])
    return router


def _reads(client: Client) -> APIRouter:
    router = APIRouter()

    @router.get("/loading")
    def loading() -> dict[str, int]:
        """Calls to the service that wait for an encoder; 0 also where the service does not answer."""
        try:
            return {"encoders": client.health().get("loading", 0)}
        except ApiError:
            return {"encoders": 0}

    @router.get("/media/{collection}/{item}")
    def item_image(collection: str, item: str) -> Response:
        return _image_response(lambda: client.item_image(collection, item), ITEM_SECONDS)

    @router.get("/item/{collection}/{item}")
    def item_caption(collection: str, item: str) -> Response:
        caption = client.item(collection, item)["caption"]
        return JSONResponse({"caption": caption}, headers=_cached_headers(ITEM_SECONDS))

    @router.get("/map/{collection}")
    def map_file(collection: str, method: str = "tsne") -> Response:
        file = client.collection_map_file(collection, limit=MAP_IMAGES, method=method)
        return Response(file, media_type="application/octet-stream")

    @router.get("/corpus/{dataset}/{image:path}")
    def dataset_image(dataset: str, image: str) -> Response:
        return _image_response(lambda: client.dataset_image(dataset, image), DATASET_IMAGE_SECONDS, placeholder=True)

    @router.get("/docs/guide")
    def guide_without_slash() -> Response:
        return RedirectResponse("guide/")  # relative: behind a gateway the page may be below a path

    @router.get("/docs/guide/{path:path}")
    def guide(path: str) -> Response:
        """A file of the documentation site with the content security policy that the service gives it."""
        file = client.guide_file(path)
        headers = {name: file.headers[name] for name in GUIDE_HEADERS if name in file.headers}
        return Response(file.content, headers=headers)

    return router


def _downloads(client: Client) -> APIRouter:
    router = APIRouter()

    @router.get("/study/{study}/table.{kind}")
    def study_table(study: str, kind: str) -> Response:
        return _attachment([client.study_table(study, kind)], f"table.{kind}")

    @router.get("/encoder/{encoder}/README.md")
    def model_card(encoder: str) -> Response:
        return _attachment([client.encoder_card(encoder)["readme"]], "README.md", "text/markdown")

    @router.get("/encoder/{encoder}/{format}.tar")
    def exported(encoder: str, format: str, resources: Resources) -> Response:
        file = resources.enter_context(client.encoder_archive(encoder, format))
        return _attachment(file.iter_bytes(), f"{encoder}-{format}.tar", "application/x-tar", file)

    @router.get("/artifacts/{run}/{name:path}")
    def artifact(run: str, name: str, resources: Resources) -> Response:
        file = resources.enter_context(client.artifact_stream(run, name))
        return _attachment(file.iter_bytes(), PurePosixPath(name).name, answer=file)

    @router.get("/vectors/{collection}.{kind}")
    def vectors(collection: str, kind: str, resources: Resources) -> Response:
        if kind not in FORMATS:
            message = f"format {kind!r} is not known; choose from {', '.join(FORMATS)}"
            raise ApiError(404, "not_found", message)
        write, media_type = FORMATS[kind]
        pages = resources.enter_context(closing(client.vector_pages(collection)))
        first = next(pages)
        rows = ((page["ids"], page["vectors"]) for page in chain([first], pages))
        return _attachment(write(first["total"], rows), f"vectors.{kind}", media_type)

    return router


def _cached_headers(seconds: int) -> dict[str, str]:
    """``seconds``: for which the browser of this visitor keeps the answer."""
    return {"cache-control": f"private, max-age={seconds}"}


def _image_response(read: Callable[[], bytes], seconds: int, placeholder: bool = False) -> Response:
    """An image that browsers keep for ``seconds``. ``placeholder``: in place of one that is missing or unreadable."""
    try:
        data = read()
    except ApiError as error:
        if not placeholder or error.status not in (404, 422):
            raise
        return Response(UNREADABLE_IMAGE_SVG, media_type="image/svg+xml")
    return Response(data, media_type=image_media_type(data), headers=_cached_headers(seconds))


def error_response(_: Request, error: ApiError) -> Response:
    """Of the application: an error of the service is passed on."""
    return PlainTextResponse(error.message, status_code=error.status or 502)


def _attachment(
    chunks: Iterable[str | bytes],
    name: str,
    media_type: str = "application/octet-stream",
    answer: httpx.Response | None = None,
) -> Response:
    """A download, streamed; as long as the service's ``answer``, if it says how long that is."""
    headers = {"content-disposition": f'attachment; filename="{quote(name)}"'}
    if answer is not None and "content-length" in answer.headers:
        headers["content-length"] = answer.headers["content-length"]
    return StreamingResponse(chunks, headers=headers, media_type=media_type)
