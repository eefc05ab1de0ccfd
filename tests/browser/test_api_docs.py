"""The description of the API in a browser: find a call, read its fields, and run it as curl, Python and JavaScript."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import playwright
import pytest
from playwright.sync_api import expect

pytestmark = [pytest.mark.browser, pytest.mark.extended]
NODE = str(Path(playwright.__file__).parent / "driver" / "node")  # the one that Playwright brings


@pytest.fixture
def docs(chromium: Any, docs_world: Any) -> Iterator[Any]:
    """The page, on which no script failed and nothing was loaded from elsewhere."""
    address = docs_world.client.base_url
    problems: list[str] = []
    page = chromium.new_page()
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: request.url.startswith(address) or problems.append(request.url))
    page.goto(f"{address}/docs")
    expect(page.locator("main details")).not_to_have_count(0)
    yield page
    page.close()
    assert problems == []


def test_the_filter_leaves_the_calls_that_have_the_words(docs: Any) -> None:
    every = docs.locator("main details").count()
    assert every > 70
    docs.get_by_label("Filter the calls").fill("list runs")
    expect(docs.locator("main details:visible strong").filter(has_text="List runs")).to_have_count(1)
    assert docs.locator("main details:visible").count() < 10
    expect(docs.get_by_role("heading", name="webhooks")).to_be_hidden()
    docs.get_by_label("Filter the calls").fill("no such call")
    expect(docs.get_by_role("status")).to_contain_text("No call has these words")
    docs.get_by_label("Filter the calls").fill("")
    expect(docs.get_by_role("status")).to_have_text(f"{every} of {every} calls")


def test_fields_of_body_and_response_are_described(docs: Any) -> None:
    docs.get_by_text("Create embeddings", exact=True).click()
    call = docs.locator("#create_embeddings")
    expect(call.get_by_text("texts, and images as data URLs").first).to_be_visible()
    expect(call.get_by_text("one vector per input, in order")).to_be_visible()
    expect(call.locator("td code", has_text="data[].embedding")).to_be_visible()
    assert json.loads(call.locator("textarea").input_value())["model"] == "drawings-v5"
    expect(docs.locator("#errors code", has_text="error.param")).to_be_visible()


def test_a_call_has_an_address_and_runs_in_curl_python_and_javascript(docs: Any, docs_world: Any) -> None:
    address, key = docs_world.client.base_url, (docs_world.home / "key").read_text().strip()
    docs.goto(f"{address}/docs#submit_run")
    docs.reload()
    call = docs.locator("#submit_run")
    expect(call.locator("textarea")).to_be_visible()
    body = {"kind": "pretrain", "spec": {"preset": "sample", "steps": 7}, "name": "it's mine", "tags": []}
    call.locator("textarea").fill(json.dumps(body))
    environment = {**os.environ, "LCL_API_KEY": key, "NO_PROXY": "127.0.0.1"}
    python = [sys.executable, "-c", call.locator("pre.python").inner_text()]
    javascript = [NODE, "--input-type=module", "--eval", call.locator("pre.javascript").inner_text()]
    for command in (["bash", "-c", call.locator("pre.curl").inner_text()], python, javascript):
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "it's mine" in done.stdout
    runs = [run for run in docs_world.client.runs()["items"] if run["name"] == "it's mine"]
    assert [run["spec"]["steps"] for run in runs] == [7, 7, 7]
    docs.get_by_label("API key").fill(key)
    call.get_by_role("button", name="Send").click()
    expect(call.locator("pre.answer")).to_contain_text("202")


def test_what_is_shown_of_every_call_can_be_parsed(docs: Any) -> None:
    docs.evaluate("document.querySelectorAll('main details').forEach((call) => { call.open = true; })")
    calls = docs.locator("main details").count()
    expect(docs.locator("pre.javascript")).to_have_count(calls)
    for source in docs.locator("pre.python").all_inner_texts():
        ast.parse(source)
    for source in docs.locator("pre.curl").all_inner_texts():
        subprocess.run(["bash", "-n"], input=source, text=True, check=True)
    sources = docs.locator("pre.javascript").all_inner_texts()
    parse = """
      const AsyncFunction = (async () => {}).constructor;
      const sources = JSON.parse(require('fs').readFileSync(0));
      for (const source of sources) new AsyncFunction(source.replace(/^import.*/, ''));
    """
    subprocess.run([NODE, "--eval", parse], input=json.dumps(sources), text=True, check=True)
    assert sum("writeFile(" in source for source in sources) >= 5, "files are written"
    assert sum("process.stdout" in source for source in sources) >= 1, "streams are printed as they arrive"


def test_it_fits_a_narrow_screen(docs: Any) -> None:
    docs.set_viewport_size({"width": 390, "height": 844})
    docs.get_by_text("Search collection", exact=True).click()
    expect(docs.locator("#search_collection textarea")).to_be_visible()
    assert docs.evaluate("document.documentElement.scrollWidth") <= 390
