"""Paths that lead elsewhere: traversal, symbolic links, and weights that are programs."""

from __future__ import annotations

from typing import Any

from tests.api.hostile.case import DATA, HOME, OWN, THEIRS, Case

ELSEWHERE = {
    "an absolute path": "/etc/passwd",
    "dots that climb": f"{DATA}/../../../../etc",
    "the service's key": f"{HOME}/key",
    "the service's database": f"{HOME}/lcl.db",
    "another owner's run": f"{HOME}/runs/{THEIRS}/artifacts",
    "the whole home": HOME,
    "a home's tilde": "~root/x",
    "a relative path": "../../etc/passwd",
    "a NUL": f"{DATA}/x\x00.jsonl",
    "an endless name": "/" + "a/" * 2040,
}
FEW = ("an absolute path", "another owner's run", "a relative path", "a NUL")
EVALUATE = {"encoder": "tiny", "transfer": ["frozen"]}
MODEL = "language_model"


def run(kind: str, spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "POST /v1/runs", {"kind": kind, "spec": spec}


def study(spec: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return "POST /v1/studies", {"spec": {"metrics": [{"name": "m", "metric": "IR@5"}], "evaluate": spec}}


def requested(task: str, own: dict[str, Any]) -> dict[str, Any]:
    return {**EVALUATE, "tasks": [task], task: own}


def _fields(path: str) -> dict[str, tuple[str, dict[str, Any]]]:
    """Every field of every request that takes a path on the server."""
    speaks = requested("captioning", {MODEL: {"path": path}})
    without = {name: value for name, value in speaks.items() if name != "encoder"}
    trained = {"instructions": [{"path": path, "images": DATA}]}
    return {
        "dataset.path": ("POST /v1/datasets", {"name": "x", "path": path}),
        "validate.path": ("POST /v1/datasets/validate", {"path": path}),
        "encoder.path": ("POST /v1/encoders", {"name": "x", "path": path}),
        "run validate.path": run("validate", {"path": path}),
        "run convert.path": run("convert", {"path": path, "name": "x"}),
        "run match.path": run("match", {"path": path, "name": "x", "encoder": "tiny"}),
        "captioning.language_model.path": run("evaluate", speaks),
        "dialogue.language_model.path": run("evaluate", requested("dialogue", {MODEL: {"path": path}})),
        "dialogue.instructions.path": run("evaluate", requested("dialogue", trained)),
        "dialogue.instructions.images": run(
            "evaluate", requested("dialogue", {"instructions": [{"path": DATA, "images": path}]})
        ),
        "study evaluate": study(without),
    }


def _traversal() -> list[Case]:
    return [
        Case("traversal", f"{field}: {what}", call, body)
        for what, path in ELSEWHERE.items()
        for field, (call, body) in _fields(path).items()
        if what in FEW or field in ("dataset.path", "encoder.path", "run convert.path")
    ]


ARTIFACTS = {
    "dots": "../run.json",
    "encoded dots": "%2e%2e/run.json",
    "encoded slashes": "..%2frun.json",
    "twice encoded": "%252e%252e%252frun.json",
    "backslashes": "..%5crun.json",
    "an absolute path": "/etc/passwd",
    "an encoded absolute path": "%2fetc%2fpasswd",
    "dots in the middle": "sub/../../run.json",
    "a dot": "./report.json",
    "an over-long UTF-8 slash": "..%c0%afrun.json",
    "an endless name": "a" * 4000,
}
NAMED = {
    "a dataset's image": "/v1/datasets/sample/images/..%2f..%2fkey",
    "a dataset's image, absolute": "/v1/datasets/sample/images//etc/passwd",
    "a dataset's name": "/v1/datasets/..%2f..%2fkey",
    "a run's name": "/v1/runs/..%2f..%2fkey/logs",
    "an encoder's name": "/v1/encoders/..%2f..%2fkey/export",
    "a collection's name": "/v1/collections/..%2fkey/items",
}
LINKS = {
    "a link to a folder outside": ("POST /v1/datasets", "out"),
    "a link to the home": ("POST /v1/datasets", "home"),
    "a link in the middle": ("POST /v1/datasets", "out/deep"),
    "a loop of links": ("POST /v1/datasets", "loop"),
    "a corpus whose file is a link": ("POST /v1/datasets", "linked-corpus"),
    "an encoder behind a link": ("POST /v1/encoders", "out"),
    "weights that are a link": ("POST /v1/encoders", "linked-weights"),
    "a configuration that is a link": ("POST /v1/encoders", "linked-config"),
    "a link, validated in place": ("POST /v1/datasets/validate", "out"),
}
WEIGHTS = (
    *("pytorch_model.bin", "model.pt", "model.pth", "model.ckpt", "model.pkl", "model.pickle", "model.joblib"),
    *("model.npy", "model.npz", "tf_model.h5", "flax_model.msgpack", "model.onnx", "model.pt2", "model.safetensors"),
)

CASES = [
    *_traversal(),
    *(
        Case("traversal", f"an artifact: {what}", f"GET /v1/runs/{OWN}/artifacts/{name}", status=(404,))
        for what, name in ARTIFACTS.items()
    ),
    Case("traversal", "an artifact: a NUL", f"GET /v1/runs/{OWN}/artifacts/x%00.json", status=(400,)),
    *(Case("traversal", what, f"GET {path}", status=(404,)) for what, path in NAMED.items()),
    *(
        Case("symbolic links", what, call, {"path": f"{DATA}/{name}", **({} if "validate" in call else {"name": "x"})})
        for what, (call, name) in LINKS.items()
    ),
    Case("symbolic links", "an artifact that is a link", f"GET /v1/runs/{OWN}/artifacts/leak", status=(404,)),
    Case("symbolic links", "an artifact below a link", f"GET /v1/runs/{OWN}/artifacts/up/key", status=(404,)),
    *(
        Case("pickles", f"weights in {name}", "POST /v1/encoders", {"name": "x", "path": f"{DATA}/pickled/{name}"})
        for name in WEIGHTS
    ),
    Case(
        "pickles",
        "a pickle as a request",
        "POST /v1/encoders",
        b"\x80\x04c__builtin__\neval\n.",
        {"Content-Type": "application/x-python-pickle"},
    ),
]
