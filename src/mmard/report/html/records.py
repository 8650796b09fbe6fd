"""What lies in a run folder, read for a report. What cannot be read is a line in `Run.faults`, and the rest is shown."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mmard.core.errors import MmardError, first_line
from mmard.core.files import read_json
from mmard.core.threat import in_255ths
from mmard.evaluation.examples import Examples
from mmard.evaluation.scores import CLEAN, WORST
from mmard.runs import RunFolder

T = TypeVar("T")
Row = dict[str, Any]
OF_A_ROW = {
    "attack": str,
    "detail": str,
    "accuracy": float,
    "low": float,
    "high": float,
    "samples": int,
    "seconds": float,
}
FIGURES = ("margins", "slices")


@dataclass(frozen=True, eq=False)
class Judged:
    """One evaluation of a run.

    Attributes:
        name: its folder, such as ``best_PGD-20_C-W``.
        facts: scores.json without its rows.
        rows: an attack each, as `mmard.Scores.rows` gives them.
        correct: (N, K) bool, sample × attack; None where there are no verdicts.
        labels: (N,) int64; None where they were not kept.
        curve: accuracy against the radius; None where it was not asked for.
        shown: a few images; None where there are none.
    """

    name: str
    facts: Row
    rows: list[Row]
    correct: Tensor | None = None
    labels: Tensor | None = None
    curve: Row | None = None
    shown: Examples | None = None

    @property
    def attacks(self) -> list[str]:
        """The names, ``clean`` first and the worst case last."""
        return [row["attack"] for row in self.rows]

    @property
    def attacked(self) -> bool:
        """Was it more than a look at the natural images?"""
        return any(name not in (CLEAN, WORST) for name in self.attacks)

    @property
    def samples(self) -> int:
        """How many images."""
        return int(self.rows[0]["samples"])

    def row(self, attack: str) -> Row | None:
        """The row of an attack, where it was run."""
        return next((row for row in self.rows if row["attack"] == attack), None)

    def classes(self) -> list[str]:
        """Their names; numbers where the file does not have them."""
        known = self.facts.get("classes")
        if isinstance(known, list) and known:
            return [str(name) for name in known]
        return [] if self.labels is None else [str(k) for k in range(int(self.labels.max()) + 1)]


@dataclass(frozen=True, eq=False)
class Run:
    """One run folder.

    Attributes:
        name: how the report calls it.
        settings: settings.yaml.
        metrics: a record an epoch.
        judged: its evaluations by folder.
        diagnosis: diagnosis.json; None where there is none.
        formula: the method as it reads in its paper; empty where it is not known.
        faults: files that could not be read, a line each.
    """

    name: str
    path: Path
    settings: Row
    metrics: list[Row]
    judged: Mapping[str, Judged]
    diagnosis: Row | None = None
    formula: str = ""
    faults: list[str] = field(default_factory=list)

    @property
    def seed(self) -> Any:
        return self.settings.get("seed")

    @property
    def looks(self) -> list[Row]:
        """The epochs at whose end the held-out images were looked at."""
        return [r for r in self.metrics if "robust" in r and "clean" in r]

    @property
    def epochs(self) -> tuple[int, int]:
        """Done, and planned."""
        return max((r["epoch"] for r in self.metrics), default=0), int(part(self.settings, "train").get("epochs") or 0)

    @property
    def finished(self) -> bool:
        """Has it come to its end? A folder that was kept without weights is asked for its epochs."""
        done, planned = self.epochs
        return (self.path / "last.safetensors").is_file() or done >= planned > 0

    @property
    def best(self) -> Row | None:
        """The look by which the best checkpoint was chosen."""
        return max(self.looks, key=lambda r: (r["robust"], r["clean"], -r["epoch"]), default=None)

    def figure(self, name: str) -> Path | None:
        """A figure of its diagnosis, where there is one."""
        path = self.path / "diagnose" / f"{name}.png"
        return path if path.is_file() else None


def part(settings: Mapping[str, Any], name: str) -> Row:
    """A section of settings; empty where it is none."""
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def threat_of(settings: Mapping[str, Any]) -> str:
    """``L∞ 8/255``."""
    given = part(settings, "threat")
    eps, norm = given.get("eps"), "L2" if given.get("norm") == "l2" else "L∞"
    return f"{norm} {in_255ths(float(eps))}" if isinstance(eps, int | float) else norm


def data_of(settings: Mapping[str, Any]) -> str:
    """What the images are called: a name of the hub, ``digits``, or that of the files they came from."""
    data = part(settings, "data")
    name, train, root = (data.get(key) for key in ("name", "train", "root"))
    if name == "parquet" and train:
        return Path(str(train[0] if isinstance(train, list) else train)).stem.removesuffix("-train")
    return Path(str(root)).name if name == "imagefolder" and root else str(name or "images")


def is_run(path: Path) -> bool:
    """Did `mmard train` make this folder?"""
    return (path / "settings.yaml").is_file()


def read_run(path: Path, name: str, formula: str = "", resolved: Mapping[str, Any] | None = None) -> Run:
    """Read a run folder.

    Args:
        resolved: its settings with the defaults that its file, if it is an old one, does not have; None: as they stand there.

    Raises:
        MmardError: when it is none, or its settings cannot be read.
    """
    if not is_run(path):
        raise MmardError(
            f"{path} is no run folder (no settings.yaml in it); expected one that mmard train made, or a study's"
        )
    try:
        settings = yaml.safe_load((path / "settings.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as e:
        raise MmardError(f"{path / 'settings.yaml'} is no YAML: {' '.join(str(e).split())}") from e
    if not isinstance(settings, dict):
        raise MmardError(f"{path / 'settings.yaml'} holds a {type(settings).__name__}, expected keys and values")
    settings, faults = dict(resolved or settings), list[str]()
    metrics = _try(lambda: RunFolder(path).metrics(), path / "metrics.jsonl", faults) or []
    metrics = [r for r in metrics if isinstance(r.get("epoch"), int) and isinstance(r.get("seconds"), int | float)]
    judged = {}
    for file in sorted((path / "eval").glob("*/scores.json")):
        if (found := _try(lambda file=file: _judged(file.parent, faults), file, faults)) is not None:  # type: ignore[misc]
            judged[found.name] = found
    diagnosis = _optional(path / "diagnose" / "diagnosis.json", read_json, faults)
    return Run(name, path, settings, metrics, judged, diagnosis, formula, faults)


def _judged(folder: Path, faults: list[str]) -> Judged:
    facts = read_json(folder / "scores.json")
    rows = facts.pop("attacks", None)
    if not isinstance(rows, list) or not rows or not all(_is_row(row) for row in rows):
        raise MmardError(f"{folder / 'scores.json'} has no table of attacks; mmard eval writes it anew")
    verdicts = _optional(folder / "verdicts.safetensors", load_file, faults) or {}
    correct = verdicts.get("correct")
    if correct is not None and tuple(correct.shape) != (rows[0]["samples"], sum(r["attack"] != WORST for r in rows)):
        faults.append(f"{folder / 'verdicts.safetensors'} does not fit scores.json; mmard eval writes both anew")
        verdicts = {}
    curve = _optional(folder / "curve.json", _curve, faults)
    shown = _optional(folder / "examples.safetensors", Examples.load, faults)
    if all(row["attack"] in (CLEAN, WORST) for row in rows):
        rows = rows[:1]  # where nothing attacked there is no worst case
    return Judged(folder.name, facts, rows, verdicts.get("correct"), verdicts.get("labels"), curve, shown)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(key), (int, float) if kind is float else kind) for key, kind in OF_A_ROW.items()
    )


def _curve(file: Path) -> Row:
    found = read_json(file)
    columns = [found.get(key) for key in ("radii", "accuracy", "low", "high")]
    if not all(isinstance(c, list) and c and all(isinstance(v, int | float) for v in c) for c in columns):
        raise MmardError(f"{file} holds no curve; mmard eval --curve writes it anew")
    if len({len(c) for c in columns if c is not None}) > 1:
        raise MmardError(f"{file} has columns of several lengths; mmard eval --curve writes it anew")
    return found


def _optional(file: Path, read: Callable[[Path], T], faults: list[str]) -> T | None:
    """What a file holds, where there is one and it is whole."""
    return _try(lambda: read(file), file, faults) if file.is_file() else None


def _try(read: Callable[[], T], file: Path, faults: list[str]) -> T | None:
    try:
        return read()
    except MmardError as e:
        faults.append(str(e))
    except (OSError, ValueError, SafetensorError) as e:
        faults.append(f"cannot read {file}: {first_line(e)}")
    return None
