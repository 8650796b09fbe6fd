"""What a page shows of much, and that it stays small whatever there is."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handmade import make_run, scores, shown
from PIL import Image

from mmard.diagnostics.triangle import EDGES
from mmard.evaluation.examples import Examples
from mmard.report import pictures
from mmard.report.chart import MOST_POINTS, Line, line_chart, thinned
from mmard.report.page import MOST_BYTES, Report
from mmard.report.table import Table, number, words
from mmard.runs.folder import RunFolder
from mmard.runs.groups import Group, read_groups


def read(*paths: Path) -> list[Group]:
    return read_groups(paths, lambda _: (None, "inner: max nothing"))


def train_long(run: Path, epochs: int) -> None:
    """Write many epochs, with a triangle each."""
    edges = dict.fromkeys(EDGES, 0.5)
    (record, *_) = RunFolder(run).metrics()
    lines = (
        {**record, "epoch": i, "step": 10 * i, "robust": 30 + 10 * math.sin(i), "triangle": edges}
        for i in range(1, epochs + 1)
    )
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def noise(count: int, size: int) -> Examples:
    """Pictures that no format makes small."""
    x = torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    index = torch.arange(count)
    said, sure = index[:, None].expand(-1, 2), torch.full((count, 2), 0.5)
    return Examples(x, 1 - x / 255, index, index, said, sure, {**shown().metadata, "classes": []})


def crowd(path: Path, groups: int, classes: int, epochs: int) -> list[Group]:
    """Long runs on many classes, with pictures and figures."""
    labels = torch.arange(classes).repeat(2)
    right = torch.stack([labels % 3 > 0, labels % 7 == 1], 1)
    names = [f"a class with the name {i}" for i in range(classes)]
    figure = noise(1, 40).x[0].permute(1, 2, 0).repeat(8, 8, 1).numpy()
    for i in range(groups):
        run = make_run(path / f"method-{i}/seed-0", judged=scores(right, labels, classes=names), student=f"net-{i}")
        train_long(run, epochs)
        noise(12, 64).save(run / "eval/best_PGD-20/examples.safetensors")
        (run / "diagnose").mkdir()
        for name in ("margins", "slices"):
            Image.fromarray(figure).save(run / f"diagnose/{name}.png")
    return read(path)


def test_a_long_curve_keeps_its_ends_and_extremes() -> None:
    ys = [math.sin(i / 300) for i in range(10_000)]
    ys[1234], ys[4321] = 7.0, -9.0
    line = thinned(Line("a", 0, range(10_000), ys, [y - 1 for y in ys], [y + 1 for y in ys]))
    assert len(line.xs) == len(line.ys) == len(line.low) == len(line.high) <= MOST_POINTS
    assert (line.xs[0], line.xs[-1]) == (0, 9_999)
    assert {1234, 4321} <= set(line.xs)
    assert list(line.xs) == sorted(line.xs)
    assert all(ys[x] == y and low == y - 1 for x, y, low in zip(line.xs, line.ys, line.low, strict=True))
    short = Line("a", 0, range(MOST_POINTS), [0.0] * MOST_POINTS)
    assert thinned(short) is short


def test_a_run_of_ten_thousand_epochs_makes_a_small_page(tmp_path: Path) -> None:
    for seed in (0, 1):
        run = make_run(
            tmp_path / f"s/a/seed-{seed}", judged=scores(torch.ones(10, 2).bool()), seed=seed, train={"epochs": 10_000}
        )
        train_long(run, 10_000)
    page = Report(read(tmp_path / "s"), "long").html("1")
    assert "from 38.41 at 1 to" in page
    assert len(page.encode()) <= MOST_BYTES / 5


@pytest.mark.parametrize(("groups", "classes", "epochs"), [(1, 1000, 30), (6, 100, 150), (20, 200, 40)])
def test_a_page_has_room_for_any_run(groups: int, classes: int, epochs: int, tmp_path: Path) -> None:
    found = crowd(tmp_path / "s", groups, classes, epochs)
    page = Report(found, "many").html("1")
    assert len(page.encode()) <= MOST_BYTES
    for part in ("curves", "by-class", "examples", "boundary", "settings"):
        assert f'<section id="{part}">' in page
    assert page.count('<figure class="card') >= min(groups, 6)
    assert page.count("<figcaption>Training loss") == 1
    assert (f"of {classes} rows; --also csv writes them all" in page) == (groups == 20)


def test_a_page_that_is_too_large_shows_less_and_at_least_one_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = crowd(tmp_path / "s", 2, 30, 30)
    whole = Report(found, "t").html("1")
    monkeypatch.setattr("mmard.report.page.MOST_BYTES", 1)
    least = Report(found, "t").html("1")
    assert len(least) < len(whole) / 4
    assert least.count('<figure class="card') == 2
    assert "The first 1 of 30 rows" in least


def test_many_classes_stand_by_their_robustness_and_few_in_their_order(tmp_path: Path) -> None:
    for count in (4, 40):
        crowd(tmp_path / f"s{count}", 1, count, 3)
        (table,) = [t for t in Report(read(tmp_path / f"s{count}"), "t").tables() if t.key == "classes"]
        robust = [row[2].value for row in table.rows]
        assert (robust == sorted(robust)) == ("least robust" in table.note) == (count == 40)


def test_a_shortened_table_says_what_it_leaves_out() -> None:
    table = Table("t", "T", ["a", "b"], [[words(i), number(i)] for i in range(9)], note="As it is.")
    assert table.shortened(18) is table
    short = table.shortened(5)
    assert [row[0].text for row in short.rows] == ["0", "1"]
    assert short.note == "The first 2 of 9 rows; --also csv writes them all. As it is."


def test_a_wide_table_is_cut_in_both_directions() -> None:
    table = Table("t", "T", [f"c{i}" for i in range(1_000)], [[number(i)] * 1_000 for i in range(1_000)])
    short = table.shortened(5_000)
    assert (len(short.columns), len(short.rows), {len(row) for row in short.rows}) == (250, 20, {250})
    assert short.note == "The first 20 of 1,000 rows and 250 of 1,000 columns; --also csv writes them all."


def test_a_thousand_groups_have_room(tmp_path: Path) -> None:
    (one,) = read(make_run(tmp_path / "s/a/seed-0", judged=scores(torch.arange(20).view(10, 2) % 3 > 0)))
    (run,) = one.runs
    groups = [
        replace(
            one, name=f"group {i}", runs=[replace(run, name=f"group {i}/seed-0", path=tmp_path / f"a long name {i}")]
        )
        for i in range(1_000)
    ]
    report = Report(groups, "many")
    page = report.html("1")
    assert len(page.encode()) <= MOST_BYTES
    assert page.count("Of 1,000 groups the first 100;") == 4
    assert "which (1000)" in page
    assert "<li>and 900 more</li>" in page
    assert "(1000 runs; the command is for the first 100)" in page
    assert "and 980 groups more" in page
    assert all(len(part.runs) == 1_000 for part in report.missing())


def test_curves_share_the_points_of_a_chart_and_few_points_are_dots() -> None:
    lines = [Line(str(i), i, range(1_000), [math.sin(i + x) for x in range(1_000)]) for i in range(50)]
    curves = re.findall(r'class="curve" d="([^"]+)"', line_chart("t", lines, "x", "y", points=2_000))
    assert [curve.count("L") + 1 for curve in curves] == [40] * 50
    assert "circle" not in line_chart("t", lines, "x", "y")
    assert line_chart("t", [Line("a", 0, [1, 2, 3], [4, 5, 6])], "x", "y").count("<circle") == 3
    assert line_chart("t", [*lines, Line("a", 0, [1], [4])], "x", "y").count("<circle") == 1


def test_small_pictures_keep_every_pixel_and_large_ones_take_little() -> None:
    small, large = (pictures.cards_of(noise(3, size), "r", 10**9)["cards"][0]["images"] for size in (32, 224))
    assert {image["url"][:15] for image in small} == {"data:image/png;"}
    assert {image["url"][:15] for image in large} == {"data:image/jpeg"}
    told = pictures.cards_of(noise(3, 32), "r", 1)
    assert len(told["cards"]) == 1
    assert told["note"].endswith("Of 3 images the first 1: the page has no room for more.")


def test_a_figure_is_made_smaller_until_it_fits(tmp_path: Path) -> None:
    Image.fromarray(noise(1, 200).x[0].permute(1, 2, 0).numpy()).save(tmp_path / "f.png")
    whole, small = (pictures.figure_of(tmp_path / "f.png", "a figure", [], room) for room in (10**9, 20_000))
    assert whole is not None
    assert small is not None
    assert len(small["url"]) <= 20_000 < len(whole["url"])
