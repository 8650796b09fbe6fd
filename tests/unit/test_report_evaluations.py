"""Several evaluations of one run: which is shown first, what is said of which, and the command that makes each anew."""

import shutil
from pathlib import Path
from typing import Any

import pytest
from handmade import judge, make_run

from mmard.api.overrides import parse_overrides
from mmard.evaluation.scores import read_table, table_text
from mmard.report import result_tables
from mmard.report.card import card
from mmard.report.page import Report
from mmard.runs import evaluation
from mmard.runs.command import as_argument, eval_command
from mmard.runs.evaluation import find_evaluation
from mmard.runs.findings import LEFT_OUT, ONE_SEED, UNCHECKED, findings_of
from mmard.runs.groups import Group, main_evaluation_of, read_groups
from mmard.runs.missing import missing_of
from mmard.runs.rules import RULES
from mmard.utils.files import sha256

EXPORTED = {"runtime": "onnxruntime", "twin": "runs/a/best.safetensors"}
USUAL = ("PGD-20", "AutoAttack")
THROUGH = ("transfer-PGD-20", "through-PGD-20", "transfer-AutoAttack", "Square")


def read(*paths: Path) -> list[Group]:
    return read_groups(paths, lambda _: (None, ""))


def test_the_best_checkpoints_own_figures_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best", *USUAL)
    judge(run, "last", *USUAL, of="last.safetensors")
    judge(run, "model.onnx", *THROUGH, of="model.onnx", **EXPORTED)
    judge(run, "best_threat.eps-4-255", *USUAL, asked={"overrides": {"threat.eps": "4/255"}}, threat="L∞ 4/255")
    groups = read(run)
    assert main_evaluation_of(groups) == "best"
    sheet = result_tables.evaluations_table(groups, "best")
    assert sheet is not None
    assert {(row[1].text, row[2].text) for row in sheet.rows} == {
        ("last", "L∞ 8/255"), ("model.onnx", "L∞ 8/255"), ("best_threat.eps-4-255", "L∞ 4/255")
    }  # fmt: skip


def test_what_most_runs_have_comes_first_among_best_checkpoints_alone(tmp_path: Path) -> None:
    first, second = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    judge(first, "best", *USUAL)
    for run in (first, second):
        judge(run, "model.onnx", *THROUGH, of="model.onnx", **EXPORTED)
    assert main_evaluation_of(read(first, second)) == "best"
    for run in (first, second):
        judge(run, "best_data.root-here", "PGD-20", asked={"overrides": {"data.root": "here"}})
    assert main_evaluation_of(read(first, second)) == "best_data.root-here"


def test_of_equal_evaluations_the_one_that_was_checked_comes_first(tmp_path: Path) -> None:
    """The tie fell to the name, so that `best_checks-none` came before the evaluation that had looked at itself."""
    run, checked = make_run(tmp_path / "a"), {"how": "quick", "probed": 0, "seconds": 1.0}
    judge(run, "best", *USUAL, checked=checked)
    judge(run, "best_checks-none", *USUAL, asked={"checks": "none"}, checked={**checked, "how": "none"})
    assert main_evaluation_of(read(run)) == "best"
    asked = {key: value for key, value in read(run)[0].runs[0].evaluations["best"].request.items() if key != "checks"}
    shutil.move(run / "eval/best", run / "eval/best_of-all")  # the last of them by its name
    assert find_evaluation(run, "best", asked) == run / "eval/best_of-all"


def test_without_an_attack_the_best_checkpoint_does_not_come_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best_clean", asked={"attacks": "none"})
    judge(run, "model.onnx", *THROUGH, of="model.onnx", **EXPORTED)
    assert main_evaluation_of(read(run)) == "model.onnx"


def test_figures_at_another_threat_are_said_to_be_at_that(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best_threat.eps-4-255", *USUAL, asked={"overrides": {"threat.eps": "4/255"}}, threat="L∞ 4/255")
    groups = read(run)
    sheet = result_tables.accuracy_table(groups, main_evaluation_of(groups))
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
    said = " ".join(flag.text for flag in findings_of(groups, main_evaluation_of(groups)))
    assert word in said
    assert ("AutoAttack" in said) == bool(word)


def test_the_command_has_all_that_the_evaluation_was_asked_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a b")
    asked = {"attacks": "cw,autoattack", "protocol": "quick", "limit": 10, "batch_size": 8, "seed": 3}
    asked["overrides"] = {"threat.eps": "4/255", "data.root": "my images", "twin": "runs/t"}
    judge(run, "x", "C&W", of="last.safetensors", labels=None, asked=asked, checked={"how": "full"})
    groups = read(run)
    (part,) = [part for part in missing_of(groups, main_evaluation_of(groups)) if part.what == "accuracy by class"]
    assert part.command == (
        f"mmard eval '{run}/last.safetensors' --attacks cw,autoattack --protocol quick --limit 10 --seed 3 --batch-size 8 "
        "--checks full --surrogate runs/t threat.eps=4/255 'data.root=my images'"
    )


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        ({}, ""),
        ({"checked": {"how": "none"}}, ""),  # the usual checks are made up for
        ({"checked": {"how": "full"}}, ""),  # which AutoAttack brings with it
        ({"checked": {"how": "quick"}}, " --checks quick"),
        ({"asked": 3}, ""),
    ],
)
def test_what_the_command_line_does_by_itself_is_not_in_the_command(
    metadata: dict[str, Any], words: str, tmp_path: Path
) -> None:
    judge(run := make_run(tmp_path / "a"), "best", *USUAL)
    file = run / "eval/best/scores.json"
    file.write_text(table_text(read_table(file.parent) | metadata))
    (evaluation,) = read(run)[0].runs[0].evaluations.values()
    assert eval_command(evaluation, [run, run]) == f"mmard eval {run} {run}{words}"


@pytest.mark.parametrize(
    "value", ["4/255", 0.1, 1e-5, None, True, "8", "yes", "2026-02-03", "a: b", ["x", 1], {"k": "v"}, "[", "é"]
)
def test_a_setting_is_read_back_as_it_was(value: Any) -> None:
    (read_back,) = parse_overrides([f"data.name={as_argument(value)}"]).values()
    assert read_back == value or str(read_back) == str(value)


ORDER = {
    "name": "order",
    "level": "warning",
    "said": "FGSM 30 %, PGD-20 50 %",
    "means": "gradients are masked",
    "do": "attack <adaptively>",
}


def test_what_the_checks_found_is_said_with_its_meaning_and_its_evaluation(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best", *USUAL, checks=[ORDER], checked={"how": "full"})
    judge(run, "last", *USUAL, of="last.safetensors", checks=[{**ORDER, "level": "error"}], checked={"how": "full"})
    groups = read(run)
    found = findings_of(groups, "best")
    assert [(flag.level, flag.where) for flag in found[:2]] == [
        ("error", ("a, last: FGSM 30 %, PGD-20 50 %",)), ("warning", ("a, best: FGSM 30 %, PGD-20 50 %",))
    ]  # fmt: skip
    page, text = Report(groups, "t").html("0"), card(groups[0].runs[0])
    assert '<li class="error"><b>Error.</b> Check order. <span>(a, last: FGSM 30 %, PGD-20 50 %)</span>' in page
    assert "Means: gradients are masked. Do: attack &lt;adaptively&gt;." in page
    assert "- **Warning.** Check order. (best: FGSM 30 %, PGD-20 50 %) Means: gradients are masked." in text


def test_the_page_does_not_look_again_for_what_checks_look_for(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    judge(run, "best", "FGSM", "PGD-20", checks=[], checked={"how": "quick"})
    file = run / "eval/best/scores.json"
    metadata = read_table(file.parent)
    metadata["attacks"][1]["accuracy"] = (
        30.0  # below PGD-20's 50 %: whether that is more than chance is for the check to say
    )
    file.write_text(table_text(metadata))
    groups = read(run)
    assert {flag.level for flag in findings_of(groups, "best")} == {"note"}


def test_figures_that_nobody_checked_say_so_with_the_command_that_does(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", robust=(20.0, 30.0, 40.0))
    judge(run, "best", *USUAL, checked={"how": "quick"}, checks=[])
    judge(run, "best_clean", asked={"attacks": "none"}, checked={"how": "none"}, checks=[])
    assert "look" not in {flag.level for flag in findings_of(read(run), "best")}
    judge(
        run,
        "best_PGD-20_10-images",
        "PGD-20",
        asked={"attacks": "pgd-20", "limit": 10},
        checked={"how": "none"},
        checks=[],
    )
    (flag,) = [flag for flag in findings_of(read(run), "best") if flag.level == "look"]
    command = f"mmard eval {run} --attacks pgd-20 --limit 10"
    assert flag.where == (f"a, best_PGD-20_10-images: {command}",)
    text = card(read(run)[0].runs[0])
    assert (
        "**Look.** Nothing was checked. (best_PGD-20_10-images: mmard eval FOLDER --attacks pgd-20 --limit 10)" in text
    )
    assert str(tmp_path) not in text  # which would say nothing to others
    assert '<li class="look"><b>Look.</b> Nothing was checked.' in Report(read(run), "t").html("0")


def test_every_flag_says_what_it_means_and_what_to_do() -> None:
    for flag in (*(flag for flag, _ in RULES), UNCHECKED, ONE_SEED, LEFT_OUT):
        assert flag.means, flag
        assert flag.do, flag


def test_figures_of_other_weights_are_left_out_with_the_command_for_those_that_are_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    for name in ("best.safetensors", "last.safetensors", "model.onnx"):
        (run / name).write_bytes(name.encode())
    now = {path.name: sha256(path) for path in run.glob("*.*")}
    judge(run, "best", "PGD-20", weights=now["best.safetensors"])
    judge(run, "last", "PGD-20", of="last.safetensors", weights=now["best.safetensors"], asked={"attacks": "pgd-20"})
    judge(run, "model.onnx", "Square", of="model.onnx", weights=now["model.onnx"], **EXPORTED)
    judge(run, "gone", "PGD-20", of="gone.safetensors", weights="0" * 64)  # a folder of figures alone
    judge(run, "best_old", "PGD-20")  # from before this was kept
    (found,) = read(run)[0].runs
    assert set(found.evaluations) == {"best", "model.onnx", "gone", "best_old"}
    command = f"mmard eval {run}/last.safetensors --attacks pgd-20"
    assert found.faults == [
        f"{run}/eval/last/scores.json is of other weights than {run}/last.safetensors has now; judge these: {command}"
    ]
    text, page = card(found), Report(read(run), "t").html("0")
    assert "### last.safetensors" not in text
    assert "<td>last</td>" not in page
    assert command in page
    assert "mmard eval FOLDER/last.safetensors --attacks pgd-20" in text
    (run / "best.safetensors").write_bytes(b"trained again")
    assert set(read(run)[0].runs[0].evaluations) == {"model.onnx", "gone", "best_old"}


def test_a_file_of_weights_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a")
    (run / "best.safetensors").write_bytes(b"weights")
    seen: list[Path] = []
    monkeypatch.setattr(evaluation, "sha256", lambda path: seen.append(path) or "now")
    for name in ("best", "best_PGD-20", "best_10-images"):
        judge(run, name, "PGD-20", weights="now")
    judge(run, "best_old", "PGD-20", weights="then")
    assert len(read(run)[0].runs[0].evaluations) == 3
    assert seen == [run / "best.safetensors"]


def test_a_card_beside_a_run_is_asked_for_its_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    (run / "best.safetensors").write_bytes(b"weights")
    (run / "teacher.json").write_text('{"file": "best.safetensors"}')
    (run / "hub.json").write_text('{"hub": {"repo": "a/b", "filename": "c"}}')
    (run / "broken.json").write_text("{")
    for name in ("teacher", "hub", "broken"):
        judge(run, name, "PGD-20", of=f"{name}.json", weights="0" * 64)
    (found,) = read(run)[0].runs
    assert set(found.evaluations) == {"hub", "broken"}
    assert len(found.faults) == 2
