"""The page's own script (``page.js``) in Node.js, with a document that answers every question with itself."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

import ui

NODE = shutil.which("node")
SCRIPT = Path(ui.__file__).with_name("page.js")
# fetches the address with window.fetch of the script, whose own fetch gives the answer; prints status and body
HARNESS = """
const [script, address, status, body] = JSON.parse(require('fs').readFileSync(0, 'utf-8'));
const traps = { get: (_, name) => (name === Symbol.toPrimitive ? () => '' : anything), apply: () => anything };
const anything = new Proxy(function () {}, traps);
globalThis.document = anything;
globalThis.MutationObserver = class { observe() {} };
globalThis.setInterval = () => 0;
globalThis.window = {
  addEventListener() {},
  gradio_config: { components: [], dependencies: [], layout: {} },
  fetch: async () => new Response(body, { status }),
};
(0, eval)(script);
(async () => {
  const answer = await window.fetch(address, { body: '{}' });
  console.log(JSON.stringify([answer.status, await answer.text()]));
})();
"""

pytestmark = pytest.mark.skipif(NODE is None, reason="Node.js is not installed")


def fetched(address: str, status: int, body: str) -> Any:
    """Status and body of the answer as the page's requests get it."""
    given = json.dumps([SCRIPT.read_text(encoding="utf-8"), address, status, body])
    command = [str(NODE), "-e", HARNESS]
    done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_refusal_by_the_gateway_is_one_that_gradio_can_show() -> None:
    refusal = json.dumps({"error": {"code": "too_large", "message": "send less at once"}})
    status, body = fetched("http://x/gradio_api/run/predict?tab=runs", 413, refusal)
    assert (status, json.loads(body)) == (413, {"error": "send less at once", "code": "too_large"})


@pytest.mark.parametrize(
    ("address", "status", "body"),
    [
        ("/gradio_api/run/predict", 422, '{"error": "Reload the page.", "code": "value_not_offered"}'),
        ("/gradio_api/run/predict", 502, "<html>Bad gateway</html>"),
        ("/gradio_api/run/predict", 500, "null"),
        ("/gradio_api/run/predict", 200, '{"error": {"message": "a result"}}'),
        ("/map/x", 409, '{"error": {"code": "x", "message": "of another route"}}'),
    ],
)
def test_other_answers_stay_as_they_are(address: str, status: int, body: str) -> None:
    assert fetched(address, status, body) == [status, body]
