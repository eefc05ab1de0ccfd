"""Names and what they stand for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.data.corpus.open import open_corpus
from lcl_core.db import datasets, registry
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.models import EncoderRow
from lcl_core.db.session import Database, now
from lcl_core.pretrained import pretrained_encoders
from lcl_core.specs.parsing import parse_spec


@pytest.fixture
def code_of() -> Callable[..., str]:
    """The code of the UserError that a call raises."""

    def call(function: Callable[..., Any], *arguments: Any) -> str:
        with pytest.raises(UserError) as caught:
            function(*arguments)
        return caught.value.code

    return call


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder that may hold corpora, with one in it, and one outside it."""
    (tmp_path / "data" / "corpus").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "private")
    return tmp_path / "data"


def test_a_dataset_is_registered_once_and_found_by_name(
    database: Database, root: Path, code_of: Callable[..., str]
) -> None:
    with database.session() as session:
        datasets.register_dataset(session, "corpus", root / "corpus", [root], "ada")
    with database.session() as session:
        assert Path(datasets.get_dataset(session, "corpus").path) == (root / "corpus").resolve()
        assert code_of(datasets.register_dataset, session, "corpus", root / "corpus", [root], "ada") == "dataset_exists"
        assert code_of(datasets.get_dataset, session, "corpse") == "unknown_dataset"
        assert [dataset.name for dataset in datasets.list_datasets(session)] == ["corpus"]


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("link", "path_forbidden"),
        ("../private", "path_forbidden"),
        ("/etc/passwd", "path_forbidden"),
        ("no", "missing_files"),
    ],
)
def test_a_path_outside_the_roots_is_refused(
    database: Database, root: Path, code_of: Callable[..., str], path: str, code: str
) -> None:
    with database.session() as session:
        assert code_of(datasets.register_dataset, session, "x", root / path, [root], "ada") == code
        assert datasets.list_datasets(session) == []


def test_the_sample_is_registered_at_every_start(database: Database) -> None:
    for _ in range(2):
        with database.session() as session:
            path = datasets.register_sample(session).path
            assert path.endswith("lcl_core/data/sample/drawings.zip")
            session.get_one(datasets.get_dataset(session, "sample").__class__, "sample").path = "/moved"
    with database.session() as session:
        assert datasets.register_sample(session).path == path


def test_the_contents_of_the_sample_are_known_from_the_first_start(database: Database) -> None:
    digest = open_corpus(datasets.sample_path()).content_hash()
    with database.session() as session:
        assert datasets.register_sample(session).content_hash == digest
        datasets.get_dataset(session, "sample").content_hash = None  # of an installation before
    with database.session() as session:
        assert datasets.register_sample(session).content_hash == digest


@pytest.mark.parametrize(
    ("path", "kept"), [("/moved/sample/drawings.zip", True), ("/here/sample/of-an-older-version.zip", False)]
)
def test_contents_of_the_sample_are_read_again_only_where_a_version_brings_others(
    database: Database, path: str, kept: bool
) -> None:
    with database.session() as session:
        sample = datasets.register_sample(session)
        sample.path, sample.content_hash, sample.statistics = path, "0" * 64, {"documents": 1}
    with database.session() as session:
        sample = datasets.register_sample(session)
        assert (sample.content_hash, sample.statistics is not None) == (
            "0" * 64 if kept else datasets.SAMPLE_HASH,
            kept,
        )
        assert sample.path == datasets.sample_path()


def test_of_encoders_with_one_name_the_newest_answers(database: Database, tmp_path: Path) -> None:
    with database.session() as session:
        for number in (1, 2):
            facts = {"path": f"encoders/enc_{number}", "hash": "0", "identity": "0", "owner": "local", "info": {}}
            session.add(EncoderRow(id=f"enc_{number}", name="mine", created_at=now(session), **facts))
    with database.reading() as session:
        assert registry.get_encoder(session, "mine").id == "enc_2"
        assert registry.get_encoder(session, "enc_1").id == "enc_1"


def test_inputs_become_paths(database: Database, root: Path, tmp_path: Path, code_of: Callable[..., str]) -> None:
    spec = parse_spec("evaluate", {"encoder": "mine", "dataset": "corpus"})
    with database.session() as session:
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "unknown_dataset"
        datasets.register_dataset(session, "corpus", root / "corpus", [root], "ada")
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "unknown_encoder"
        facts = {"path": "encoders/enc_1", "hash": "0", "identity": "0", "owner": "local", "info": {}}
        session.add(EncoderRow(id="enc_1", name="mine", created_at=now(session), **facts))
        session.flush()
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "missing_files"
        folder = tmp_path / "encoders" / "enc_1"
        folder.mkdir(parents=True)
        inputs = registry.resolve_inputs(session, spec, tmp_path, [root])
    assert inputs.encoders == {"mine": str(folder.resolve())}
    assert inputs.datasets == {"corpus": str((root / "corpus").resolve())}
    assert inputs.encoder_id == "enc_1"


def test_what_comes_with_the_product_is_read_in_the_own_installation(
    database: Database, tmp_path: Path, code_of: Callable[..., str]
) -> None:
    """Its rows have the paths of another machine's."""
    bundled, elsewhere = pretrained_encoders()[-1], "/srv/venv/lib/python3.99/site-packages/lcl_core"
    spec = parse_spec("evaluate", {"encoder": bundled.name, "dataset": "sample"})
    with database.session() as session:
        datasets.register_sample(session).path = f"{elsewhere}/data/sample/drawings.zip"
        facts = {
            "hash": bundled.hash,
            "identity": bundled.hash,
            "owner": datasets.PRODUCT_OWNER,
            "info": {},
            "created_at": now(session),
        }
        row = EncoderRow(id="enc_1", name=bundled.name, path=f"{elsewhere}/pretrained/{bundled.name}", **facts)
        session.add(row)
        session.flush()
        inputs = registry.resolve_inputs(session, spec, tmp_path)
        assert inputs.encoders == {bundled.name: str(bundled.directory)}
        assert inputs.datasets == {"sample": datasets.sample_path()}
        settings = Settings(home=tmp_path, artifacts="memory://bundled")
        assert Artifacts(settings).folder(session, row.path) == bundled.directory, "so does the api"
        row.path = f"{elsewhere}/pretrained/of-a-later-version"
        session.flush()
        with pytest.raises(UserError) as caught:
            registry.resolve_inputs(session, spec, tmp_path)
        assert (caught.value.code, str(caught.value.file)) == ("missing_files", row.path)


@pytest.mark.parametrize("stored", ["/data/corpora/lcl_core/words.zip", "encoders/enc_1", "/data/pretrained/drawings"])
def test_other_paths_stay_as_they_are(tmp_path: Path, stored: str) -> None:
    assert registry.bundled_path(stored) is None
    assert registry.absolute_path(tmp_path, stored) == tmp_path.resolve() / stored


def test_a_tokenizer_lies_in_the_data_roots(
    database: Database, root: Path, tmp_path: Path, code_of: Callable[..., str]
) -> None:
    for name, code in ((root / "link", "path_forbidden"), (tmp_path / "private", "path_forbidden"),
                       ("../private", "path_forbidden"), ("runs/run_1/tokenizer.json", "path_forbidden"),
                       ("~/tokenizer.json", "path_forbidden"),
                       (root / "gone.json", "missing_files"), (root / "corpus", "unknown_dataset")):  # fmt: skip
        spec = parse_spec("pretrain", {"tokenizer": {"path": str(name)}})
        with database.session() as session:
            assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == code


def test_a_dataset_that_became_a_link_or_lost_its_root_is_not_read(
    database: Database, root: Path, tmp_path: Path, code_of: Callable[..., str]
) -> None:
    spec = parse_spec("validate", {"dataset": "corpus"})
    with database.session() as session:
        datasets.register_dataset(session, "corpus", root / "corpus", [root], "ada")
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [tmp_path / "private"]) == "path_forbidden"
        (root / "corpus").rmdir()
        (root / "corpus").symlink_to(tmp_path / "private")
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "path_forbidden"


def test_the_sample_is_read_where_this_installation_has_it(database: Database, tmp_path: Path) -> None:
    with database.session() as session:
        here = datasets.register_sample(session).path
        datasets.get_dataset(
            session, "sample"
        ).path = "/elsewhere/lcl_core/data/sample/drawings.zip"  # as another has it
        inputs = registry.resolve_inputs(session, parse_spec("validate", {"dataset": "sample"}), tmp_path, [])
    assert inputs.datasets == {"sample": here}


def test_the_store_loads_neither_torch_nor_the_readers_nor_celery() -> None:
    modules = [f"lcl_core.db.{path.stem}" for path in Path(registry.__file__).parent.glob("*.py")]
    code = f"import sys, {', '.join(modules)}; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'sqlalchemy'" in loaded
    assert not [name for name in ("'torch'", "'lcl_core.data'", "'celery'", "'alembic'") if name in loaded]
