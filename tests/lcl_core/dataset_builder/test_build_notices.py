"""The packages' own words on authors and terms come along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lcl_core.dataset_builder.build import write_notices
from lcl_core.dataset_builder.sources import SOURCES


def test_a_notice_of_each_package_and_a_list_of_them(kit: Any, tmp_path: Path) -> None:
    manual, common = SOURCES["gimp"].packages
    files = {
        manual.name: kit.lay_out(tmp_path / "a", {"usr/x": "x"}),  # its notice is a link to the other package's
        common.name: kit.lay_out(tmp_path / "b", {f"usr/share/doc/{common.name}/copyright": "(c)"}),
    }
    write_notices(tmp_path, [SOURCES["gimp"]], files, "any")
    assert (tmp_path / "licences" / common.name / "copyright").read_text() == "(c)"
    notice = (tmp_path / "NOTICE").read_text()
    assert "gimp: GIMP's manual\n  GFDL-1.2+ no invariants" in notice
    assert f"apt package {manual.name} {manual.version}: no notice of its own" in notice
    assert f"apt package {common.name} {common.version}: licences/{common.name}/copyright" in notice
