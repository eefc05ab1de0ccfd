"""Files behind a URL give the records of the same files on disk; the local cache is shared, bounded and checked."""

import pickle

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from lcl_core.common.errors import UserError
from lcl_core.data.corpus.open import open_source
from lcl_core.data.formats import open_reader
from lcl_core.data.formats.base import FilesReader
from lcl_core.data.formats.remote_files import open_remote_files
from lcl_core.data.records import BadItem, Record
from lcl_core.data.shards.convert import convert_parts
from lcl_core.data.validation.validate import validate
from lcl_core.specs.corpus_jobs import REMOTE_FORMATS, ConvertSpec
from tests.lcl_core.data.expected_corpora import LAYOUTS
from tests.lcl_core.data.shards.part_sources import contents

TABLE = "image,caption\nx.png,an x\n"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "files"


@pytest.fixture(params=["memory", "file", "s3"])
def url(request, tmp_path):
    if request.param == "s3":
        return f"{request.getfixturevalue('s3_bucket')}/team/corpus"
    return f"memory://{tmp_path.name}/corpus" if request.param == "memory" else f"file://{tmp_path}/far/corpus"


def upload(path, url):
    files, root = fsspec.core.url_to_fs(url)
    files.makedirs(root.rpartition("/")[0], exist_ok=True)
    files.pipe_file(root, path.read_bytes())


def upload_corpus(reader, root, url):
    """The files of a corpus with their side files and those that several share, without images."""
    assert isinstance(reader, FilesReader)
    for path in [*reader.paths(), *(root / name for name in reader.shared_files)]:
        for each in {path, path.with_suffix(".parquet")}:
            if each.is_file():
                upload(each, f"{url}/{each.relative_to(root).as_posix()}")


def remote(make, sample, layout, url):
    """The reader of a layout on disk, and that of its files behind the URL; images stay on disk."""
    format, write = LAYOUTS[layout]
    truth = write(make, sample)
    root = truth.path or make.root
    options = dict(truth.options)
    beside = root / "images" if (root / "images").is_dir() else root if format == "table" else None
    if beside is not None:
        options.setdefault("images", beside)
    reader = open_reader(root, format, **options)
    upload_corpus(reader, root, url)
    return reader, open_remote_files(url, format, options)


LAYOUT_NAMES = [name for name, (format, _) in LAYOUTS.items() if format in REMOTE_FORMATS]


@pytest.mark.parametrize("layout", LAYOUT_NAMES)
def test_they_give_the_records_and_shards_of_the_files_on_disk(make, sample, layout, tmp_path):
    reader, far = remote(make, sample, layout, f"memory://{tmp_path.name}/corpus")
    assert [_content(item) for item in far.records()] == [_content(item) for item in reader.records()]
    for name, source in (("near", reader), ("far", far)):
        convert_parts(source, tmp_path / name, tmp_path / f"work {name}", 20_000, part_items=2)
    assert contents(tmp_path / "far") == contents(tmp_path / "near")


def test_every_storage_is_read(make, sample, url, tmp_path):
    reader, far = remote(make, sample, "WebDataset", url)
    assert [_content(item) for item in far.records()] == [_content(item) for item in reader.records()]
    assert validate(far) == validate(reader)


def test_processes_share_the_download(make, sample, cache, tmp_path):
    url = f"file://{tmp_path}/far"
    reader, far = remote(make, sample, "OBELICS parquet", url)
    convert_parts(far, tmp_path / "parts", tmp_path / "work", 20_000, processes=2, part_items=1)
    convert_parts(reader, tmp_path / "near", tmp_path / "near work", 20_000, part_items=1)
    assert contents(tmp_path / "parts") == contents(tmp_path / "near")
    assert len([path for path in cache.iterdir() if path.is_dir()]) == len(reader.paths())


def test_a_table_about_something_else_among_others_is_listed(tmp_path, url):
    for name, text in (("a.csv", TABLE), ("b.csv", "day,rain\n1,2\n")):
        (tmp_path / name).write_text(text)
        upload(tmp_path / name, f"{url}/{name}")
    found = list(open_remote_files(url, "table", {}).records())
    assert [(item.file, item.reason) for item in found if isinstance(item, BadItem)] == [("b.csv", "bad header")]
    assert any(isinstance(item, Record) for item in found)


def test_one_file_is_a_corpus(url, tmp_path):
    (tmp_path / "one.csv").write_text(TABLE)
    upload(tmp_path / "one.csv", f"{url}/one.csv")
    far = open_remote_files(f"{url}/one.csv", "table", {"images": tmp_path})
    assert [section.key for section in far.sections()] == ["", "one.csv"]
    assert [item.id for item in far.records() if isinstance(item, Record)] == ["one.csv:2"]


def test_a_file_may_have_the_name_of_its_folder_and_no_size(tmp_path, monkeypatch):
    url = f"memory://{tmp_path.name}/a.csv"
    (tmp_path / "a.csv").write_text(TABLE)
    upload(tmp_path / "a.csv", f"{url}/a.csv")
    find = MemoryFileSystem.find

    def without_sizes(self, path, **options):
        return {name: {**details, "size": None} for name, details in find(self, path, **options).items()}

    monkeypatch.setattr(MemoryFileSystem, "find", without_sizes)
    far = open_remote_files(url, "table", {"images": tmp_path})
    assert [item.id for item in far.records() if isinstance(item, Record)] == ["a.csv:2"]


def test_the_cache_keeps_to_its_bound(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA_CACHE_BYTES", str(2 * len(TABLE)))
    url = f"memory://{tmp_path.name}/many"
    for number in range(5):
        (tmp_path / f"{number}.csv").write_text(TABLE)
        upload(tmp_path / f"{number}.csv", f"{url}/{number}.csv")
    far = open_remote_files(url, "table", {"images": tmp_path})
    assert len(list(far.records())) == 5
    assert len(list(cache.glob("*/*.csv"))) == 2


def test_a_file_that_has_changed_is_fetched_again(tmp_path):
    url = f"memory://{tmp_path.name}/changing"
    (tmp_path / "a.csv").write_text(TABLE)
    upload(tmp_path / "a.csv", f"{url}/a.csv")
    before = open_remote_files(url, "table", {"images": tmp_path})
    stamps = [section.stamp for section in before.sections()]
    assert len(list(before.records())) == 1
    (tmp_path / "a.csv").write_text(TABLE + "y.png,a y\n")
    upload(tmp_path / "a.csv", f"{url}/a.csv")
    after = pickle.loads(pickle.dumps(before))
    assert len(list(after.records())) == 2
    assert [section.stamp for section in after.sections()] != stamps


def test_a_file_that_changes_between_listing_and_download_is_refused(tmp_path):
    url = f"memory://{tmp_path.name}/torn"
    (tmp_path / "a.csv").write_text(TABLE)
    upload(tmp_path / "a.csv", f"{url}/a.csv")
    far = open_remote_files(url, "table", {"images": tmp_path})
    far.sections()
    (tmp_path / "a.csv").write_text(TABLE * 2)
    upload(tmp_path / "a.csv", f"{url}/a.csv")
    with pytest.raises(UserError, match=r"a\.csv.*changed meanwhile") as caught:
        list(far.records())
    assert caught.value.code == "file_unreadable"


def test_names_that_lead_out_are_left_out(tmp_path, cache, s3_bucket):
    files = fsspec.filesystem("s3")
    bucket = s3_bucket.removeprefix("s3://")
    for key in ("corpus/a.csv", "corpus/../b.csv", "corpus/..", "corpus//c.csv"):
        files.pipe_file(f"{bucket}/{key}", TABLE.encode())
    far = open_remote_files(f"{s3_bucket}/corpus", "table", {"images": tmp_path})
    assert [section.key for section in far.sections()] == ["", "a.csv"]
    assert len(list(far.records())) == 1
    assert not list(tmp_path.glob("**/b.csv"))


def test_errors_name_the_field_and_the_way_out(tmp_path):
    url = f"memory://{tmp_path.name}/nothing"
    with pytest.raises(UserError) as caught:
        open_source(ConvertSpec(path=url, format="table", options={"image": ["a"]}, name="made"), {})
    assert caught.value.field == "options.image"
    with pytest.raises(UserError) as caught:
        open_remote_files(url, "coco", {})
    assert caught.value.field == "format"
    with pytest.raises(ValueError, match="copy others to disk"):
        ConvertSpec(path=url, format="coco", name="made")
    with pytest.raises(UserError, match="check the URL and the format") as caught:
        open_remote_files(url, "table", {}).sections()
    assert caught.value.code == "not_found"
    with pytest.raises(ValueError, match="name the format"):
        ConvertSpec(path=url, options={"image": "x"}, name="made")


def _content(item):
    images = [] if isinstance(item, BadItem) else [(image.name, image.load()) for image in item.images]
    return item if isinstance(item, BadItem) else (item.id, item.body, item.split, item.extra, images)
