"""One file a resource. A handler declares its dependencies, calls one function, and returns a model."""

from api.routes import (
    audit,
    collections,
    datasets,
    encoders,
    garbage,
    health,
    inference,
    keys,
    quotas,
    runs,
    specs,
    studies,
    webhooks,
    workers,
)

ROUTERS = tuple(
    module.router
    for module in (
        runs,
        specs,
        studies,
        datasets,
        encoders,
        inference,
        collections,
        workers,
        keys,
        webhooks,
        audit,
        garbage,
        quotas,
        health,
    )
)
