"""A page's table of several diagnoses."""

from pathlib import Path
from typing import Any

import pytest

from mmard import MmardError
from mmard.report.study_tables import diagnoses_markdown
from mmard.study.publish import refresh
from mmard.utils.files import write_json


def diagnosis(run: str, share: float, transfer: float | None = None) -> dict[str, Any]:
    """What one run's diagnosis.json holds, as far as the table reads it."""
    row = {"margin": 2.0, "share": share, "distance_linf": 0.05, "crossed": 0.1, "fooled": 0.3, "transfer": transfer,
           "entropy": 0.5}  # fmt: skip
    metadata = {"run": run, "norm": "linf", "threat": "L∞ 0.15", "split": "held-out", "images": 9, "own_attacks": False}
    return metadata | {"inner": {"rslad": "KL by PGD-2"}, "examples": {"rslad": row}}


def test_the_table_has_mean_and_sd_over_students(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- diagnosis: k1 -->\nold\n<!-- end of diagnosis -->\nafter\n")
    for i, share in enumerate((0.5, 0.6, 0.7)):
        write_json(tmp_path / f"page/k1/{i}/diagnosis.json", diagnosis(f"runs/{i}", share, None if i else 0.4))
    assert refresh(page) == ["k1"]
    text = page.read_text()
    assert (
        "| rslad | 2.00 ± 0.00 | 60.0 ± 10.0 | 0.0500 ± 0.0000 | 10.0 ± 0.0 | 30.0 ± 0.0 | 40 | 0.50 ± 0.00 |" in text
    )
    assert "over 3 students (runs/0, runs/1, runs/2). 9 held-out images, L∞ 0.15, PGD-2" in text
    assert text.startswith("before\n")
    assert text.endswith("<!-- end of diagnosis -->\nafter\n")
    assert "old" not in text
    assert refresh(page) == ["k1"]
    assert page.read_text() == text


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(MmardError, match=r"no diagnosis\.json"):
        diagnoses_markdown([])
    with pytest.raises(MmardError, match="different threat"):
        diagnoses_markdown([diagnosis("a", 0.5), diagnosis("b", 0.5) | {"threat": "L∞ 0.1"}])
