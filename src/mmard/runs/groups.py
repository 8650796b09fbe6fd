"""Groups of runs that differ by their seed alone, and which evaluation a report shows first."""

import json
import re
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmard.evaluation.scores import WORST
from mmard.runs.evaluation import EvaluationRecord, JsonObject
from mmard.runs.folder import NO_EFFECT
from mmard.runs.record import Run, is_judged, is_run, read_judged, read_run
from mmard.utils.errors import MmardError
from mmard.utils.files import read_json
from mmard.utils.numbers import mean_sd
from mmard.utils.portable_paths import portable

SAME = ("seed", *NO_EFFECT)
"""Settings by which runs of a group may differ."""
SettingsAndFormula = tuple[JsonObject | None, str]
"""Resolved settings, None where they cannot be; and the formula, empty where there is none."""
MeanSd = tuple[float, float | None]
"""Mean and sample standard deviation; None for a single value."""


@dataclass(frozen=True, eq=False)
class Group:
    """A group of runs with the same settings but for the seed, each seed once."""

    name: str
    runs: tuple[Run, ...]

    def mean_sd(self, value: Callable[[Run], float | None]) -> MeanSd | None:
        """Compute mean and sample sd of a run's value, over the runs that have it; None where none has."""
        found = [v for run in self.runs if (v := value(run)) is not None]
        return mean_sd(found) if found else None


def read_groups(sources: Sequence[Path], settings_and_formula: Callable[[Path], SettingsAndFormula]) -> list[Group]:
    """Read the runs behind run folders and study folders, in groups.

    Args:
        settings_and_formula: reads both of a run folder, which takes `mmard.api`, above this package.

    One whose settings cannot be read is left out with a warning; a folder that is named twice counts once.

    Raises:
        MmardError: where a source is neither, and where no run is left.
    """
    runs = [
        (path, source) for source in {path.resolve(): path for path in sources}.values() for path in _inside(source)
    ]
    found, inner = [], []
    for path, source in runs:
        try:
            resolved, formula = ({}, "") if path.is_file() else settings_and_formula(path)
            name = _name(path, source)
            found.append(read_judged(path, name) if path.is_file() else read_run(path, name, formula, resolved))
            inner.append(path != source)
        except MmardError as e:
            if len(runs) == 1:
                raise
            warnings.warn(f"left out: {e}", stacklevel=2)
    if not found:
        raise MmardError(f"none of the {len(runs)} runs can be read")
    groups = group_runs(found, in_a_study=inner)  # by whole paths; what is shown is handed on
    return [Group(g.name, tuple(replace(r, settings=portable(dict(r.settings))) for r in g.runs)) for g in groups]


def _inside(source: Path) -> list[Path]:
    """List the run folders in a source: itself, those of a study's folder; or the file of weights that was evaluated."""
    if is_judged(source) or is_run(source):
        return [source]
    if not source.is_dir():
        raise MmardError(
            f"there is no folder {source}; expected a run folder or a study's, or weights that mmard eval has judged"
        )
    if not (inside := _of_study(source)):
        raise MmardError(f"there is no run in {source}; expected a run folder, or a study's with runs in it")
    return inside


def _of_study(folder: Path) -> list[Path]:
    """List the runs in a study's folder, in the order of its results.json where it has one: the baseline comes first."""
    inside = sorted(file.parent for file in folder.rglob("settings.yaml"))
    rows = study_results(folder).get("rows")
    order = [str(row.get("run")) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    place = {name: i for i, name in enumerate(order)}
    return sorted(inside, key=lambda path: place.get(path.relative_to(folder).as_posix(), len(place)))


def study_results(folder: Path) -> JsonObject:
    """Read the results.json of a study's folder; empty where there is none, or where it cannot be read: it can be made anew."""
    try:
        return read_json(folder / "results.json")
    except MmardError:
        return {}


def _name(path: Path, source: Path) -> str:
    return path.relative_to(source).as_posix() if path != source else path.resolve().name


def group_runs(runs: Sequence[Run], in_a_study: Sequence[bool]) -> list[Group]:
    """Group runs, in the order in which the first of each group came; a run within a study is known by its cell's labels."""
    members: dict[tuple[str, int], list[Run]] = {}
    names: dict[tuple[str, int], str] = {}
    seen: Counter[str] = Counter()
    for run, inner in zip(runs, in_a_study, strict=True):
        settings = {k: v for k, v in run.settings.items() if k not in SAME}
        # an extended run is no seed of another
        of_code = re.sub(r" at 0x[0-9a-f]+", "", run.formula) if _is_code(run.settings.get("method")) else ""
        kind = json.dumps([settings, list(run.history), of_code], sort_keys=True, default=str)
        key = (kind, seen[f"{kind} {run.seed}"])  # the same seed twice: another group
        seen[f"{kind} {run.seed}"] += 1
        members.setdefault(key, []).append(run)
        names.setdefault(key, run.name.rpartition("/")[0] if inner and "/" in run.name else run.name)
    groups, taken = [], Counter[str]()
    for key, name in names.items():
        taken[name] += 1
        groups.append(Group(f"{name} ({taken[name]})" if taken[name] > 1 else name, tuple(members[key])))
    return groups


def _is_code(method: Any) -> bool:
    """Tell whether a method, or a base of it, is a function of somebody's own, which may be another one by now."""
    if isinstance(method, Mapping):
        return any(_is_code(method.get(key)) for key in ("name", "base"))
    return isinstance(method, str) and ":" in method


def main_evaluation_of(groups: Sequence[Group]) -> str:
    """Name the main evaluation, which a report shows first.

    It is of best checkpoints, what most runs have, with no setting overridden, most attacks, most images.
    An exported file, the last checkpoint or another threat say something else than a reader takes the first table for, however
    many rows they have. Of equals one that was checked; one without an attack only where there is no other; empty where no
    run was evaluated.
    """
    found: dict[str, list[EvaluationRecord]] = {}
    for group in groups:
        for run in group.runs:
            for name, evaluation in run.evaluations.items():
                found.setdefault(name, []).append(evaluation)

    def rank(name: str) -> tuple[bool, bool, int, bool, int, int, bool, str]:
        every = found[name]
        attacked, best = (
            any(evaluation.attacked for evaluation in every),
            all(evaluation.of_best for evaluation in every),
        )
        own, rows = all(evaluation.own for evaluation in every), max(len(evaluation.rows) for evaluation in every)
        checked = all(evaluation.checked != "none" for evaluation in every)
        return attacked, best, len(every), own, rows, every[0].samples, checked, name

    return max(found, key=rank, default="")


def attacks_of(groups: Sequence[Group], main: str) -> list[str]:
    """List the attacks of the main evaluation, in the order in which they came."""
    every = [run.evaluations[main].attacks for group in groups for run in group.runs if main in run.evaluations]
    return sorted(dict.fromkeys(a for attacks in every for a in attacks), key=lambda a: a == WORST)


def accuracy(run: Run, main: str, attack: str) -> float | None:
    """Return a run's accuracy under an attack in the main evaluation, in percent; None where it was not measured."""
    row = run.evaluations[main].row(attack) if main in run.evaluations else None
    return None if row is None else float(row["accuracy"])


def evaluation_with(run: Run, wanted: Callable[[EvaluationRecord], Any], main: str) -> EvaluationRecord | None:
    """Find the evaluation of a run that has what is wanted: the main one, else the best checkpoint's, with most images."""
    fit = [j for j in run.evaluations.values() if wanted(j) is not None]
    return max(fit, key=lambda j: (j.name == main, j.own, j.samples, j.checked != "none", j.name), default=None)


def curve_of(run: Run, main: str) -> JsonObject | None:
    """Find a run's curve of accuracy against the radius; None where it was not measured."""
    evaluation = evaluation_with(run, lambda j: j.curve, main)
    return evaluation.curve if evaluation else None
