"""The guide to the client runs as it stands, against a service."""

import re
from pathlib import Path

import numpy as np
import pytest

GUIDE = Path(__file__).parents[3] / "docs" / "client.md"


@pytest.mark.extended
def test_the_guide_runs(live_service, encoder_dir, sample_images, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    live_service.admin.import_encoder("mine", str(encoder_dir))
    for name, value in {
        "LCL_API_URL": live_service.url,
        "LCL_API_KEY": live_service.keys["admin"],
        "NO_PROXY": "127.0.0.1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for name, data in (*sample_images.items(), ("broken", b"")):
        (tmp_path / "images" / f"{name}.png").write_bytes(data)
    text = GUIDE.read_text(encoding="utf-8")
    names = {}
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text[: match.start(1)].count("\n")
        exec(compile("\n" * line + match[1], str(GUIDE), "exec"), names)
    assert sorted(path.stem for path in names["rows"]) == sorted(sample_images)
    assert [each.path.name for each in names["skipped"]] == ["broken.png"]
    assert [path.name for path in names["predicted"].names] == [f"{name}.png" for name in sorted(sample_images)]
    assert [each.path.name for each in names["predicted"].skipped] == ["broken.png"]
    assert (tmp_path / "predictions.csv").is_file()
    expected = live_service.admin.embed_images("mine", [sample_images["red"]])[0]
    np.testing.assert_allclose(names["answer"].data[1].embedding, expected, atol=1e-5)
    assert (tmp_path / "mine.tar").is_file()
