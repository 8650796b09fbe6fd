"""The tables of what was trained, where its examples lie, what it cost, and what its checks found."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from mmard.evaluation.scores import WORST
from mmard.report.study_tables import diagnoses_table
from mmard.report.table import DASH, Table, mean_and_sd, words
from mmard.runs.evaluation import JsonObject, section_of
from mmard.runs.findings import checks_of
from mmard.runs.groups import Group
from mmard.runs.record import MEMORY, Run, data_name_of, threat_of

ENERGY = "joules"


def diagnosis_tables(groups: Sequence[Group]) -> list[Table]:
    """Make the tables of where examples lie, one a group: mean ± sd over its students that were diagnosed alike."""
    made: list[Table] = []
    for group in groups:
        found = [
            run.diagnosis for run in group.runs if run.diagnosis and isinstance(run.diagnosis.get("examples"), dict)
        ]
        alike = [d for d in found if _kind(d) == _kind(found[0])]
        if not alike:
            continue
        students = f" ± sd over {len(alike)} students" if len(alike) > 1 else ""
        metadata = ", ".join(str(alike[0].get(key, "")) for key in ("split", "threat"))
        note = f"Means{students}; {alike[0].get('images')} images, {metadata}. What the columns mean: docs/diagnose.md."
        key, title = f"diagnosis-{len(made) + 1}", f"Where examples lie, {group.name}"
        made.append(diagnoses_table(alike, key, title, note))
    return made


def _kind(found: JsonObject) -> tuple[str, ...]:
    keys = ("threat", "split", "norm", "images", "inner", "own_attacks")
    return (str(list(found["examples"])), *(str(found.get(key)) for key in keys))


def cost_table(groups: Sequence[Group]) -> Table | None:
    """Make the table of time, memory and energy. A column of which no run knows anything is left out."""
    wanted: list[tuple[str, str, Any]] = [
        ("ms a step", ".1f", lambda run: _median([1000 * s for s in _steps(run)])),
        (
            "images/s",
            ",.0f",
            lambda run: _median([r["images_per_second"] for r in run.metrics if "images_per_second" in r]),
        ),
        (
            "waiting for images, %",
            ".1f",
            lambda run: _median([100 * r["data_wait"] for r in run.metrics if "data_wait" in r]),
        ),
        ("training, minutes", ".1f", lambda run: sum(map(_seconds, run.metrics)) / 60 if run.metrics else None),
        ("peak memory, MiB", ",.0f", lambda run: max((r[MEMORY] for r in run.metrics if MEMORY in r), default=None)),
        ("energy, kJ", ".1f", lambda run: _energy(run)),
        ("judging, minutes", ".1f", lambda run: _judging(run)),
    ]
    groups = [replace(group, runs=_timed_alike(group.runs)) for group in groups]
    columns = [(t, form, [g.mean_sd(get) for g in groups]) for t, form, get in wanted]
    columns = [column for column in columns if any(found is not None for found in column[2])]
    if not columns:
        return None
    rows = [[words(g.name), *(mean_and_sd(found[i], form) for _, form, found in columns)] for i, g in enumerate(groups)]
    note = (
        "By the runs' own clocks, on the machine and with as much beside them as there was; a step is an epoch's seconds over its "
        "steps, median over epochs, without the looks at held-out images. Peak memory: of the GPU where there was one, else of the "
        "process. Energy: of the GPUs, as their drivers count it, with whatever else they did. Of seeds on GPUs and on CPUs those "
        "on GPUs alone."
    )
    return Table("cost", "Time, memory, energy", ["runs", *(title for title, *_ in columns)], rows, note=note)


def _timed_alike(runs: tuple[Run, ...]) -> tuple[Run, ...]:
    """Leave out runs on CPUs where others had a GPU: such times do not compare. Before 0.3 a GPU is known by its joules."""
    return tuple(run for run in runs if run.metrics and all(map(_on_gpu, run.metrics))) or runs


def _on_gpu(line: Mapping[str, Any]) -> bool:
    return line.get("device", "cpu") != "cpu" or "joules" in line


def _seconds(line: Mapping[str, Any]) -> float:
    """Sum up an epoch's seconds: of its steps, and of what was prepared before them."""
    return float(line["seconds"] + line.get("prepared_seconds", 0.0))


def _steps(run: Run) -> list[float]:
    """Compute the seconds of a step, an epoch each."""
    before = [0, *(r["step"] for r in run.metrics)]
    return [r["seconds"] / (r["step"] - b) for r, b in zip(run.metrics, before, strict=False) if r["step"] > b]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


def _energy(run: Run) -> float | None:
    known = [r[ENERGY] for r in run.metrics if ENERGY in r]
    return sum(known) / 1000 if known and len(known) == len(run.metrics) else None


def _judging(run: Run) -> float | None:
    seconds = [r["seconds"] for j in run.evaluations.values() for r in j.rows if r["attack"] == WORST]
    return sum(seconds) / 60 if seconds else None


def checks_table(groups: Sequence[Group]) -> Table | None:
    """Make the table of what evaluations found when they checked themselves, each once with the runs in which it said so."""
    said: dict[tuple[str, ...], list[str]] = {}
    for run in (run for group in groups for run in group.runs):
        for check in checks_of(run):
            said.setdefault(tuple(check.values()), []).append(run.name)
    rows = [
        [*map(words, key), words(", ".join(names[:6]) + (" …" if len(names) > 6 else ""))]
        for key, names in said.items()
    ]
    columns = ["check", "level", "what it found", "what it means", "what to do", "evaluation", "runs"]
    return Table("checks", "Checks before and during the evaluation", columns, rows, words=7) if rows else None


def setups_table(groups: Sequence[Group]) -> Table:
    """Make the table of what was trained, a row a group: method, student, teacher, data, threat, precision, device."""
    rows = []
    for group in groups:
        s = group.runs[0].settings
        epochs, formula = section_of(s, "train").get("epochs"), group.runs[0].formula.replace("\n", "; ")
        seeds = ", ".join(str(run.seed) for run in group.runs)
        what = (
            group.name,
            formula or s.get("method"),
            s.get("student"),
            s.get("teacher") or DASH,
            data_name_of(s),
            threat_of(s),
            epochs,
            "; ".join(dict.fromkeys(run.precision for run in group.runs)) or DASH,
            "; ".join(filter(None, dict.fromkeys(run.device for run in group.runs))) or DASH,
        )
        rows.append([*map(words, (*what, seeds))])
    columns = ["runs", "method", "student", "teacher", "data", "threat", "epochs", "precision", "device", "seeds"]
    return Table("setups", "What was trained", columns, rows, words=10)
