"""The addresses of secrets.example.env lead to servers over TLS, and only to those whose certificate is right.

The servers are real, on unix sockets; in front of each stands a door that speaks TLS.
"""

import socket
import ssl
import threading
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme
from sqlalchemy import make_url, text
from sqlalchemy.exc import DBAPIError

from deploy.embedded_redis import EmbeddedBroker
from deploy.process import LOOPBACK
from lcl_core.db.session import create_engines
from lcl_core.db.wakeup import WakeupProducer

pytestmark = pytest.mark.extended

EXAMPLE = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes" / "secrets.example.env"
ADDRESSES = dict(
    line.split("=", 1) for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line.startswith("LCL_")
)
MOUNTED = "/etc/lcl/ca/ca.crt"
POSTGRES_ASKS_FOR_TLS = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")  # SSLRequest


@contextmanager
def tls_door(server, certificate, postgres=False):
    """The port of a server that speaks TLS and passes everything on to a unix socket."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    listener = socket.create_server((LOOPBACK, 0))
    opened = [listener]

    def pass_on(source, target):
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)

    def receive(plain):
        opened.append(plain)
        with suppress(OSError):  # ssl.SSLError too: the client did not like the certificate
            if postgres:
                if plain.recv(8) != POSTGRES_ASKS_FOR_TLS:
                    plain.close()  # in the clear: nobody is passed on
                    return
                plain.sendall(b"S")
            inner = context.wrap_socket(plain, server_side=True)
            outer = socket.socket(socket.AF_UNIX)
            outer.connect(str(server))
            opened.extend((inner, outer))
            threading.Thread(target=pass_on, args=(outer, inner), daemon=True).start()
            pass_on(inner, outer)

    def accept():
        with suppress(OSError):
            while True:
                threading.Thread(target=receive, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener.getsockname()[1]
    for each in opened:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


def address(name, host, port, trusted, folder, password=""):
    """As the example has it, with this server, this password and this authority."""
    file = folder / "ca.crt"
    trusted.cert_pem.write_to_path(file)
    given = ADDRESSES[name]
    parts = urlsplit(given)
    assert MOUNTED in given
    given = given.replace(MOUNTED, str(file)).replace(f"{parts.hostname}:{parts.port}", f"{host}:{port}")
    return given.replace(":PASSWORD@", f":{password}@" if password else "@").replace("//@", "//")


CASES = pytest.mark.parametrize(
    ("host", "own_authority", "connects"),
    [("localhost", True, True), (LOOPBACK, True, False), ("localhost", False, False)],
    ids=["right", "another name", "another authority"],
)


@CASES
def test_the_brokers_certificate_is_checked(tmp_path, authority, host, own_authority, connects):
    trusted = authority if own_authority else trustme.CA()
    certificate = authority.issue_cert("localhost")
    with EmbeddedBroker(tmp_path / "home") as broker, tls_door(broker.socket, certificate) as port:
        assert WakeupProducer(address("LCL_BROKER_URL", host, port, trusted, tmp_path)).wake("run_x") is connects


@CASES
def test_the_databases_certificate_is_checked(tmp_path, authority, postgres_server, host, own_authority, connects):
    trusted = authority if own_authority else trustme.CA()
    real = make_url(postgres_server)
    folder = real.query["host"]
    assert isinstance(folder, str)
    (server,) = [file for file in Path(folder).glob(".s.PGSQL.*") if file.suffix != ".lock"]
    with tls_door(server, authority.issue_cert("localhost"), postgres=True) as port:
        url = make_url(address("LCL_DATABASE_URL", host, port, trusted, tmp_path))
        url = url.set(username=real.username, password=real.password, database=real.database)
        reader, writer = create_engines(url.render_as_string(hide_password=False))
        said = "nothing"
        try:
            with closing(reader.connect()) as connection:
                assert connection.execute(text("SELECT 1")).scalar_one() == 1
        except DBAPIError as error:
            said = str(error)
        finally:
            reader.dispose()
            writer.dispose()
        assert said == "nothing" if connects else "certificate" in said
