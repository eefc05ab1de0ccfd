"""One file a resource. A handler asks its dependencies, calls one function, and gives a model back."""

from api.routes import (
    captions,
    collections,
    datasets,
    embeddings,
    encoders,
    health,
    keys,
    run_files,
    runs,
    specs,
    workers,
)

ROUTERS = tuple(
    module.router
    for module in (
        runs,
        run_files,
        specs,
        datasets,
        encoders,
        embeddings,
        captions,
        collections,
        workers,
        keys,
        health,
    )
)
