"""A real service on SQLite and a free port, a key of each role, and runs in any state."""

import socket
import sys
from io import StringIO

import pytest
import structlog

from api.cli import main
from api.core.settings import ApiSettings
from api.services import encoders, request_images
from api.services import runs as run_services
from api.services.state import AppState
from tests.api.sample_assets import images_by_colour, make_collection, save_encoder
from tests.api.service_fixture import ServiceFixture, serve_app


@pytest.fixture(scope="session", autouse=True)
def _logs():
    """The service's log goes where pytest keeps it, not among what a command prints."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.stdlib.render_to_log_kwargs],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture(scope="session", autouse=True)
def _quick_polls_and_small_bounds():
    run_services.POLL_SECONDS = 0.02
    encoders.MAX_INPUTS, encoders.MAX_TEXT_CHARACTERS = 8, 500
    request_images.MAX_IMAGE_BYTES, request_images.MAX_IMAGE_PIXELS = 100_000, 250_000
    request_images.MAX_REQUEST_PIXELS = 600_000


@pytest.fixture(scope="session")
def serve():
    """``with serve(settings) as url``: the application in a thread of this process."""
    return serve_app


@pytest.fixture(scope="session")
def house_of():
    """``House`` itself, for a service on other settings."""
    return ServiceFixture


@pytest.fixture(scope="module")
def data_root(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def live_service(tmp_path_factory, data_root):
    home = tmp_path_factory.mktemp("home")
    settings = ApiSettings(
        home=home,
        data_roots=[data_root],
        webhook_hosts=["hooks.example.org"],
        _env_file=None,
    )
    with serve_app(settings) as url:
        context = AppState(settings)
        live_service = ServiceFixture(url, home, context, (home / "key").read_text().strip())
        yield live_service
        live_service.admin.close()
        context.close()


@pytest.fixture
def http(live_service):
    with live_service.http() as client:
        yield client


@pytest.fixture
def lcl(live_service, monkeypatch, capsys):
    """``lcl ARGUMENTS…`` in this process: exit status, standard output, standard error."""
    monkeypatch.setenv("LCL_API_URL", live_service.url)
    monkeypatch.setenv("LCL_API_KEY", live_service.keys["admin"])

    def run(*arguments, stdin=""):
        monkeypatch.setattr(sys, "argv", ["lcl", *arguments])
        monkeypatch.setattr(sys, "stdin", StringIO(stdin))
        try:
            main()
        except SystemExit as left:
            status = left.code
        else:
            status = 0
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return int(status or 0), out, err

    return run


@pytest.fixture
def refused():
    """Check that an answer is an error in the one form; its facts."""

    def check(response, status, code=None, field=None):
        assert response.status_code == status, response.text
        facts = response.json()["error"]
        assert set(facts) - {"field"} == {"code", "message", "type", "param"}
        assert facts["message"]
        assert facts["type"].endswith("_error")
        assert facts["param"] == facts.get("field")
        assert "Traceback" not in response.text
        if code is not None:
            assert facts["code"] == code
        if field is not None:
            assert facts["field"] == field
        return facts

    return check


@pytest.fixture(scope="module")
def encoder_dir(data_root):
    return save_encoder(data_root / "tiny-encoder")


@pytest.fixture(scope="module")
def encoder(live_service, encoder_dir):
    """An encoder named ``tiny``, imported over REST."""
    return live_service.admin.import_encoder("tiny", str(encoder_dir))


@pytest.fixture(scope="session")
def sample_images():
    """PNG files by the name of their colour."""
    return images_by_colour()


@pytest.fixture(scope="module")
def collection(live_service, encoder, encoder_dir, sample_images):
    """What an index run of the four images makes, registered as a worker registers it."""
    return make_collection(live_service, encoder, encoder_dir, sample_images)


@pytest.fixture
def free_port():
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
