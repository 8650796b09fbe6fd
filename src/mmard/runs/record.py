"""A run folder, read as a record: what cannot be read is a line in `Run.faults`, and the rest is there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmard.core.threat import in_255ths
from mmard.evaluation.scores import SCORES
from mmard.runs.command import eval_command
from mmard.runs.evaluation import (
    EvaluationRecord,
    JsonObject,
    digest_of_weights,
    evaluations_in,
    read_evaluation,
    read_optional,
    read_scores,
    section_of,
    try_reading,
)
from mmard.runs.folder import RunFolder, best_validation, epochs_done
from mmard.utils.errors import MmardError
from mmard.utils.files import read_json

MEMORY = "peak_mib"
"""The peak memory of training, in a line of metrics.jsonl."""
FIGURES = ("margins", "slices")


@dataclass(frozen=True, eq=False)
class Run:
    """The record of one run folder, or of a file of weights that was evaluated and not trained here.

    Attributes:
        name: how the report calls it.
        path: the run folder, or the file.
        settings: settings.yaml.
        metrics: a record an epoch.
        evaluations: those of its models by folder.
        diagnosis: diagnosis.json; None where there is none.
        formula: the method as it reads in its paper; empty where it is not known.
        faults: files that could not be read, a line each.
        teacher_checks: the check of each teacher before training, a line each.
        history: how the run was extended, a line each.
    """

    name: str
    path: Path
    settings: JsonObject
    metrics: list[JsonObject]
    evaluations: Mapping[str, EvaluationRecord]
    diagnosis: JsonObject | None = None
    formula: str = ""
    faults: list[str] = field(default_factory=list)
    teacher_checks: Sequence[str] = ()
    history: Sequence[str] = ()

    @property
    def seed(self) -> Any:
        return self.settings.get("seed")

    @property
    def validations(self) -> list[JsonObject]:
        """List the lines of the metrics that have accuracies on held-out images."""
        return [r for r in self.metrics if all(isinstance(r.get(key), int | float) for key in ("robust", "clean"))]

    @property
    def epochs(self) -> tuple[int, int]:
        """Return the number of epochs done and planned."""
        return epochs_done(self.metrics), int(section_of(self.settings, "train").get("epochs") or 0)

    @property
    def finished(self) -> bool:
        """Tell whether training came to its end; of a folder without weights, by its epochs."""
        done, planned = self.epochs
        return not self.trained_here or RunFolder(self.path).is_finished() or done >= planned > 0

    @property
    def trained_here(self) -> bool:
        """Tell whether this package trained it; else it has evaluations alone."""
        return not self.path.is_file()

    @property
    def precision(self) -> str:
        """Name the numeric precision of training; several where it went on in another, with the first epoch of each."""
        return self._over_epochs("precision") or str(section_of(self.settings, "engine").get("precision") or "")

    @property
    def device(self) -> str:
        """Name the kind of device of training, in the same way; empty where it is not recorded."""
        return self._over_epochs("device")

    def _over_epochs(self, key: str) -> str:
        of = [(r["epoch"], r[key]) for r in self.metrics if isinstance(r.get(key), str)]
        changes = [(e, name) for i, (e, name) in enumerate(of) if i == 0 or name != of[i - 1][1]]
        return ", ".join(f"{name} from epoch {e}" if i else name for i, (e, name) in enumerate(changes))

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Find the validation by which the best checkpoint was chosen."""
        return best_validation(self.metrics)

    def threat(self, evaluation: EvaluationRecord) -> str:
        """Name the threat model of an evaluation, which may be another than the training's."""
        named = evaluation.metadata.get("threat", threat_of(self.settings))
        return str(named) if named else "no attack"

    def figure(self, name: str) -> Path | None:
        """Find a figure of the run's diagnosis; None where there is none."""
        path = self.path / "diagnose" / f"{name}.png"
        return path if path.is_file() and path.resolve().is_relative_to(self.path.resolve()) else None


def threat_of(settings: Mapping[str, Any]) -> str:
    """Name the threat model of settings: ``L∞ 8/255``."""
    given = section_of(settings, "threat")
    eps, norm = given.get("eps"), "L2" if given.get("norm") == "l2" else "L∞"
    return f"{norm} {in_255ths(float(eps))}" if isinstance(eps, int | float) else norm


def data_name_of(settings: Mapping[str, Any], part: str = "train") -> str:
    """Name the data set of settings: a name of the hub, ``digits``, or that of the files they came from, of this part first."""
    data = section_of(settings, "data")
    name, root = data.get("name"), data.get("root")
    files = data.get(part) or data.get("train")
    if name in ("parquet", "npz", "csv", "webdataset") and files:
        return (
            Path(str(files[0] if isinstance(files, list) else files)).stem.removesuffix("-train").removesuffix("-test")
        )
    if name == "python":
        return "images given in Python"
    place, _, function = str(name).rpartition(":")
    if place:  # a function of the user's: its file without the folder
        return f"{Path(place).name}:{function}"
    return Path(str(root)).name if name == "imagefolder" and root else str(name or "images")


def is_run(path: Path) -> bool:
    """Tell whether `mmard train` made this folder."""
    return RunFolder(path).is_run


def read_run(path: Path, name: str, formula: str = "", resolved: Mapping[str, Any] | None = None) -> Run:
    """Read a run folder into a record.

    Args:
        resolved: its settings with the defaults that its file, if it is an old one, does not have; None: as they stand there.

    Raises:
        MmardError: when it is none, or its settings cannot be read.
    """
    folder = RunFolder(path)
    settings, faults = folder.settings(), list[str]()
    settings = dict(resolved or settings)
    metrics = try_reading(folder.metrics, folder.metrics_file, faults) or []
    metrics = [r for r in metrics if isinstance(r.get("epoch"), int) and isinstance(r.get("seconds"), int | float)]
    evaluation = _evaluations(path, faults)
    diagnosis = read_optional(path / "diagnose" / "diagnosis.json", read_json, faults)
    looks = try_reading(folder.describe_teachers, folder.teachers_file, faults) or []
    history = try_reading(folder.describe_history, folder.history_file, faults) or []
    return Run(name, path, settings, metrics, evaluation, diagnosis, formula, faults, looks, history)


def is_judged(file: Path) -> bool:
    """Tell whether a file of weights was evaluated, and lies in no run folder, whose record would hold it."""
    if not file.is_file() or is_run(file.parent):
        return False
    return any(read_scores(folder).weights == file.name for folder in evaluations_in(file.parent))


def read_judged(file: Path, name: str) -> Run:
    """Read the evaluations of a file of weights that this package did not train, as the record of a run without training.

    Raises:
        MmardError: where there is none that is whole and of these weights.
    """
    faults = list[str]()
    found = {key: one for key, one in _evaluations(file.parent, faults).items() if one.weights == file.name}
    if not found:
        raise MmardError(f"{file} was not evaluated yet: mmard eval NETWORK --weights {file}")
    *_, newest = found.values()
    last = newest.metadata
    settings = {
        "method": "trained elsewhere",
        "student": last.get("network") or file.name,
        **{key: section_of(section_of(last, "settings"), key) for key in ("data", "threat")},
    }
    return Run(name, file, settings, [], found, faults=faults)


def _evaluations(run: Path, faults: list[str]) -> dict[str, EvaluationRecord]:
    """Read the evaluations by folder, without those of weights that have been replaced since."""
    found: dict[str, EvaluationRecord] = {}
    digests: dict[Path, str | None] = {}
    for folder in evaluations_in(run):
        file = folder / SCORES
        evaluation = try_reading(lambda folder=folder: read_evaluation(folder, faults), file, faults)  # type: ignore[misc]
        if evaluation is None:
            continue
        weights, then = run / evaluation.weights, evaluation.metadata.get("weights")
        if then is not None and weights not in digests:  # what cannot be read is said once
            digests[weights] = try_reading(lambda weights=weights: digest_of_weights(weights), weights, faults)  # type: ignore[misc]
        if then is None or digests[weights] in (then, None):
            found[evaluation.name] = evaluation
        else:
            faults.append(
                f"{file} is of other weights than {weights} has now; judge these: {eval_command(evaluation, [run])}"
            )
    return found
