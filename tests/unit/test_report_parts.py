"""The parts of a report against runs made by hand, whose figures are known."""

import csv
import io
import json
import statistics
from html import escape
from pathlib import Path

import pytest
import torch
from handmade import CLASSES, curve, make_run, scores, shown, verdicts
from helpers import blobs, small_net

from mmard import MmardError, Threat
from mmard.api.artifacts import settings_and_formula_of
from mmard.evaluation.curve import curve as curve_of
from mmard.evaluation.curve import radii_of
from mmard.evaluation.examples import Examples, examples
from mmard.evaluation.loop import Execution
from mmard.evaluation.run import run_attacks
from mmard.evaluation.scores import wilson
from mmard.evaluation.suite import choose_attacks, suite
from mmard.methods import METHODS
from mmard.report import result_tables
from mmard.report.chart import ticks
from mmard.report.curve_charts import mean_line
from mmard.report.page import Report
from mmard.report.pictures import cards_of
from mmard.report.render import section
from mmard.report.setup_tables import checks_table, cost_table, diagnosis_tables
from mmard.report.table import Table, TableCell, interval, mean_and_sd, number, table_files, words
from mmard.runs.by_class import accuracy_by_class
from mmard.runs.findings import findings_of
from mmard.runs.folder import RunFolder
from mmard.runs.groups import Group, main_evaluation_of, read_groups
from mmard.runs.missing import missing_of

FIRST = verdicts([1] * 9 + [0], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0])  # clean 90 %, robust 50 %
SECOND = verdicts([1] * 7 + [0] * 3, [1, 1, 1, 0, 0, 0, 0, 0, 0, 0])  # 70 % and 30 %


def read(*paths: Path) -> list[Group]:
    return read_groups(paths, lambda _: (None, "inner: max nothing"))


@pytest.fixture
def two_seeds(tmp_path: Path) -> list[Group]:
    """One setting with two seeds, and another setting."""
    make_run(tmp_path / "study/rslad/seed-0", judged=scores(FIRST))
    make_run(tmp_path / "study/rslad/seed-1", judged=scores(SECOND), seed=1)
    make_run(tmp_path / "study/trades/seed-0", judged=scores(SECOND), method="trades")
    return read(tmp_path / "study")


def test_runs_that_differ_by_their_seed_stand_together(two_seeds: list[Group]) -> None:
    assert [(g.name, [run.seed for run in g.runs]) for g in two_seeds] == [("rslad", [0, 1]), ("trades", [0])]
    sheet = result_tables.accuracy_table(two_seeds, main_evaluation_of(two_seeds))
    assert sheet is not None
    rows = {row[0].text: row for row in sheet.rows}
    sd = statistics.stdev([50, 30])
    assert rows["rslad"][3].text == f"40.0 ± {sd:.1f}"
    assert rows["rslad"][3].value == 40
    assert rows["rslad"][3].more == {"sd": pytest.approx(sd)}
    low, high = (100 * end for end in wilson(0.3, 10))
    assert rows["trades"][3].text == f"30.0 ({low:.1f}–{high:.1f})"


def test_an_old_file_that_lacks_a_new_setting_stands_with_the_others(tmp_path: Path) -> None:
    make_run(tmp_path / "s/a/seed-0")
    make_run(tmp_path / "s/a/seed-1", seed=1, train={"epochs": 3, "hold": 0.0})  # the default, written out
    assert len(read_groups([tmp_path / "s"], settings_and_formula_of)) == 1
    make_run(tmp_path / "s/a/seed-2", seed=2, train={"epochs": 3, "hold": 0.5})
    assert [len(group.runs) for group in read_groups([tmp_path / "s"], settings_and_formula_of)] == [2, 1]


def test_settings_without_an_effect_make_no_other_group(tmp_path: Path) -> None:
    make_run(tmp_path / "s/a/seed-0")
    make_run(tmp_path / "s/a/seed-1", seed=1, teacher_check="none", about="another word")
    assert len(read_groups([tmp_path / "s"], settings_and_formula_of)) == 1


def test_a_seed_twice_is_another_group(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / name, judged=scores(FIRST))
    assert [g.name for g in read(tmp_path / "a", tmp_path / "b")] == ["a", "b"]


def test_seeds_that_were_not_judged_and_runs_of_another_history_are_told_apart(tmp_path: Path) -> None:
    """The interval of one run stood beside "3", and a run that was extended counted as a seed of one planned so."""
    for seed in range(3):
        make_run(tmp_path / f"s/seed-{seed}", judged=None if seed else scores(FIRST), seed=seed)
    extended = [{"step": 10, "epoch": 1, "changed": {"train.epochs": [1, 3]}, "lr": [0.0, 0.1]}]
    (make_run(tmp_path / "s/seed-3", judged=scores(SECOND), seed=3) / "history.json").write_text(json.dumps(extended))
    groups = read(tmp_path / "s")
    sheet = result_tables.accuracy_table(groups, main_evaluation_of(groups))
    assert sheet is not None
    assert [(row[-1].text, row[-1].value) for row in sheet.rows] == [("1 of 3", None), ("1", 1)]


def test_each_class_is_counted_by_hand(two_seeds: list[Group]) -> None:
    found = accuracy_by_class(two_seeds[0].runs[0], "best_PGD-20")
    assert found is not None
    assert found.names == CLASSES
    assert found.count == (4, 4, 2)
    assert found.clean == (100, 100, 50)
    assert found.robust == (100, 25, 0)
    assert CLASSES[found.worst] == "<b>&owl</b>"


def test_a_wrong_sample_of_clean_counts_against_the_worst_case_of_its_class(tmp_path: Path) -> None:
    odd = scores(verdicts([0] + [1] * 9, [1] * 10))  # right under attack, wrong without
    found = accuracy_by_class(read(make_run(tmp_path / "a", judged=odd))[0].runs[0], "")
    assert found is not None
    assert found.robust == (75, 100, 100)


def test_what_is_missing_is_named_with_its_command(tmp_path: Path) -> None:
    old = scores(FIRST, labels=None)
    make_run(tmp_path / "it's old", judged=old, extra=False)
    whole = make_run(tmp_path / "whole", judged=scores(FIRST), seed=1)
    groups = read(tmp_path / "it's old", whole)
    found = {part.what.split(" (")[0]: part for part in missing_of(groups, main_evaluation_of(groups))}
    assert found["accuracy by class"].runs == ("it's old",)
    assert found["accuracy by class"].command.endswith("it'\"'\"'s old' --attacks pgd-20 --limit 10")
    assert found["accuracy against eps"].command.endswith("--attacks none --curve")
    assert set(found) == {
        "accuracy by class", "accuracy against eps", "examples", "where its examples lie to the teacher's boundary"
    }  # fmt: skip


def flags(tmp_path: Path, **how: object) -> str:
    groups = read(make_run(tmp_path / "a", **how))  # type: ignore[arg-type]
    return "\n".join(
        f"{flag.level}: {flag.text} {flag.where}" for flag in findings_of(groups, main_evaluation_of(groups))
    )


def test_robust_overfitting_is_noticed_from_three_points_on(tmp_path: Path) -> None:
    assert "Robust overfitting" in flags(tmp_path, robust=(20.0, 40.0, 36.9), judged=scores(FIRST))
    assert "40.0 % in epoch 2, 3.1 points less" in flags(tmp_path, robust=(20.0, 40.0, 36.9), judged=scores(FIRST))
    assert "Robust overfitting" not in flags(tmp_path, robust=(20.0, 40.0, 37.1), judged=scores(FIRST))


def test_a_run_that_still_trains_says_so(tmp_path: Path) -> None:
    said = flags(tmp_path, robust=(20.0, 40.0))
    assert "warning: The training is not at its end" in said
    assert "epoch 2 of 3" in said
    assert "Not judged on test images" in said
    assert "not at its end" not in flags(tmp_path, robust=(20.0, 40.0, 41.0))


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [((90, 50, 60), "grows with the radius"), ((90, 50, 40), "No"), ((95, 94, 90), "No")],  # the last: a small eps
)
def test_a_curve_that_cannot_be_is_a_warning(accuracy: tuple[float, ...], words: str, tmp_path: Path) -> None:
    path = make_run(tmp_path / "a", judged=scores(FIRST))
    (path / "eval/best_PGD-20/curve.json").write_text(json.dumps(curve(accuracy)))
    groups = read(path)
    said = [flag.text for flag in findings_of(groups, main_evaluation_of(groups)) if flag.level == "warning"]
    assert any(words in text for text in said) or (words == "No" and not said)


def test_what_a_step_costs(tmp_path: Path) -> None:
    sheet = cost_table(read(make_run(tmp_path / "a", judged=scores(FIRST))))
    assert sheet is not None
    found = dict(zip(sheet.columns, (cell.value for cell in sheet.rows[0]), strict=True))
    assert found["ms a step"] == 100  # ten steps a second
    assert found["peak memory, MiB"] == 303
    assert "energy, kJ" not in found
    assert found["judging, minutes"] == pytest.approx(60.5 / 60)


TABLE = Table(
    "t", "A_title & more", ["name", "accuracy, %", "share, %"],
    [[words("a|b_<i>"), mean_and_sd((61.04, 1.8)), interval(50.0, 40.0, 60.0)], [words("c"), number(-1.5), TableCell("–")]],
    note="L∞ ± 5 %",
)  # fmt: skip


def test_one_table_in_four_languages() -> None:
    page = TABLE.html()
    assert '<th scope="row">a|b_&lt;i&gt;</th>' in page
    assert 'data-value="61.04">61.0 ± 1.8</td>' in page
    assert page.count('<button type="button">') == 3
    text = TABLE.markdown()
    assert r"| a\|b_\<i\> | 61.0 ± 1.8 | 50.0 (40.0–60.0) |" in text
    assert "|---|---:|---:|" in text
    tex = TABLE.latex()
    assert r"a|b\_<i> & 61.0 $\pm$ 1.8 & 50.0 (40.0--60.0) \\" in tex
    assert r"A\_title \& more. L$\infty$ $\pm$ 5 \%" in tex
    assert r"\begin{tabular}{lrr}" in tex
    rows = list(csv.reader(io.StringIO(TABLE.csv())))
    assert rows[0] == ["name", "accuracy, %", "accuracy, % sd", "share, %", "share, % low", "share, % high"]
    assert rows[1] == ["a|b_<i>", "61.04", "1.8", "50.0", "40.0", "60.0"]
    assert rows[2] == ["c", "-1.5", "", "", "", ""]
    assert set(table_files([TABLE], "csv", "r")) == {"r.t.csv"}


def test_the_mean_of_curves_is_that_of_what_is_there() -> None:
    line = mean_line("a", 0, [[(1, 10), (2, 20)], [(1, 30)]])
    assert (list(line.xs), list(line.ys)) == ([1, 2], [20, 20])
    assert (list(line.low), list(line.high)) == ([10, 20], [30, 20])


@pytest.mark.parametrize(("low", "high"), [(0, 97), (0, 0.031), (3, 3), (0, 1e-17), (-0.2, 7.4), (1, 200)])
def test_ticks_cover_the_range_and_are_few(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low <= high <= found[-1]
    assert 2 <= len(found) <= 8


def test_words_from_files_are_never_markup(tmp_path: Path) -> None:
    page = section("examples", groups=[("<u>", cards_of(shown(), "<script>alert(1)</script>", 9_999))])
    assert "<script" not in page
    assert "<u>" not in page
    assert "&lt;b&gt;&amp;owl&lt;/b&gt;" in page
    assert page.count("data:image/png;base64,") == 6
    assert 'class="card fooled"' in page  # right at x, wrong at x'
    assert 'class="card kept"' in page


def test_a_curve_is_what_evaluations_at_each_radius_say() -> None:
    images, net, threat = blobs(16), small_net(), Threat(eps=0.05)
    found = curve_of(net, images, threat, batch_size=9, seed=3)
    assert found["radii"] == pytest.approx([0, 0.0125, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2])
    for radius, accuracy in zip(found["radii"], found["accuracy"], strict=True):
        again = run_attacks(
            net,
            images,
            Threat(eps=radius),
            choose_attacks("pgd-20", suite(9, 3)),
            execution=Execution(batch_size=9, seed=3),
        )
        assert accuracy == 100 * again.accuracy("PGD-20")
    assert found["accuracy"][0] == 100 * again.accuracy("clean")


def test_radii_stay_inside_the_pixel_range() -> None:
    assert radii_of(Threat(eps=0.4))[-1] == 1.0
    assert radii_of(Threat(eps=5.0, norm="l2"))[-1] == 16.0
    with pytest.raises(MmardError, match="eps is 0"):
        radii_of(Threat(eps=0))


def test_examples_lie_in_the_ball_and_say_what_the_model_says(tmp_path: Path) -> None:
    images, net, threat = blobs(40), small_net().train(), Threat(eps=0.1)
    found = examples(net, images, threat, count=8)
    assert net.training
    found.save(tmp_path / "e.safetensors")
    back = Examples.load(tmp_path / "e.safetensors")
    assert back.metadata == found.metadata
    x = back.x.float() / 255
    assert torch.equal(torch.bincount(back.labels), torch.tensor([2, 2, 2, 2]))
    assert torch.equal(x, images.batch(back.index)[0])
    assert 0 < (back.x_adv - x).abs().max() <= 0.1 + 1e-6
    with torch.no_grad():
        logits = net.eval()(back.x_adv)
    assert torch.equal(logits.argmax(1), back.said[:, 1])
    assert back.confidence[:, 1].tolist() == pytest.approx(logits.softmax(1).amax(1).tolist(), abs=1e-5)
    (tmp_path / "e.safetensors").write_bytes(b"no")
    with pytest.raises(MmardError, match="cannot read"):
        Examples.load(tmp_path / "e.safetensors")


def test_the_checks_of_an_evaluation_are_shown_once_with_their_runs(tmp_path: Path) -> None:
    check = {"name": "many steps", "level": "warning", "said": "5 < 9", "means": "<hidden>", "do": "look", "more": 1}
    for seed in (0, 1):
        make_run(tmp_path / f"s/a/seed-{seed}", judged=scores(FIRST, checks=[check, "odd"]), seed=seed)
    sheet = checks_table(read(tmp_path / "s"))
    assert sheet is not None
    (row,) = [[cell.text for cell in row] for row in sheet.rows]
    assert row == ["many steps", "warning", "5 < 9", "<hidden>", "look", "best_PGD-20", "a/seed-0, a/seed-1"]


def test_a_studys_own_order_and_differences_are_kept(tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_run(tmp_path / f"s/{name}/seed-0", judged=scores(FIRST), method=name)
    pair = {
        "baseline": "b",
        "label": "a",
        "attack": "clean",
        "n": 3,
        "mean": -1.5,
        "low": -4.0,
        "high": 1.0,
        "p_t": 0.2,
        "p_exact": None,
    }
    now = {"clean": 90.0, "PGD-20": 50.0, "worst case": 50.0}
    rows = [{"run": f"{name}/seed-0", "accuracies": now} for name in ("b", "a")]
    results = {"rows": rows, "comparisons": [pair, {**pair, "n": 1}, {}]}
    (tmp_path / "s/results.json").write_text(json.dumps(results))
    groups = read(tmp_path / "s")
    assert [group.name for group in groups] == ["b", "a"]
    sheet = result_tables.differences_table(results, groups, main_evaluation_of(groups))
    assert sheet is not None
    assert [[c.text for c in row] for row in sheet.rows] == [
        ["a − b", "clean", "3", "−1.50", "−4.00 to +1.00", "0.200", "–"]
    ]


def test_students_that_were_diagnosed_alike_make_one_table(tmp_path: Path) -> None:
    for seed, margin in ((0, 1.0), (1, 3.0)):
        row = {
            "margin": margin,
            "share": 0.5,
            "distance_linf": 0.1,
            "crossed": 0.0,
            "fooled": 0.2,
            "transfer": None,
            "entropy": 1,
        }
        found = {"examples": {"rslad": row}, "norm": "linf", "threat": "L∞ 8/255", "split": "test", "images": 7}
        run = make_run(tmp_path / f"s/a/seed-{seed}", seed=seed)
        (run / "diagnose").mkdir()
        (run / "diagnose/diagnosis.json").write_text(json.dumps(found))
    (sheet,) = diagnosis_tables(read(tmp_path / "s"))
    assert [c.text for c in sheet.rows[0]] == [
        "rslad", "2.00 ± 1.41", "50.0 ± 0.0", "0.1000 ± 0.0000", "0.0 ± 0.0", "20.0 ± 0.0", "–", "1.00 ± 0.00"
    ]  # fmt: skip


def test_every_table_is_on_the_page(two_seeds: list[Group]) -> None:
    made = Report(two_seeds, "t")
    page, tables = made.html("1"), made.tables()
    assert len(tables) > 3
    assert [table.key for table in tables if f"<caption>{escape(table.title)}" not in page] == []


def test_differences_of_another_evaluation_are_left_out(two_seeds: list[Group]) -> None:
    """A study's results.json stays as it was when its runs are evaluated anew, and its signs may be turned by now."""
    main = main_evaluation_of(two_seeds)
    rows = [
        {"run": run.name, "accuracies": {r["attack"]: r["accuracy"] for r in run.evaluations[main].rows}}
        for group in two_seeds for run in group.runs
    ]  # fmt: skip
    pair = {"label": "trades", "baseline": "rslad", "attack": "worst case", "n": 2, "mean": 1.0, "low": 0.0, "high": 2.0,
            "p_t": 0.5, "p_exact": 0.5}  # fmt: skip
    assert result_tables.differences_table({"comparisons": [pair], "rows": rows}, two_seeds, main) is not None
    rows[0]["accuracies"]["PGD-20"] += 1
    assert result_tables.differences_table({"comparisons": [pair], "rows": rows}, two_seeds, main) is None


def test_a_link_out_of_the_folder_is_not_shown(tmp_path: Path) -> None:
    (tmp_path / "private.txt").write_text("not for others")
    run = make_run(tmp_path / "run")
    (run / "method.txt").unlink(missing_ok=True)
    (run / "method.txt").symlink_to(tmp_path / "private.txt")
    assert RunFolder(run).formula() == ""
    (run / "settings.yaml").rename(tmp_path / "settings.yaml")
    (run / "settings.yaml").symlink_to(tmp_path / "settings.yaml")
    with pytest.raises(MmardError, match="leads out of"):
        RunFolder(run).settings()


def test_methods_of_ones_own_that_differ_are_no_seeds_of_another(tmp_path: Path) -> None:
    for seed in (0, 1):
        make_run(tmp_path / f"study/mine/seed-{seed}", seed=seed, method="mine.py:build")
    formulas = {0: "max CE", 1: "max KL"}
    groups = read_groups([tmp_path / "study"], lambda path: (None, formulas[int(str(path)[-1])]))
    assert [len(group.runs) for group in groups] == [1, 1]
    assert [len(group.runs) for group in read(tmp_path / "study")] == [2]


def test_times_of_seeds_on_cpus_are_left_out_beside_those_on_gpus(tmp_path: Path) -> None:
    for seed, (device, seconds) in enumerate((("NVIDIA H100", 1.0), ("cpu", 101.0))):
        run = make_run(tmp_path / f"study/a/seed-{seed}", seed=seed)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        (run / "metrics.jsonl").write_text(
            "".join(json.dumps({**line, "device": device, "seconds": seconds}) + "\n" for line in lines)
        )
    sheet = cost_table(read(tmp_path / "study"))
    assert sheet is not None
    assert sheet.rows[0][1].text == "100.0"


def test_no_letter_of_a_formula_is_unknown_to_latex() -> None:
    for method in METHODS.values():
        text = Table("t", "T", ["a"], [[words(str(method()))]], note="2/2ⁿ … → ⅓").latex()
        assert text.isascii(), [letter for letter in text if not letter.isascii()]
