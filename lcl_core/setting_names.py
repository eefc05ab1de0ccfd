"""The names of all ``LCL_*`` variables, so that a misspelt one is told instead of having no effect.

A process knows only the settings of its own, but shares the environment with others: hence one list. A test compares it
with the classes of settings.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from lcl_core.errors import UserError

PREFIX = "LCL_"
EVERY_PROCESS = """
    ARTIFACTS ARTIFACTS_CACHE_BYTES BROKER_URL CANCEL_GRACE_SECONDS DATABASE_URL DATA_CACHE DATA_CACHE_BYTES DATA_ROOTS
    GC_GRACE_SECONDS HEARTBEAT_SECONDS HOME LEASE_SECONDS LOG_FORMAT TEAM WEBHOOK_HOSTS WEBHOOK_SECRET WELCOME
"""
API = """
    ADMIN_KEY API_HOST API_PORT API_SOCKET BODY_BYTES_AT_ONCE BODY_SECONDS BYTES_PER_OWNER DATABASE_PATIENCE_SECONDS
    DUPLICATES_SECONDS ENCODER_MEMORY_BYTES EVENT_POLL_SECONDS EVENT_STREAM_SECONDS EXPORT_SECONDS HEAD_SECONDS
    IMAGE_MEMORY_BYTES IMAGE_WAIT_SECONDS INFERENCE_PRECISION KEY_PEPPER MAX_BODY_BYTES MAX_CONNECTIONS
    MAX_EXPORT_BYTES MAX_IMAGE_BYTES MAX_IMAGE_PIXELS MAX_INPUTS MAX_JSON_DEPTH MAX_MEDIA_BODY_BYTES
    MAX_REQUEST_PIXELS MAX_TEXT_CHARACTERS QUEUED_RUNS_PER_OWNER REQUESTS_AT_ONCE REQUESTS_PER_MINUTE
    STREAMS_AT_ONCE TEXTS_APART WRITING_SECONDS
"""
WORKER = """
    GANG_SECONDS GC_SECONDS PING_SECONDS REAP_SECONDS WATCH_SECONDS WORKER_ADDRESS WORKER_OFFERS WORKER_SLOTS
"""
PAGE = """
    UI_ALL_UPLOADS UI_FORWARDED_ALLOW_IPS UI_HOST UI_HOSTS UI_MAX_UPLOAD UI_MAX_UPLOAD_REQUEST UI_PORT UI_ROOT_PATH
    UI_SESSION_HOURS UI_SESSION_UPLOADS UI_SOCKET UI_TOKEN
"""
CLIENT = "API_KEY API_URL"
COMPOSE = """
    API_CPUS API_MEMORY DATA GPUS GRAFANA_PORT IMAGE METRICS_RETENTION PORT POSTGRES_CPUS POSTGRES_MEMORY S3_ROOT
    SHM_SIZE UI_MEMORY WORKER_CPUS WORKER_MEMORY
"""
WITHIN_A_RUN = "MEETING NODE NODES SUPERVISED"
TESTS = "CHROMIUM SCREENSHOTS SCREENSHOTS_URL TEST_COMPILE"
KNOWN = frozenset(
    PREFIX + word
    for group in (EVERY_PROCESS, API, WORKER, PAGE, CLIENT, COMPOSE, WITHIN_A_RUN, TESTS)
    for word in group.split()
)
# SequenceMatcher's ratio: one letter more, less or other in a name of ten letters gives .9 and more
_CLEARLY_MEANT = 0.87


def check_names(environment: Mapping[str, str]) -> list[str]:
    """Look for ``LCL_*`` variables that no setting has.

    Returns: a warning for each that resembles no setting; it may be somebody else's.
    Raises: UserError ``bad_setting`` for one that was clearly meant to be a setting, naming both.
    """
    warnings = []
    for name in sorted(name for name in environment if name.upper().startswith(PREFIX)):
        if name.upper() in KNOWN:
            continue
        meant = difflib.get_close_matches(name.upper(), sorted(KNOWN), n=1, cutoff=_CLEARLY_MEANT)
        if meant:
            raise UserError(f"{name} is not a setting; did you mean {meant[0]}?", code="bad_setting")
        warnings.append(f"{name} is not a setting and has no effect; docs/operations.md lists the settings")
    return warnings
