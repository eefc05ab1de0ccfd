"""The Celery application of a worker: JSON only, early acknowledgement, no results, no remote control."""

from __future__ import annotations

from celery import Celery

from lcl_core.runs.doorbell import producer_app


def consumer_app(broker_url: str, slots: int) -> Celery:
    """An application whose tasks take milliseconds: no run lives in a message, so none is lost with one."""
    app = producer_app(broker_url)
    app.conf.update(
        enable_utc=True,
        timezone="UTC",
        result_backend=None,
        task_acks_late=False,
        worker_pool="threads",
        worker_concurrency=slots + 1,
        worker_prefetch_multiplier=1,
        worker_send_task_events=False,
        worker_enable_remote_control=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry=True,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # forever
    )
    return app
