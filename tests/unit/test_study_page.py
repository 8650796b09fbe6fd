"""What a study's page shows: the figure of cost with its front and names, and the table of several diagnoses."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from mmard import MmardError
from mmard.api.settings import read_settings
from mmard.report.figures.study import front, moved_apart, plot_study
from mmard.report.study_tables import diagnoses_markdown
from mmard.study.grid import Cell
from mmard.study.publish import refresh
from mmard.study.results import _seconds
from mmard.utils.files import write_json


def test_the_front_is_who_is_beaten_by_nobody() -> None:
    torch.manual_seed(0)
    for n in (1, 2, 7, 30):
        points = [(float(a), float(b)) for a, b in torch.randint(0, 8, (n, 2)).tolist()]
        found = [points[i] for i in front(points)]
        beaten = {p for p in points for q in points if q != p and q[0] <= p[0] and q[1] >= p[1]}
        assert found == sorted(set(points) - beaten)


def test_names_keep_their_order_and_their_distance() -> None:
    torch.manual_seed(0)
    heights = (10 * torch.rand(20)).tolist()
    places = moved_apart(heights, 0.9)
    order = sorted(range(20), key=lambda i: heights[i])
    gaps = [places[b] - places[a] for a, b in pairwise(order)]
    assert min(gaps) == pytest.approx(0.9)
    assert sum(places) == pytest.approx(sum(heights))
    assert moved_apart([3.0, 1.0], 0.5) == [3.0, 1.0]  # what is far apart stays


@pytest.mark.parametrize(
    ("attack", "seconds"),
    [
        ({}, 1.0),
        ({"attack.steps": 2}, 1.0),
        ({"attack.late": {"after": 0.7, "steps": 9}}, 3.0),
        ({"attack.guard": 5}, 3.0),
    ],
)
def test_most_epochs_do_not_stand_for_all_where_the_process_changes(attack: dict[str, object], seconds: float) -> None:
    cell = Cell({}, read_settings(None, dict(attack)))
    assert _seconds(cell, [{"seconds": s} for s in (1.0, 1.0, 7.0)]) == seconds


def test_a_figure_of_many_groups_is_drawn(tmp_path: Path) -> None:
    groups, rows = [], []
    for i in range(16):
        labels, cost, worst = {"process": f"rslad-with-name-{i}"}, 0.5 + 0.3 * i, 60 + (i * 7) % 5
        for seed in range(3):
            rows.append(
                {
                    "labels": labels,
                    "accuracies": {"clean": 90.0 + seed, "worst case": worst + seed},
                    "seconds an epoch": cost,
                }
            )
        figures = {"clean": (91.0, 1.0), "worst case": (worst + 1.0, 1.0), "seconds an epoch": (cost, 0.1)}
        groups.append({"labels": labels, "figures": {k: {"mean": m, "sd": s} for k, (m, s) in figures.items()}})
    plot_study({"axes": ["process"], "groups": groups, "rows": rows}, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


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
