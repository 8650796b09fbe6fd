"""Under which threat and on which test images figures were judged: tables say it, and where it differs, of whom."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from handmade import judge, make_run, scores, verdicts
from helpers import blobs, small_net
from rich.console import Console

from mmard.api.evaluation_target import EvalModel
from mmard.evaluation.scores import Scores
from mmard.report import result_tables
from mmard.report.screen import compare_markdown, compare_table, scores_table
from mmard.runs.groups import Group, main_evaluation_of, read_groups
from mmard.runs.judged import Judged

HALF = verdicts([1] * 9 + [0], [1] * 5 + [0] * 5)


def read(*paths: Path) -> list[Group]:
    return read_groups(paths, lambda path: (None, ""))


def shown(table: Any) -> str:
    out = Console(file=io.StringIO(), width=200)
    out.print(table)
    return str(out.file.getvalue())  # type: ignore[attr-defined]


def fewer(judged: Scores, count: int) -> Scores:
    rows = torch.arange(count)
    return replace(judged, correct=judged.correct[rows], index=judged.index[rows], labels=judged.labels[rows])  # type: ignore[index]


def test_the_table_of_several_models_says_how_each_was_judged() -> None:
    """Figures at eps .05 and at eps .2 stood side by side without a word."""
    one, other = scores(HALF, threat="L∞ 0.05"), fewer(scores(HALF, threat="L∞ 51/255"), 6)
    assert "10 test images, L∞ 0.05; 95 %" in shown(scores_table("a", one))
    whose = "10 test images of images, L∞ 0.05 (a) or 6 test images of images, L∞ 51/255 (b)"
    assert whose in shown(compare_table({"a": one, "b": other})).replace("\n", " ")
    assert whose in compare_markdown({"a": one, "b": other})
    assert compare_markdown({"a": one, "b": one}).endswith("\n\n10 test images, L∞ 0.05.\n")


def test_images_are_the_same_by_their_digest_and_of_old_records_by_name_and_number() -> None:
    old = Judged("L∞ 0.1", 9, "digits")
    new = replace(old, images="x")
    assert old.alike(replace(old))
    assert new.alike(old)
    assert new.alike(replace(new, data="a copy of it"))
    assert not new.alike(replace(new, images="y"))
    assert not new.alike(replace(new, threat="L∞ 0.2"))
    assert not old.alike(replace(old, data="svhn"))
    assert not old.alike(replace(old, samples=8))


def test_the_digest_is_of_pixels_and_labels_whatever_order_the_classes_have() -> None:
    images = blobs(12)
    turned = replace(images, labels=3 - images.labels, classes=images.classes[::-1])
    others = [
        replace(images, labels=images.labels.flip(0)),
        replace(images, pixels=images.pixels ^ 1),
        images.take(torch.arange(11)),
    ]
    one, same, *different = (EvalModel(small_net(), x, 12).digest() for x in (images, turned, *others))
    assert one == same
    assert len({one, *different}) == 4


def test_the_first_table_of_a_report_says_whose_threat_is_which(tmp_path: Path) -> None:
    """Its note said "L∞ 0.05 or L∞ 51/255", and not which was whose."""
    make_run(tmp_path / "a", judged=scores(HALF, threat="L∞ 0.05"), threat={"eps": 0.05})
    make_run(tmp_path / "b", judged=fewer(scores(HALF, threat="L∞ 51/255"), 6), threat={"eps": 0.2})
    groups = read(tmp_path / "a", tmp_path / "b")
    sheet = result_tables.accuracy_table(groups, main_evaluation_of(groups))
    assert sheet is not None
    assert "10 test images of digits, L∞ 0.05 (a) or 6 test images of digits, L∞ 51/255 (b)." in sheet.note


def test_each_group_has_its_own_count_of_images_where_they_differ(tmp_path: Path) -> None:
    """The column of images was the first group's, whatever the others were judged on."""
    judged = scores(HALF, classes=["cat", "dog", "owl"])
    make_run(tmp_path / "a", judged=judged)
    make_run(tmp_path / "b", judged=fewer(judged, 9), method="trades")
    make_run(tmp_path / "c", judged=judged, method="mart")
    for names, columns, owl in (
        ("ab", ["a: images", "a: worst case, %", "a: clean, %", "b: images", "b: worst case, %", "b: clean, %"], "21"),
        ("ac", ["images", "a: worst case, %", "a: clean, %", "c: worst case, %", "c: clean, %"], "2"),
    ):
        groups = read(*(tmp_path / name for name in names))
        sheet = result_tables.classes_table(groups, main_evaluation_of(groups))
        assert sheet is not None
        assert sheet.columns == ["class", *columns]
        row = [cell.text for cell in sheet.rows[-1]]
        assert "".join(row[i] for i, name in enumerate(sheet.columns) if name.endswith("images")) == owl


def test_differences_of_an_older_version_are_shown_where_all_was_judged_alike(tmp_path: Path) -> None:
    """They were taken across threats, and their file does not say of which each run is."""
    pair = {"label": "b", "baseline": "a", "attack": "clean", "n": 2, "mean": 1.0, "low": 0.0, "high": 2.0,
            "p_t": 0.5, "p_exact": 0.5}  # fmt: skip
    for threat, there in (("L∞ 8/255", True), ("L∞ 4/255", False)):
        runs = [make_run(tmp_path / threat[3] / name, method=name) for name in ("rslad", "trades")]
        judge(runs[0], "best", "PGD-20")
        judge(runs[1], "best", "PGD-20", threat=threat)
        groups = read(*runs)
        told = [{"run": g.name, "accuracies": {r["attack"]: r["accuracy"] for r in g.runs[0].evaluations["best"].rows}}
                for g in groups]  # fmt: skip
        found = result_tables.differences_table({"comparisons": [pair], "rows": told}, groups, "best")
        assert (found is not None) == there


def test_differences_of_an_older_version_are_left_out_where_pairs_share_a_seed(tmp_path: Path) -> None:
    """They counted as independent; a file of this version says how many settings each seed has."""
    pair = {"label": "b", "baseline": "a", "attack": "clean", "n": 2, "mean": 1.0, "low": 0.0, "high": 2.0,
            "p_t": 0.5, "p_exact": 0.5}  # fmt: skip
    runs = [make_run(tmp_path / name, judged=scores(HALF), method=name) for name in ("rslad", "trades")]
    groups = read(*runs)
    main = main_evaluation_of(groups)
    now = {r["attack"]: r["accuracy"] for r in groups[0].runs[0].evaluations[main].rows}
    told = [{"run": g.name, "accuracies": now, "seed": seed, "labels": {"method": "b"}}
            for g, seed in zip(groups, (0, 1), strict=True)]  # fmt: skip
    assert result_tables.differences_table({"comparisons": [pair], "rows": told}, groups, main) is not None
    told[1]["seed"] = 0
    assert result_tables.differences_table({"comparisons": [pair], "rows": told}, groups, main) is None
    new = {**pair, "settings": [2, 3]}
    sheet = result_tables.differences_table({"comparisons": [new], "rows": told}, groups, main)
    assert sheet is not None
    assert "the mean over the 2 to 3 settings of each seed" in sheet.note
