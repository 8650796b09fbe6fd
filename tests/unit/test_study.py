"""Studies without a process: the grid and its mistakes, who waits for whom, and figures against those done by hand."""

import csv
import io
import itertools
import json
import math
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run
from rich.console import Console
from scipy.stats import ttest_1samp

from mmard import MmardError
from mmard.evaluation.scores import wilson
from mmard.report.study_tables import HELD_OUT
from mmard.study import publish
from mmard.study.grid import axes_of, cells_of
from mmard.study.jobs import Job, jobs_of
from mmard.study.local_backend import cores, slots
from mmard.study.progress import Screen, comparison_lines
from mmard.study.queue import Listener, run_all
from mmard.study.results import results_of
from mmard.study.spec import StudyFile, read_study, studies
from mmard.study.statistics import paired_test, sign_flip
from mmard.utils.numbers import mean_sd

DOCS = Path(__file__).resolve().parents[2] / "docs"


def study(**keys: Any) -> StudyFile:
    return StudyFile.model_validate({"out": "runs/study", "base": {"method": "standard"}, **keys})


def test_cells_are_the_product_and_carry_their_settings() -> None:
    cells = cells_of(
        study(
            base="digits-rslad",
            settings={"train": {"epochs": 3}, "threat.eps": "8/255"},
            grid={
                "method": {"ours": {"name": "mmard", "base": "rslad"}},
                "method.inner": ["drift", "none"],
                "student": ["cnn-2-1", "cnn-4-1"],
                "teacher": {"small": "runs/a", "large": {"teacher": "runs/b", "teacher_recipe": None}},
                "data": {"few": {"limit": 100}},
                "schedule": {"short & fast": {"train": {"lr": 1}, "train.clip": 2}},
            },
            seeds=[3, 5],
        )
    )
    assert len(cells) == 2 * 2 * 2 * 2
    first, last = cells[0].settings, cells[-1].settings
    assert cells[0].name == "ours/drift/cnn-2-1/small/few/short---fast/seed-3"
    assert first.out == f"runs/study/{cells[0].name}"
    assert first.method == {"name": "mmard", "base": "rslad", "inner": "drift"}
    assert (first.teacher, first.teacher_recipe, last.teacher, last.teacher_recipe) == (
        "runs/a", "digits-teacher", "runs/b", None,
    )  # fmt: skip
    assert (first.data.limit, first.data.name, first.data.augment, first.data.seed) == (100, "digits", "crop", 0)
    assert (first.train.epochs, first.train.lr, first.train.clip, first.train.batch_size) == (3, 1, 2, 64)
    assert first.threat.eps == 8 / 255
    assert [c.settings.seed for c in cells[:2]] == [3, 5]
    assert last.student == "cnn-4-1"
    assert len({c.fingerprint for c in cells}) == len(cells)


def test_attacks_may_be_a_list() -> None:
    assert study(evaluate={"attacks": ["pgd-20", "cw"]}).evaluate == study(evaluate={"attacks": "pgd-20,cw"}).evaluate


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"grid": {"metod": ["rslad"]}}, ["unknown axis 'metod'", "did you mean method", "LABEL: {train.lr: 0.1}"]),
        (
            {"grid": {"size": {"a": {"train.lrr": 1}}}},
            ["runs/study/a/seed-0", "unknown setting 'train.lrr'", "train.lr"],
        ),
        ({"grid": {"student": []}}, ["axis 'student' is empty"]),
        ({"grid": {"student": {}}}, ["axis 'student' is empty"]),
        ({"grid": {"student": "cnn-2-1"}}, ["axis 'student' is 'cnn-2-1', expected a list of values or labels"]),
        ({"grid": {"student": ["cnn-2-1", "cnn-2-1"]}}, ["'cnn-2-1' and 'cnn-2-1' would share a folder"]),
        ({"grid": {"threat.eps": {"a/b": 0.1, "a-b": 0.2}}}, ["'a/b' and 'a-b' would share a folder"]),
        ({"grid": {"student": {"..": "cnn-2-1"}}}, ["'..' is no label"]),
        ({"grid": {"method": [{"name": "mmard"}]}}, ["needs a label", "method: {LABEL:"]),
        ({"grid": {"seed": [0, 1]}}, ["seed is not for a cell to choose", "seeds: [0, 1, 2]"]),
        ({"grid": {"size": {"a": {"out": "x"}}}}, ["out is not for a cell to choose"]),
        ({"settings": {"out": "x"}}, ["settings: out is not"]),
        ({"base": {"seed": 1}}, ["base: seed is not"]),
        ({"base": "digits-rsald"}, ["unknown recipe 'digits-rsald'", "did you mean digits-rslad"]),
        ({"grid": {"train.lr": [0.1], "size": {"a": {"train.lr": 0.2}}}}, ["'train.lr' and 'size' both set train.lr"]),
        (
            {"grid": {"method.inner": ["drift"], "method": ["mmard"]}},
            ["'method.inner' and 'method' both set", "before"],
        ),
        ({"grid": {"student": ["cnn-2-1"]}, "compare": "studnet"}, ["unknown axis to compare", "did you mean student"]),
        ({"seeds": [0, 0]}, ["seeds [0, 0] has one twice"]),
        ({"grid": {"size": {"a": {}, "b": {"train.lr": 0.1}}}}, ["a/seed-0 and b/seed-0 have the same settings"]),
    ],
)
def test_a_wrong_grid_is_one_line(keys: dict[str, Any], expected: list[str]) -> None:
    with pytest.raises(MmardError) as e:
        cells_of(study(**keys))
    assert "\n" not in str(e.value)
    for word in expected:
        assert word in str(e.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("grid: {}", "key of the study 'out' is missing"),
        ("out: a\ngird: {}", "unknown key of the study 'gird'; did you mean grid?"),
        ("out: a\nevaluate: {atacks: fgsm}", "unknown key of the study 'evaluate.atacks'"),
        ("out: a\nseeds: []", "'seeds' is []"),
        ("out: a\ngrid:\n  method:\n    x: rslad\n    x: trades", "'x' stands twice, again in line 5"),
        ("out: [", "is no YAML"),
        ("- a", "holds a list"),
        (None, "cannot read"),
    ],
)
def test_a_wrong_file_is_one_line(text: str | None, expected: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(MmardError, match=r"^[^\n]*$") as e:
        read_study(tmp_path / "s.yaml")
    assert expected in str(e.value)


@pytest.mark.parametrize("name", studies())
def test_every_built_in_study_is_valid(name: str, tmp_path: Path) -> None:
    cells = cells_of(read_study(name))
    assert len({cell.name for cell in cells}) == len(cells)
    read_study(name).save(tmp_path / "study.yaml")
    assert [c.fingerprint for c in cells_of(read_study(tmp_path / "study.yaml"))] == [c.fingerprint for c in cells]


def test_a_teacher_that_cells_share_is_one_job_before_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    keys: dict[str, Any] = {"base": "digits-rslad", "settings": {"teacher": "runs/t"}, "seeds": [0, 1]}
    plan = study(**keys, grid={"student": ["cnn-2-1", "cnn-4-1"]})
    first, *others = jobs_of(cells_of(plan), plan.evaluate)
    assert (first.settings.out, first.evaluation, first.needs) == ("runs/t", None, None)
    assert len(others) == 4
    assert {job.needs for job in others} == {first.name}
    apart = study(**keys, grid={"data.seed": [0, 1]})
    with pytest.raises(MmardError, match=r"another teacher in runs/t: data\.seed: 0 → 1"):
        jobs_of(cells_of(apart), apart.evaluate)
    plan = study(grid={"student": ["cnn-2-1"]}, settings={"engine.devices": 2})
    with pytest.raises(MmardError, match=r"cell cnn-2-1/seed-0: .*expected 1$"):
        jobs_of(cells_of(plan), plan.evaluate)


class Pretend:
    """`Backend` in which a job is over when it is asked about; those in ``bad`` fail."""

    def __init__(self, room: int, bad: set[str]) -> None:
        self.rooms, self.bad, self.running, self.log = room, bad, [], []  # type: ignore[var-annotated]
        self.most = 0

    def room(self) -> bool:
        return len(self.running) < self.rooms

    def start(self, job: Job) -> None:
        self.running.append(job)
        self.log.append(job.name)
        self.most = max(self.most, len(self.running))

    def ended(self) -> list[tuple[Job, str | None]]:
        over, self.running = self.running, []
        return [(job, "bad luck" if job.name in self.bad else None) for job in over]

    def stop(self) -> None:
        self.log.append("stop")


def test_the_schedule_keeps_the_order_and_a_failure_stops_only_who_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mmard.study.queue.TICK", 0)
    settings = cells_of(study())[0].settings
    t, u = (Job(name, settings) for name in "tu")
    jobs = [t, u, *(Job(f"{n}{i}", settings, needs=n) for n in "tu" for i in range(3)), Job("free", settings)]
    places = Pretend(2, {"t", "u1"})
    failed = run_all(jobs, places, Listener())
    assert failed == {"t": "bad luck", "t0": "t failed", "t1": "t failed", "t2": "t failed", "u1": "bad luck"}
    assert places.log == ["t", "u", "u0", "u1", "u2", "free", "stop"]
    assert places.most == 2
    wide = Pretend(9, set())
    assert run_all(jobs, wide, Listener()) == {}
    assert wide.log[:3] == ["t", "u", "free"]


def test_places_share_out_cores_and_devices() -> None:
    assert [s.environment["OMP_NUM_THREADS"] for s in slots(None, None, [])] == ["1"] * cores()
    assert [s.environment for s in slots(1, None, [])] == [{"OMP_NUM_THREADS": str(cores())}]
    assert slots(500, None, [])[0].environment == {"OMP_NUM_THREADS": "1"}
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in slots(None, 3, ["4", "6"])] == ["4", "6"]
    assert [s.environment["CUDA_VISIBLE_DEVICES"] for s in slots(3, 3, ["4", "6"])] == ["4", "6", "4"]


def test_statistics_against_hand_computed_numbers() -> None:
    assert mean_sd([2.0, 4.0, 9.0]) == (5.0, pytest.approx(13**0.5))
    assert mean_sd([2.0]) == (2.0, None)
    found = paired_test([1.0, 2.0, 3.0])  # t = 2√3 with 2 degrees of freedom; its 97.5 % point is 4.302653
    assert (found.n, found.mean, found.sd) == (3, 2.0, 1.0)
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert found.p_t == pytest.approx(1 - (12 / (2 + 12)) ** 0.5)  # for two degrees: 1 − t/√(2 + t²)
    assert found.p_exact == 0.25
    assert sign_flip([1.0, -2.0, 4.0]) == 6 / 8  # of ±1 ±2 ±4 the sums ±7, ±5 and ±3, and not ±1
    assert sign_flip([0.1, 0.2, -0.3, 0.001]) == 1  # 0.1 + 0.2 − 0.3 is 0 but for rounding
    assert sign_flip([0.3] * 5) == 2 / 32
    assert (paired_test([1.0]).low, paired_test([1.0]).p_exact) == (None, 1.0)
    assert (paired_test([2.0, 2.0]).p_t, paired_test([2.0, 2.0]).sd) == (None, 0.0)
    assert paired_test([1.0, 2.0] * 10).p_exact is None
    same_but_for_rounding = [71.4 - 70.2, 61.4 - 60.2, 51.4 - 50.2]
    assert len(set(same_but_for_rounding)) > 1
    assert paired_test(same_but_for_rounding).p_t is None


def test_scipy_says_what_the_formulas_say() -> None:
    for n, right in ((1, 0), (10, 3), (500, 499), (10_000, 4_321), (10_000, 10_000)):
        share, z = right / n, 1.96
        middle, reach = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
        ends = [(middle - reach) / (1 + z * z / n), (middle + reach) / (1 + z * z / n)]
        assert wilson(share, n) == pytest.approx([max(0.0, ends[0]), min(1.0, ends[1])], abs=1e-12)
    for differences in ([0.4, -1.2, 3.5, 3.5], [1.5, 2.5, -0.5, 4.0, 1.0, -2.0], [0.1 + 0.2, -0.3, 5.0]):
        flips = [[s * d for s, d in zip(signs, differences, strict=True)] for signs in signs_of(len(differences))]
        far = [abs(math.fsum(f)) >= abs(math.fsum(differences)) - 1e-9 for f in flips]
        assert sign_flip(differences) == pytest.approx(sum(far) / len(far), abs=1e-12)
        found, given = paired_test(differences), ttest_1samp(differences, 0.0)
        assert found.p_t == pytest.approx(float(given.pvalue), abs=1e-12)
        assert (found.low, found.high) == pytest.approx(tuple(given.confidence_interval(0.95)), abs=1e-12)


def signs_of(n: int) -> list[tuple[int, ...]]:
    return list(itertools.product((1, -1), repeat=n))


WORST = {"a": (40.0, 44.0, 48.0), "b": (41.0, 46.0, 51.0)}


def fake(plan: StudyFile, without: str = "") -> None:
    """Run folders as small as they can be, with worst cases from `WORST` and clean accuracies of twice that."""
    for cell in cells_of(plan):
        if cell.name == without:
            continue
        folder = cell.folder
        worst = WORST[cell.labels["method"]][cell.settings.seed] + (10 if cell.labels.get("size") == "large" else 0)
        folder.begin(cell.settings.resolved())
        for epoch, seconds in ((1, 9.0), (2, 2.0), (3, 3.0)):
            folder.append(
                {"step": epoch, "epoch": epoch, "seconds": seconds, "clean": 50.0, "robust": 30.0 + epoch % 2}
            )
        rows = [
            {
                "attack": name,
                "detail": "so",
                "accuracy": value,
                "low": value - 5,
                "high": value + 5,
                "samples": 100,
                "seconds": 1.0,
            }
            for name, value in (("clean", 2 * worst), ("PGD-20", worst), ("worst case", worst))
        ]
        place = folder.path / "eval" / "best_PGD-20"
        place.mkdir(parents=True)
        (place / "scores.json").write_text(json.dumps({"asked": plan.evaluate.asked(), "attacks": rows}))
        other = folder.path / "eval" / "best_FGSM"
        other.mkdir()
        (other / "scores.json").write_text(json.dumps({"asked": {}, "attacks": []}))


@pytest.fixture
def faked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StudyFile:
    monkeypatch.chdir(tmp_path)
    plan = study(
        about="A study.",
        grid={"method": {"a": "standard", "b": "pgd_at"}},
        seeds=[0, 1, 2],
        evaluate={"attacks": "pgd-20"},
    )
    fake(plan)
    return plan


def test_results_against_hand_computed_numbers(faked: StudyFile) -> None:
    results = publish.write_results(faked)
    a, b = results["groups"]
    assert a["figures"]["worst case"] == {"mean": 44.0, "sd": 4.0}
    assert b["figures"]["clean"] == {"mean": 92.0, "sd": 10.0}
    assert a["figures"]["seconds an epoch"]["mean"] == 3.0
    row = results["rows"][-1]
    assert (row["run"], row["best epoch"], row["held-out robust"]) == ("b/seed-2", 1, 31.0)
    worst = next(c for c in results["comparisons"] if c["attack"] == "worst case")
    assert worst["differences"] == [1.0, 2.0, 3.0]
    assert (worst["mean"], worst["sd"], worst["p_exact"]) == (2.0, 1.0, 0.25)
    table = Path("runs/study/table.md").read_text()
    assert "| a | 3 | 88.0 ± 8.0 | 44.0 ± 4.0 | 44.0 ± 4.0 | 50.0 ± 0.0 | 31.0 ± 0.0 | 3.0 ± 0.0 |" in table
    assert "| b − a, worst case | 3 | +2.00 | 1.00 | −0.48 to +4.48 | 0.074 | 0.250 |" in table
    assert "with 3 pairs its p cannot go under 0.25" in table
    assert "100 test images, L∞ 8/255. PGD-20: so." in table
    assert "All runs are judged on the same test images" in table
    rows = list(csv.DictReader(Path("runs/study/results.csv").read_text().splitlines()))
    assert [r["worst case"] for r in rows] == ["40.0", "44.0", "48.0", "41.0", "46.0", "51.0"]
    assert Path("runs/study/figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("sign", [{"joules": 9.0}, {"device": "NVIDIA H100"}])
def test_times_are_of_runs_on_a_gpu_alone_where_there_are_such(faked: StudyFile, sign: dict[str, Any]) -> None:
    for i, cell in enumerate(cells_of(faked)):
        more = sign if i < 2 else {"device": "cpu"}  # a/seed-0, a/seed-1
        cell.folder.append({"step": 4, "epoch": 4, "seconds": 0.5, "clean": 50.0, "robust": 30.0, **more})
    results = publish.write_results(faked)
    assert [group["figures"].get("seconds an epoch") for group in results["groups"]] == [{"mean": 2.5, "sd": 0.0}, None]
    table = Path("runs/study/table.md").read_text()
    assert "| b | 3 | 92.0 ± 10.0 | 46.0 ± 5.0 | 46.0 ± 5.0 | 50.0 ± 0.0 | 31.0 ± 0.0 | – |" in table
    assert "of runs on a GPU alone" in table


def test_a_cell_whose_figures_do_not_stand_is_told_and_the_exit_code_says_so(
    mmard: Run, faked: StudyFile, tmp_path: Path
) -> None:
    """Its checks had found an error; the study said "done", and its table had the figures like any other."""
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(faked.model_dump(mode="json")))
    words = ["study", "s.yaml", "--report-only"]
    assert mmard(*words).returncode == 0
    assert "do not stand" not in Path("runs/study/table.md").read_text()
    cell = cells_of(faked)[1]
    file = cell.folder.path / "eval/best_PGD-20/scores.json"
    found = [{"name": "norm", "level": "error", "said": "an image was moved too far", "means": "m", "do": "d"},
             {"name": "scale", "level": "warning", "said": "large logits", "means": "m", "do": "d"}]  # fmt: skip
    file.write_text(json.dumps({**json.loads(file.read_text()), "checks": found}))
    done = mmard(*words)
    assert done.returncode == 1
    assert "does not stand: a/seed-1 (norm: an image was moved too far)" in done.stdout
    table = Path("runs/study/table.md").read_text()
    assert "**Figures that do not stand**, by their own checks: a/seed-1 (norm: an image was moved too far)." in table
    assert table.index("do not stand") < table.index("<details>")
    rows = list(csv.DictReader(Path("runs/study/results.csv").read_text().splitlines()))
    assert [row["errors"] for row in rows] == ["", "norm: an image was moved too far", "", "", "", ""]
    said = Console(file=io.StringIO(), width=200)
    jobs = [Job(one.name, one.settings, faked.evaluate) for one in cells_of(faked)[:2]]
    with Screen(jobs, 0, said) as screen:
        for job in jobs:
            screen.ended(job, None)
    first, second = said.file.getvalue().strip().splitlines()  # type: ignore[attr-defined]
    assert first.startswith("done    a/seed-0, 0 s")
    assert second == "done    a/seed-1, but its figures do not stand: norm: an image was moved too far"


def test_a_cell_that_is_still_trained_is_no_result(faked: StudyFile) -> None:
    """Somebody looks at it by the study's own evaluation, and its half-trained figures stood in table and test."""
    cell = cells_of(faked)[0]
    cell.folder.save({"step": 1})
    results = publish.write_results(faked)
    assert cell.name not in {row["run"] for row in results["rows"]}
    assert results["missing"] == [cell.name]


def test_without_attacks_there_is_no_worst_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = study(grid={"method": {"a": "standard", "b": "pgd_at"}}, seeds=[0, 1], evaluate={"attacks": "none"})
    fake(plan)
    for cell in cells_of(plan):
        file = cell.folder.path / "eval/best_PGD-20/scores.json"
        told = json.loads(file.read_text())
        file.write_text(json.dumps({**told, "attacks": [told["attacks"][0], told["attacks"][2]]}))
    results = publish.write_results(plan)
    assert results["attacks"] == ["clean"]
    assert {c["attack"] for c in results["comparisons"]} == {"clean", *HELD_OUT}


def test_cells_whose_paths_end_alike_are_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Records have paths cut to their last names, by which two teachers are one."""
    monkeypatch.chdir(tmp_path)
    places = {name: f"/data/{name}/best.safetensors" for name in "ab"}
    plan = study(
        grid={"method": {"a": "standard", "b": "pgd_at"}, "teacher": places}, seeds=[0], evaluate={"attacks": "pgd-20"}
    )
    fake(plan)
    verdicts = Path("runs/study/a/a/seed-0/eval/best_PGD-20/verdicts.safetensors")
    verdicts.write_bytes(b"which image withstood which attack")
    Path("page.md").write_text("<!-- study: study -->\n<!-- end of study -->\n")
    publish.keep(plan, Path("page.md"))
    with tarfile.open("page/study/runs.tar.gz") as kept_runs:
        (found,) = [member for member in kept_runs if member.name.endswith("verdicts.safetensors")]
        assert found.name == verdicts.relative_to("runs/study").as_posix()
        assert kept_runs.extractfile(found).read() == verdicts.read_bytes()  # type: ignore[union-attr]
    assert "| a | a | 1 |" in Path("page.md").read_text()
    assert "| b | b | 1 |" in Path("page.md").read_text()


def test_pairs_share_seed_and_all_other_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sizes = {"small": {"student": "cnn-2-1"}, "large": {"student": "cnn-4-1"}}
    plan = study(
        grid={"size": sizes, "method": {"a": "standard", "b": "pgd_at"}},
        seeds=[0, 1, 2],
        evaluate={"attacks": "pgd-20"},
        compare="method",
    )
    fake(plan, without="large/b/seed-1")
    worst = next(c for c in results_of(plan)["comparisons"] if c["attack"] == "worst case")
    assert (worst["differences"], worst["n"], worst["settings"]) == ([1.0, 2.0, 3.0], 3, [2, 1, 2])
    by_size = results_of(plan.model_copy(update={"compare": None}))
    worst = next(c for c in by_size["comparisons"] if c["attack"] == "worst case")
    assert (by_size["compared"], worst["label"], worst["baseline"]) == ("size", "large", "small")
    assert worst["differences"] == [10.0] * 3
    assert worst["p_t"] is None


def test_pairs_of_one_seed_count_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Six settings of three seeds were eighteen independent pairs, and p .03 where seeds alone say .2."""
    monkeypatch.chdir(tmp_path)
    students = {name: {"student": f"cnn-{2 * i + 2}-1"} for i, name in enumerate("uvwxyz")}
    plan = study(
        grid={"method": {"a": "standard", "b": "pgd_at"}, "size": students},
        seeds=[0, 1, 2],
        evaluate={"attacks": "pgd-20"},
    )
    fake(plan)
    for i, cell in enumerate(cells_of(plan)):
        file = cell.folder.path / "eval/best_PGD-20/scores.json"
        told = json.loads(file.read_text())
        told["attacks"] = [row | {"accuracy": row["accuracy"] + (i * 7) % 5} for row in told["attacks"]]
        file.write_text(json.dumps(told))
    results = publish.write_results(plan)
    found = {(row["labels"]["method"], row["labels"]["size"], row["seed"]): row["accuracies"]["PGD-20"]
             for row in results["rows"]}  # fmt: skip
    by_hand = [sum(found["b", size, seed] - found["a", size, seed] for size in students) / 6 for seed in range(3)]
    pgd = next(c for c in results["comparisons"] if c["attack"] == "PGD-20")
    given = ttest_1samp(by_hand, 0.0)
    assert pgd["differences"] == pytest.approx(by_hand)
    assert (pgd["n"], pgd["seeds"], pgd["settings"]) == (3, [0, 1, 2], [6, 6, 6])
    assert (pgd["p_t"], pgd["p_exact"]) == pytest.approx((float(given.pvalue), sign_flip(by_hand)))
    assert (pgd["low"], pgd["high"]) == pytest.approx(tuple(given.confidence_interval(0.95)))
    said = "Pairs of one seed are not independent, and count as one: the mean over the 6 settings of each seed."
    assert said in Path("runs/study/table.md").read_text()
    assert "over 3 pairs, each the mean over up to 6 settings of a seed, exact p" in comparison_lines(results)[0]
    one = publish.write_results(plan.model_copy(update={"seeds": (1,)}))
    assert {c["n"] for c in one["comparisons"]} == {1}
    assert "One seed says nothing of a difference" in Path("runs/study/table.md").read_text()


def test_cells_of_other_threats_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A difference of eps .05 and eps .2 stood in the table, which named no eps at all."""
    monkeypatch.chdir(tmp_path)
    sizes = {"small": {"threat.eps": 0.05}, "large": {"threat.eps": 0.2}}
    plan = study(
        grid={"size": sizes, "method": {"a": "standard", "b": "pgd_at"}},
        seeds=[0, 1, 2],
        evaluate={"attacks": "pgd-20"},
    )
    fake(plan)
    results = publish.write_results(plan)
    assert results["comparisons"] == []
    assert results["apart"] == [{"baseline": "small", "label": "large", "n": 6}]
    table = Path("runs/study/table.md").read_text()
    assert "100 test images, L∞ 0.05 (small/a, small/b) or 100 test images, L∞ 51/255 (large/a, large/b)." in table
    assert "**No difference is taken** of large − small (6 pairs)" in table
    assert comparison_lines(results)[0].startswith("large − small (6 pairs): not compared")
    by_method = results_of(plan.model_copy(update={"compare": "method"}))
    assert by_method["apart"] == []
    assert {c["attack"] for c in by_method["comparisons"]} == {"clean", "PGD-20", "worst case", *HELD_OUT}


def test_cells_of_other_test_images_are_not_compared(faked: StudyFile) -> None:
    """They are known by a digest of pixels and labels: as many images under the same name may be other ones."""
    for cell in cells_of(faked):
        file = cell.folder.path / "eval/best_PGD-20/scores.json"
        digest = ("y" if cell.name == "b/seed-0" else "x") * 64
        file.write_text(json.dumps({**json.loads(file.read_text()), "test_images": digest}))
    results = publish.write_results(faked)
    assert results["apart"] == [{"baseline": "a", "label": "b", "n": 1}]
    worst = next(c for c in results["comparisons"] if c["attack"] == "worst case")
    assert worst["differences"] == [2.0, 3.0]
    table = Path("runs/study/table.md").read_text()
    assert "100 test images of digits (xxxxxxxx), L∞ 8/255 (a, b)" in table
    assert "100 test images of digits (yyyyyyyy), L∞ 8/255 (b)." in table
    assert "The two runs of a pair are judged on the same test images" in table
    assert "No difference is taken** of b − a (1 pair)" in table


def test_a_cell_without_held_out_figures_is_compared_by_the_others(faked: StudyFile) -> None:
    """A run whose metrics were lost ended all comparisons with a KeyError."""
    (next(c for c in cells_of(faked) if c.name == "b/seed-0").folder.metrics_file).write_text("")
    found = {c["attack"]: c["n"] for c in results_of(faked)["comparisons"]}
    assert (found["worst case"], found["held-out clean"]) == (3, 2)


def test_one_seed_and_a_missing_cell_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plan = study(grid={"method": {"a": "standard", "b": "pgd_at"}}, evaluate={"attacks": "pgd-20"}, seeds=[1])
    fake(plan, without="b/seed-1")
    with pytest.raises(MmardError, match="no cell is trained and judged"):
        results_of(plan.model_copy(update={"seeds": (2,)}))
    publish.write_results(plan)
    table = Path("runs/study/table.md").read_text()
    assert "| a | 1 | 88.0 (83.0–93.0) |" in table
    assert "**Not there yet:** b/seed-1." in table
    assert "pairs" not in table


def test_a_page_is_made_anew_from_what_is_kept_beside_it(mmard: Run, faked: StudyFile, tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(faked.model_dump(mode="json")))
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    words = ["study", "s.yaml", "--report-only", "--into", page]
    assert "cannot read" in mmard(*words).stderr
    page.write_text("# Results\n")
    assert "<!-- study: study --> and <!-- end of study -->" in mmard(*words).stderr
    other = "<!-- study: other one -->\nof another time\n<!-- end of study -->\n"
    page.write_text(f"# Results\n<!-- study: study -->\nold\n<!-- end of study -->\nmore\n{other}")
    assert mmard(*words).returncode == 0
    assert page.read_text().endswith(other)
    assert "results/other one/study.yaml" in mmard("results", page).stderr
    assert kept(page.parent / "results/study") == ["figure.png", "runs.tar.gz"]
    made = page.read_text().removesuffix(other)
    assert made.startswith("# Results\n<!-- study: study -->\nA study.\n\n| method | seeds |")
    assert made.endswith("(results/study/figure.png)\n<!-- end of study -->\nmore\n")
    page.write_text(made.replace("44.0 ± 4.0", "99.9 ± 0.1"))
    figure = page.parent / "results/study/figure.png"
    before = figure.read_bytes()
    archive = (page.parent / "results/study/runs.tar.gz").read_bytes()
    assert mmard(*words).returncode == 0
    assert (page.parent / "results/study/runs.tar.gz").read_bytes() == archive
    (tmp_path / "runs").rename(tmp_path / "gone")
    assert "study: tables and figure made anew" in mmard("results", page).stdout
    assert page.read_text() == made
    assert figure.read_bytes() == before


def test_records_that_do_not_go_with_the_kept_ones_leave_the_archive_alone(
    mmard: Run, faked: StudyFile, tmp_path: Path
) -> None:
    """The archive was written over before its table was made, and could never be read again."""
    page = tmp_path / "page.md"
    page.write_text("<!-- study: study -->\n<!-- end of study -->\n")
    words = ["study", "s.yaml", "--report-only", "--into", page]
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(faked.model_dump(mode="json")))
    assert mmard(*words).returncode == 0
    archive, text = (tmp_path / "page/study/runs.tar.gz").read_bytes(), page.read_text()
    other = faked.model_copy(update={"out": "runs/v2/study", "settings": {"train.epochs": 60}})
    fake(other, without="b/seed-1")
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(other.model_dump(mode="json")))
    failed = mmard(*words)
    assert "made with other settings: train.epochs" in failed.stderr
    assert (tmp_path / "page/study/runs.tar.gz").read_bytes() == archive
    assert page.read_text() == text
    assert mmard("results", page).returncode == 0


def test_the_figure_of_an_exported_model_is_not_the_cells_own(faked: StudyFile) -> None:
    """Its folder begins with the checkpoint's name and comes first in the alphabet."""
    own = next(iter(cells_of(faked))).folder.path / "eval/best_PGD-20"
    exported = shutil.copytree(own, own.with_name("best-int8.onnx_PGD-20"))
    table = json.loads((own / "scores.json").read_text())
    told = table | {"model": "best-int8.onnx", "attacks": [row | {"accuracy": 1.0} for row in table["attacks"]]}
    (exported / "scores.json").write_text(json.dumps(told))
    assert results_of(faked)["rows"][0]["accuracies"]["worst case"] == 40.0


def kept(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_folder_of_the_old_layout_is_read_and_packed_when_the_study_goes_on(
    mmard: Run, faked: StudyFile, tmp_path: Path
) -> None:
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(faked.model_dump(mode="json")))
    page, beside = tmp_path / "page.md", tmp_path / "page/study"
    page.write_text("<!-- study: study -->\n<!-- end of study -->\n")
    shutil.copytree("runs/study", beside)  # as it was kept: the runs as folders
    faked.save(beside / "study.yaml")
    (beside / "table.md").write_text("old\n")
    (beside / "notes.txt").write_text("by hand\n")
    assert mmard("results", page).returncode == 0
    made, table = page.read_text(), (beside / "table.md").read_text()
    assert "| a | 3 | 88.0 ± 8.0 | 44.0 ± 4.0 |" in made
    assert "| a | 3 | 88.0 ± 8.0 | 44.0 ± 4.0 |" in table
    shutil.rmtree("runs/study/a/seed-1")  # what was kept stays kept
    assert mmard("study", "s.yaml", "--report-only", "--into", page).returncode == 0
    other = [f"{m}/seed-{i}/eval/best_FGSM/scores.json" for m in "ab" for i in range(3)]
    assert set(kept(beside)) >= {"figure.png", "notes.txt", "runs.tar.gz"}
    assert not set(kept(beside)) & {"study.yaml", "results.json", "table.md", *other}
    assert page.read_text() == made


def test_a_study_that_runs_beside_its_page_keeps_its_runs(mmard: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    plan = study(out="page/study", grid={"method": {"a": "standard"}}, evaluate={"attacks": "pgd-20"})
    fake(plan)
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(plan.model_dump(mode="json")))
    page = tmp_path / "page.md"
    page.write_text("<!-- study: study -->\n<!-- end of study -->\n")
    before = kept(tmp_path / "page/study")
    assert mmard("study", "s.yaml", "--report-only", "--into", page).returncode == 0
    assert set(kept(tmp_path / "page/study")) >= set(before)
    assert "44.0" not in page.read_text()
    assert "40.0" in page.read_text()


def test_pages_below_a_page_are_made_anew_with_it_and_those_elsewhere_are_not(
    mmard: Run, faked: StudyFile, tmp_path: Path
) -> None:
    block = "<!-- study: study -->\n<!-- end of study -->\n"
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(faked.model_dump(mode="json")))
    (tmp_path / "docs/results").mkdir(parents=True)
    page, below = tmp_path / "docs/results.md", tmp_path / "docs/results/study.md"
    page.write_text(
        "[here](results/study.md#top), [gone](results/gone.md), [out](results/../other.md), [far](../far.md)\n"
    )
    below.write_text(block)
    for path in ("docs/other.md", "far.md", "docs/results/unlinked.md"):
        (tmp_path / path).write_text(block)
    assert mmard("study", "s.yaml", "--report-only", "--into", page).returncode == 0
    assert kept(tmp_path / "docs/results/study") == ["figure.png", "runs.tar.gz"]
    made = below.read_text()
    assert "| a | 3 | 88.0 ± 8.0 | 44.0 ± 4.0 |" in made
    assert "](study/figure.png)" in made
    for source in (page, below):
        below.write_text(made.replace("44.0 ± 4.0", "99.9 ± 0.1"))
        assert mmard("results", source).stdout == "study: tables and figure made anew\n"
        assert below.read_text() == made
    for path in ("docs/other.md", "far.md", "docs/results/unlinked.md"):
        assert (tmp_path / path).read_text() == block


def test_our_own_page_is_what_its_runs_say(mmard: Run, tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    made = mmard("results", "docs/results.md")
    assert made.returncode == 0, made.stderr
    assert "made anew" in made.stdout
    pages = [DOCS / "results.md", *(DOCS / "results").glob("*.md")]
    assert len(pages) > 10
    for page in pages:
        assert (tmp_path / "docs" / page.relative_to(DOCS)).read_text() == page.read_text()
    studies_kept = {folder.parent.name for folder in (DOCS / "results").rglob("figure.png")}
    assert {line.split(":")[0] for line in made.stdout.splitlines()} == studies_kept | {"digits-boundary"}


def test_a_changed_setting_under_an_old_run_is_refused_with_the_difference(
    mmard: Run, faked: StudyFile, tmp_path: Path
) -> None:
    changed = faked.model_copy(update={"settings": {"train.lr": 0.3}})
    (tmp_path / "s.yaml").write_text(yaml.safe_dump(changed.model_dump(mode="json")))
    for words in (["--report-only"], ["--dry-run"], []):
        done = mmard("study", "s.yaml", *words)
        assert done.returncode == 2
        assert "made with other settings: train.lr: 0.1 → 0.3" in done.stderr
        assert "(and 5 more folders)" in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1


def test_axes_keep_the_order_written() -> None:
    assert list(axes_of(study(grid={"student": ["cnn-2-1"], "method": ["rslad"]}))) == ["student", "method"]


def test_a_page_without_a_place_is_refused_before_anything_runs(mmard: Run, tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("nothing here\n")
    done = mmard("study", "smoke", "--into", "page.md")
    assert done.returncode == 2
    assert "page.md has no place for smoke; put two lines" in done.stderr
    assert not (tmp_path / "runs").exists()
    done = mmard("results", "page.md")
    assert done.returncode == 2
    assert "page.md has no block of a study" in done.stderr


def test_cells_do_not_share_what_their_axes_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    grid = {"method": {"m": {"name": "mmard"}}, "variant": {"a": {"method.beta": 2}, "b": {"train.lr": 0.05}}}
    study = StudyFile(out="runs/study", base={}, grid=grid, seeds=[0])
    a, b = (cell.settings.method for cell in cells_of(study))
    assert a == {"name": "mmard", "beta": 2}
    assert b == {"name": "mmard"}
