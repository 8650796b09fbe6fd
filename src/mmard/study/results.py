"""Rows and comparisons of a study, made of what its run folders hold: settings, metrics and scores, no weights."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mmard.evaluation.scores import CLEAN, WORST
from mmard.report.study_tables import HELD_OUT, SECONDS
from mmard.runs.evaluation import read_scores
from mmard.runs.folder import best_validation
from mmard.runs.judged import Judged, judged_of
from mmard.study.grid import Cell, axes_of, cells_of
from mmard.study.jobs import Job, must_be_ours, result_of
from mmard.study.spec import StudyFile
from mmard.study.statistics import paired_test
from mmard.utils.errors import MmardError
from mmard.utils.numbers import mean_sd

CellResult = dict[str, Any]


def results_of(study: StudyFile) -> dict[str, Any]:
    """Collect all that the study found: ``rows`` (a cell each), ``groups`` (over seeds), ``comparisons``, ``missing``.

    ``apart`` has the pairs that were not judged alike, and are not compared.

    Raises:
        MmardError: when no cell is evaluated yet, or a run folder was made with other settings.
    """
    cells = cells_of(study, recorded=True)
    must_be_ours(Job(cell.name, cell.settings) for cell in cells)
    rows = [row for cell in cells if (row := row_of(cell, study)) is not None]
    if not rows:
        raise MmardError(f"{study.out}: no cell is trained and judged yet; mmard study does both")
    _keep_comparable_times(rows, cells)
    there = {row["run"] for row in rows}
    measured = list(rows[0]["accuracies"])
    comparisons, apart = comparisons_of(rows, study)
    return {
        "about": study.about,
        "axes": list(axes_of(study)),
        "compared": compared_axis(study),
        "attacks": measured,
        "changing": any(_changes(cell) for cell in cells),
        "rows": rows,
        "groups": groups_of(rows),
        "comparisons": comparisons,
        "apart": apart,
        "missing": [cell.name for cell in cells if cell.name not in there],
    }


def row_of(cell: Cell, study: StudyFile) -> CellResult | None:
    """Read the result of a cell, in percent; None where it is not evaluated yet."""
    place = result_of(cell.folder, study.evaluate)
    if place is None or not cell.folder.is_run:
        return None
    record, metrics = read_scores(place), cell.folder.metrics()
    scores = record.rows
    if all(row["attack"] in (CLEAN, WORST) for row in scores):
        scores = scores[:1]  # nothing attacked, so there is no worst case
    best = best_validation(metrics) or {}
    return {
        "run": cell.name,
        "settings": cell.fingerprint,
        "labels": cell.labels,
        "seed": cell.settings.seed,
        "accuracies": {r["attack"]: r["accuracy"] for r in scores},
        "intervals": {r["attack"]: [r["low"], r["high"]] for r in scores},
        "details": {r["attack"]: r["detail"] for r in scores},
        "samples": scores[0]["samples"],
        "judged": asdict(judged_of(record.metadata, record.samples, cell.settings.resolved())),
        "errors": record.errors,
        HELD_OUT[0]: best.get("clean"),
        HELD_OUT[1]: best.get("robust"),
        "best epoch": best.get("epoch"),
        SECONDS: _seconds(cell, metrics) if metrics else None,
    }


def _changes(cell: Cell) -> bool:
    """Tell whether a cell's epochs differ in cost, by what its attack does."""
    attack = cell.settings.attack
    return any(part is not None for part in (attack.late, attack.guard, attack.stop_at))


def _seconds(cell: Cell, metrics: Sequence[CellResult]) -> float:
    """Compute the seconds of an epoch: the median, which ignores busy moments; the mean where epochs differ in cost."""
    seconds = [r["seconds"] for r in metrics]
    return statistics.fmean(seconds) if _changes(cell) else statistics.median(seconds)


def _keep_comparable_times(rows: Sequence[CellResult], cells: Sequence[Cell]) -> None:
    """Drop the seconds of runs on CPUs where other runs had a GPU: such times do not compare.

    Before 0.3 no record named its device, and a GPU was known by the joules that it counts.
    """
    on_gpu = {
        cell.name
        for cell in cells
        if any(epoch.get("device", "cpu") != "cpu" or "joules" in epoch for epoch in cell.folder.metrics())
    }
    others = [row for row in rows if row["run"] not in on_gpu]
    if len(others) < len(rows):
        for row in others:
            row[SECONDS] = None


def groups_of(rows: Sequence[CellResult]) -> list[dict[str, Any]]:
    """Group the cells that differ by seed only, with mean and sample standard deviation of each figure."""
    found: dict[tuple[str, ...], list[CellResult]] = {}
    for row in rows:
        found.setdefault(tuple(row["labels"].values()), []).append(row)
    groups = []
    for members in found.values():
        figures = {attack: [m["accuracies"][attack] for m in members] for attack in members[0]["accuracies"]}
        figures |= {key: [m[key] for m in members if m[key] is not None] for key in (*HELD_OUT, SECONDS)}
        spread = {key: dict(zip(("mean", "sd"), mean_sd(v), strict=True)) for key, v in figures.items() if v}
        one = members[0]["intervals"] if len(members) == 1 else None
        seeds = [m["seed"] for m in members]
        groups.append({"labels": members[0]["labels"], "seeds": seeds, "figures": spread, "interval": one})
    return groups


def compared_axis(study: StudyFile) -> str | None:
    """Choose the axis whose labels are compared with its first; None where there is no choice."""
    axes = axes_of(study)
    return study.compare or next((axis for axis, labels in axes.items() if len(labels) > 1), None)


def comparisons_of(rows: Sequence[CellResult], study: StudyFile) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Compare each further label of the axis with the first: pairs have the same other labels and the same seed.

    Pairs of one seed share what the seed decides: they are no independent ones, and their mean difference counts once.

    Returns:
        The comparisons, and how many pairs of each label are left out: judged under another threat, or on other images.
    """
    axis = compared_axis(study)
    if axis is None:
        return [], []
    first, *others = axes_of(study)[axis]
    partners = {_cell_but_for(row, axis): row for row in rows if row["labels"][axis] == first}
    found, apart = [], []
    for label in others:
        mine = [row for row in rows if row["labels"][axis] == label and _cell_but_for(row, axis) in partners]
        both = [(row, partners[_cell_but_for(row, axis)]) for row in mine]
        pairs = [(row["seed"], _accuracies(row), _accuracies(other)) for row, other in both if _alike(row, other)]
        if len(pairs) < len(both):
            apart.append({"baseline": first, "label": label, "n": len(both) - len(pairs)})
        for attack in dict.fromkeys(key for _, row, partner in pairs for key in row if key in partner):
            of_seed: dict[int, list[float]] = {}
            for seed, row, other in pairs:
                if attack in row and attack in other:
                    of_seed.setdefault(seed, []).append(row[attack] - other[attack])
            differences = [statistics.fmean(each) for each in of_seed.values()]
            what = {"baseline": first, "label": label, "attack": attack, "differences": differences}
            what |= {"seeds": list(of_seed), "settings": [len(each) for each in of_seed.values()]}
            found.append(what | asdict(paired_test(differences)))
    return found, apart


def _alike(row: CellResult, other: CellResult) -> bool:
    return Judged(**row["judged"]).alike(Judged(**other["judged"]))


def _accuracies(row: CellResult) -> dict[str, float]:
    """Collect accuracies on the test images by attack, and those of the best epoch on the held-out ones."""
    held_out: dict[str, float] = {key: row[key] for key in HELD_OUT if row[key] is not None}
    return {**row["accuracies"], **held_out}


def _cell_but_for(row: Mapping[str, Any], axis: str) -> tuple[Any, ...]:
    """Return what a row and its pair have in common: seed and the other labels."""
    return (row["seed"], *(label for name, label in row["labels"].items() if name != axis))


def flat_rows(results: Mapping[str, Any]) -> list[CellResult]:
    """Flatten the rows for a CSV file: a column each for axis, seed, accuracy and the rest."""
    return [
        {
            **row["labels"],
            "seed": row["seed"],
            **row["accuracies"],
            **{key: row[key] for key in (*HELD_OUT, "best epoch", SECONDS)},
            "samples": row["samples"],
            "threat": row["judged"]["threat"],
            "errors": "; ".join(row["errors"]),
            "run": f"{row['run']} {row['settings']}",
        }
        for row in results["rows"]
    ]
