"""A file system at a distance: asked again when it fails, and quiet about credentials."""

import errno
import os

import pytest

from lcl_core.common.disk_cache import FileCache
from lcl_core.common.errors import StoreError, UserError
from lcl_core.common.storage import Storage, redact_credentials
from lcl_core.data.shards.storage import RemoteShardStorage


class Flaky:
    """Fails a number of times."""

    def __init__(self, failures, error):
        self.left, self.error, self.requested = failures, error, 0

    def cat_file(self, path, start=None, end=None):
        assert path == "x/a"
        self.requested += 1
        if self.left:
            self.left -= 1
            raise self.error
        return bytes(range(100))[start:end]


def behind(flaky):
    storage = Storage("memory://x", attempts=3, first_wait=0.0)
    storage._opened = (os.getpid(), flaky, "x")
    return storage


@pytest.mark.parametrize("error", [TimeoutError("slow"), ConnectionError("gone"), RuntimeError("503")])
def test_a_failed_read_is_tried_again(error):
    flaky = Flaky(2, error)
    assert behind(flaky).read("a", 10, 15) == bytes(range(10, 15))
    assert flaky.requested == 3
    with pytest.raises(StoreError, match=f"3 attempts.*{type(error).__name__}") as caught:
        behind(Flaky(3, error)).read("a", 10, 15)
    assert (caught.value.code, caught.value.file) == ("store_unreachable", "a")


class NoCredentialsError(Exception):
    """As botocore has it."""


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (FileNotFoundError("x"), "file_missing"),
        (PermissionError("ExpiredToken"), "store_forbidden"),
        (NoCredentialsError("Unable to locate credentials"), "store_forbidden"),
    ],
)
def test_what_will_not_get_better_is_not_tried_again(error, code):
    flaky = Flaky(9, error)
    with pytest.raises(UserError) as caught:
        behind(flaky).read("a")
    assert (caught.value.code, flaky.requested) == (code, 1)
    assert isinstance(caught.value, StoreError) == (code == "store_forbidden")


def test_a_full_local_disk_is_no_error_of_the_store(tmp_path):
    class Full:
        def get_file(self, path, target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)

    storage = Storage("memory://x", attempts=2, first_wait=0.0)
    storage._opened = (os.getpid(), Full(), "x")
    with pytest.raises(OSError, match="No space left") as caught:
        storage.download("a", tmp_path / "a")
    assert caught.value.errno == errno.ENOSPC


def test_a_short_answer_is_not_taken_for_the_document(tmp_path):
    with pytest.raises(UserError) as caught:
        RemoteShardStorage(behind(Flaky(0, ValueError())), FileCache(tmp_path, 1000)).read_range("a", 98, 5, "0" * 64)
    assert caught.value.code == "corpus_unreadable"


@pytest.mark.parametrize(
    "quoted",
    [
        "https://who:sesame@host/b",
        "no answer from 'https://sesame@host:9000/b'",
        "403, url='https://host/b?X-Amz-Signature=sesame&X-Amz-Credential=sesame'",
        "(s3://h/b?sesame) and https://h/b?k=sesame",
    ],
)
def test_addresses_are_quoted_without_credentials(quoted):
    with pytest.raises(UserError) as caught:
        behind(Flaky(3, OSError(quoted))).read("a")
    assert "sesame" not in str(caught.value)
    assert "environment" in str(caught.value), "the way out"
    assert "/b" in redact_credentials(quoted)
