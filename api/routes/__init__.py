"""One file a resource. A handler asks its dependencies, calls one function, and gives a model back."""

from api.routes import (
    attention,
    audit,
    captions,
    collection_items,
    collections,
    continuations,
    datasets,
    embeddings,
    encoders,
    garbage,
    health,
    keys,
    quotas,
    run_files,
    runs,
    specs,
    studies,
    study_files,
    webhooks,
    workers,
)

ROUTERS = tuple(
    module.router
    for module in (
        runs,
        run_files,
        specs,
        studies,
        study_files,
        datasets,
        encoders,
        embeddings,
        captions,
        continuations,
        attention,
        collections,
        collection_items,
        workers,
        keys,
        webhooks,
        audit,
        garbage,
        quotas,
        health,
    )
)
