"""Names and what they stand for."""

import subprocess
import sys
from pathlib import Path

import pytest

from lcl_core.common.errors import UserError
from lcl_core.common.settings import Settings
from lcl_core.data.corpus.open import open_corpus
from lcl_core.db import datasets, registry
from lcl_core.db.artifacts import Artifacts
from lcl_core.db.models import EncoderRow
from lcl_core.db.session import now
from lcl_core.pretrained import pretrained_encoders
from lcl_core.specs.parsing import parse_spec


@pytest.fixture
def code_of():
    """The code of the UserError that a call raises."""

    def call(function, *arguments):
        with pytest.raises(UserError) as caught:
            function(*arguments)
        return caught.value.code

    return call


@pytest.fixture
def root(tmp_path):
    """A folder that may hold corpora, with one in it, and one outside it."""
    (tmp_path / "data" / "corpus").mkdir(parents=True)
    (tmp_path / "private").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "private")
    return tmp_path / "data"


def test_the_contents_of_the_sample_are_known_from_the_first_start(database):
    digest = open_corpus(datasets.sample_path()).content_hash()
    with database.session() as session:
        assert datasets.register_sample(session).content_hash == digest


def test_of_encoders_with_one_name_the_newest_answers(database, tmp_path):
    with database.session() as session:
        for number in (1, 2):
            facts = {"path": f"encoders/enc_{number}", "hash": "0", "identity": "0", "owner": "local", "info": {}}
            session.add(EncoderRow(id=f"enc_{number}", name="mine", created_at=now(session), **facts))
    with database.reading() as session:
        assert registry.get_encoder(session, "mine").id == "enc_2"
        assert registry.get_encoder(session, "enc_1").id == "enc_1"


def test_inputs_become_paths(database, root, tmp_path, code_of):
    spec = parse_spec("evaluate", {"encoder": "mine", "dataset": "corpus"})
    with database.session() as session:
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "not_found"
        datasets.register_dataset(session, "corpus", root / "corpus", [root], "ada")
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "not_found"
        facts = {"path": "encoders/enc_1", "hash": "0", "identity": "0", "owner": "local", "info": {}}
        session.add(EncoderRow(id="enc_1", name="mine", created_at=now(session), **facts))
        session.flush()
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "file_missing"
        folder = tmp_path / "encoders" / "enc_1"
        folder.mkdir(parents=True)
        inputs = registry.resolve_inputs(session, spec, tmp_path, [root])
    assert inputs.encoders == {"mine": str(folder.resolve())}
    assert inputs.datasets == {"corpus": str((root / "corpus").resolve())}
    assert inputs.encoder_id == "enc_1"


def test_what_comes_with_the_product_is_read_in_the_own_installation(database, tmp_path, code_of):
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
        assert (caught.value.code, str(caught.value.file)) == ("file_missing", row.path)


def test_a_dataset_that_became_a_link_or_lost_its_root_is_not_read(database, root, tmp_path, code_of):
    spec = parse_spec("validate", {"dataset": "corpus"})
    with database.session() as session:
        datasets.register_dataset(session, "corpus", root / "corpus", [root], "ada")
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [tmp_path / "private"]) == "invalid_value"
        (root / "corpus").rmdir()
        (root / "corpus").symlink_to(tmp_path / "private")
        assert code_of(registry.resolve_inputs, session, spec, tmp_path, [root]) == "invalid_value"


def test_the_store_loads_neither_torch_nor_the_readers_nor_celery():
    modules = [f"lcl_core.db.{path.stem}" for path in Path(registry.__file__).parent.glob("*.py")]
    code = f"import sys, {', '.join(modules)}; print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'sqlalchemy'" in loaded
    assert not [name for name in ("'torch'", "'lcl_core.data'", "'celery'", "'alembic'") if name in loaded]
