"""Several evaluations of one run: which is shown first, what is said of which, and the command that makes each anew."""

from pathlib import Path

import pytest
from handmade import judge, make_run

from mmard.report.html import tables
from mmard.report.html.flags import flags_of
from mmard.report.html.groups import Group, kind_of, read_all

EXPORTED = {"runtime": "onnxruntime", "twin": "runs/a/best.safetensors"}
USUAL = ("PGD-20", "AutoAttack")
THROUGH = ("transfer-PGD-20", "through-PGD-20", "transfer-AutoAttack", "Square")


def read(*paths: Path) -> list[Group]:
    return read_all(paths, lambda _: (None, ""))


def test_the_best_checkpoints_own_figures_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best", *USUAL)
    judge(run, "last", *USUAL, of="last.safetensors")
    judge(run, "model.onnx", *THROUGH, of="model.onnx", **EXPORTED)
    judge(run, "best_threat.eps-4-255", *USUAL, asked={"overrides": {"threat.eps": "4/255"}}, threat="L∞ 4/255")
    groups = read(run)
    assert kind_of(groups) == "best"
    sheet = tables.evaluations(groups, "best")
    assert sheet is not None
    assert {(row[1].text, row[2].text) for row in sheet.rows} == {
        ("last", "L∞ 8/255"), ("model.onnx", "L∞ 8/255"), ("best_threat.eps-4-255", "L∞ 4/255")
    }  # fmt: skip


def test_without_an_attack_the_best_checkpoint_does_not_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best_clean", asked={"attacks": "none"})
    judge(run, "model.onnx", *THROUGH, of="model.onnx", **EXPORTED)
    assert kind_of(read(run)) == "model.onnx"


def test_figures_at_another_threat_are_said_to_be_at_that(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best_threat.eps-4-255", *USUAL, asked={"overrides": {"threat.eps": "4/255"}}, threat="L∞ 4/255")
    groups = read(run)
    sheet = tables.summary(groups, kind_of(groups))
    assert sheet is not None
    assert "10 test images, L∞ 4/255. " in sheet.note
    assert "8/255" not in sheet.note


@pytest.mark.parametrize(
    ("attacks", "word"),
    [
        (("PGD-20",), "without AutoAttack"),
        (("transfer-PGD-20", "transfer-AutoAttack", "through-AutoAttack-quick"), ""),
        (("through-AutoAttack-quick",), "AutoAttack without FAB"),
        (("PGD-20", "AutoAttack"), ""),
    ],
)
def test_autoattack_is_known_by_whatever_way_it_came(attacks: tuple[str, ...], word: str, tmp_path: Path) -> None:
    judge(run := make_run(tmp_path / "a"), "best", *attacks)
    groups = read(run)
    said = " ".join(flag.text for flag in flags_of(groups, kind_of(groups)))
    assert word in said
    assert ("AutoAttack" in said) == bool(word)
