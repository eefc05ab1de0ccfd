"""Copies of imported directories that change meanwhile, and archives of any names."""

import io
import tarfile

import pytest

from api.services.encoder_archive import stream_tar, tar_size


@pytest.mark.parametrize("length", [1, 30, 64, 99, 100, 101, 200])
def test_an_archive_is_as_long_as_foretold(tmp_path, length):
    folder = "enc_0123456789"
    files = [tmp_path / ("n" * length), tmp_path / "model.safetensors"]
    for number, path in enumerate(files):
        path.write_bytes(b"x" * (511 + number))
    data = b"".join(stream_tar(files, folder))
    assert len(data) == tar_size(files, folder)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert archive.getnames() == [f"{folder}/{path.name}" for path in files]
