"""Logs and artifacts: whole, in parts, and never from outside the run's folder."""

import http.client as http_client
import json
import os

import httpx
import pytest


@pytest.fixture(scope="module")
def run_id(live_service):
    return live_service.submit()


@pytest.fixture(scope="module")
def artifacts(live_service, run_id):
    folder = live_service.run_dir(run_id).artifacts
    (folder / "encoder").mkdir()
    (folder / "encoder" / "config.json").write_text("{}")
    (folder / "numbers.bin").write_bytes(bytes(range(100)))
    (folder / ".hidden").write_text("no")
    (folder / "leak").symlink_to(live_service.home / "key")
    (folder / "up").symlink_to(live_service.home)
    os.mkfifo(folder / "pipe")
    return folder


def test_the_log_is_read_in_pieces(live_service, http):
    run_id = live_service.submit()
    url = f"/v1/runs/{run_id}/logs"
    assert http.get(url).json() == {"text": "", "offset": 0, "size": 0}
    log = live_service.run_dir(run_id).log_file
    log.write_bytes("naïve ☃\n".encode() + "☃".encode()[:2])
    piece = http.get(url).json()
    assert piece["text"] == "naïve ☃\n"
    with log.open("ab") as file:
        file.write("☃".encode()[2:] + b" end\n")
    rest = http.get(url, params={"offset": piece["offset"]}).json()
    assert rest["text"] == "☃ end\n"
    assert rest["offset"] == rest["size"] == log.stat().st_size
    assert http.get(url, params={"offset": rest["offset"]}).json()["text"] == ""
    for far in (10**9, 2**63 - 1):
        assert http.get(url, params={"offset": far}).json() == {**rest, "text": ""}


def test_a_long_log_comes_a_mebibyte_at_a_time(live_service):
    run_id = live_service.submit()
    live_service.run_dir(run_id).log_file.write_text("x" * (2**20 + 5))
    first = live_service.admin.logs(run_id)
    assert len(first["text"]) == 2**20
    assert live_service.admin.logs(run_id, first["offset"])["text"] == "x" * 5


def test_the_list_shows_plain_files_alone(artifacts, live_service, run_id):
    found = live_service.admin.artifacts(run_id)
    assert [(row["name"], row["bytes"]) for row in found] == [("numbers.bin", 100), ("encoder/config.json", 2)]


def test_a_download_is_whole_or_a_range(artifacts, http, run_id):
    url = f"/v1/runs/{run_id}/artifacts/numbers.bin"
    whole = http.get(url)
    assert whole.content == bytes(range(100))
    assert whole.headers["content-disposition"].startswith("attachment")
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = http.get(url, headers={"range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, bytes(range(10, 20)))
    assert part.headers["content-range"] == "bytes 10-19/100"
    assert http.get(url, headers={"range": "bytes=95-"}).content == bytes(range(95, 100))
    assert http.get(url, headers={"range": "bytes=-3"}).content == bytes(range(97, 100))
    assert http.get(url, headers={"range": "bytes=90-500"}).content == bytes(range(90, 100))
    assert http.get(f"/v1/runs/{run_id}/artifacts/encoder/config.json").content == b"{}"


@pytest.mark.parametrize(
    "name",
    [
        "../run.json",
        "..%2Frun.json",
        "%2e%2e/run.json",
        "encoder/../../run.json",
        "encoder/../numbers.bin",
        "/etc/passwd",
        "%2Fetc%2Fpasswd",
        "..%5Crun.json",
        "leak",
        "up/key",
        "encoder",
        "pipe",
        "absent",
        "numbers.bin/x",
        "n" * 300,
        "%ff%fe",
    ],
)
def test_nothing_but_its_files_can_be_downloaded(artifacts, live_service, run_id, name):
    # a raw connection: httpx would tidy the dots away
    connection = http_client.HTTPConnection(httpx.URL(live_service.url).netloc.decode())
    headers = {"authorization": f"Bearer {live_service.keys['admin']}"}
    connection.request("GET", f"/v1/runs/{run_id}/artifacts/{name}", headers=headers)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    assert answer.status == 404, text
    assert json.loads(text)["error"]["code"] in ("not_found", "not_found")


def test_a_nul_in_the_address_is_refused(http, refused, run_id):
    refused(http.get(f"/v1/runs/{run_id}/artifacts/a%00b"), 400, "invalid_value")
    refused(http.get("/v1/runs?tag=a%00b"), 400, "invalid_value")
