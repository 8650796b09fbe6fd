"""What a study says of cost: the front, names that do not cover each other, and whose epochs are averaged."""

from itertools import pairwise
from pathlib import Path

import pytest
import torch

from mmard.api.settings import read_settings
from mmard.report.figures.study import front, moved_apart, plot_study
from mmard.study.grid import Cell
from mmard.study.results import _seconds


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
