"""A real PgBouncer in transaction mode, in front of a PostgreSQL server on a unix socket."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from sqlalchemy import make_url

SERVER_CONNECTIONS = 2
_START_SECONDS = 60.0
_CONFIGURATION = """
[databases]
{name} = host={host} port={server_port} dbname={name} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {connections}
max_prepared_statements = 0
"""


@contextmanager
def pgbouncer(database_url: str, folder: Path) -> Iterator[str]:
    """The URL of the same database through PgBouncer. Skipped where PgBouncer is not installed."""
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        pytest.skip("PgBouncer is not installed (Debian: apt install pgbouncer)")
    url = make_url(database_url)
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    host = str(url.query.get("host") or url.host)
    with tempfile.TemporaryDirectory(prefix="lcl-pgbouncer-") as private:
        # not in the test's folder: root's runs as the user of the server, who may lack access
        os.chmod(private, 0o755)
        configuration = Path(private) / "pgbouncer.ini"
        configuration.write_text(
            _CONFIGURATION.format(
                name=url.database,
                host=host,
                server_port=url.port or 5432,
                user=url.username,
                port=port,
                connections=SERVER_CONNECTIONS,
            )
        )
        user = ["-u", Path(host).owner()] if os.geteuid() == 0 else []
        with (folder / "pgbouncer.log").open("wb") as log:
            process = subprocess.Popen([program, *user, str(configuration)], stdout=log, stderr=log)
        try:
            _await_port(process, port, folder / "pgbouncer.log")
            yield url.set(host="127.0.0.1", port=port, query={}).render_as_string(hide_password=False)
        finally:
            process.kill()
            process.wait()


def _await_port(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        assert process.poll() is None, log.read_text()
        with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), timeout=1.0)):
            return
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
