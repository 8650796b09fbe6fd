"""The record of an evaluation, read from its folder: the table of scores, and the files beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from torch import Tensor

from mmard.evaluation.examples import Examples
from mmard.evaluation.scores import CLEAN, SCORES, WORST, read_table
from mmard.models.tensor_files import digest_of, load_tensors
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import read_json, sha256, state_of
from mmard.utils.trust import inside

T = TypeVar("T")
JsonObject = dict[str, Any]
BEST = "best.safetensors"
VERDICTS, CURVE, EXAMPLES = "verdicts.safetensors", "curve.json", "examples.safetensors"
"""Files of an evaluation; the verdicts are written last."""
OF_A_ROW = {
    "attack": str,
    "detail": str,
    "accuracy": float,
    "low": float,
    "high": float,
    "samples": int,
    "seconds": float,
}


@dataclass(frozen=True, eq=False)
class EvaluationRecord:
    """The record of one evaluation of a run.

    Attributes:
        name: its folder, such as ``best_PGD-20_C-W``.
        metadata: scores.json without its rows.
        rows: an attack each, as `mmard.Scores.rows` gives them.
        correct: (N, K) bool, sample × attack; None where there are no verdicts.
        labels: (N,) int64; None where they were not kept.
        curve: accuracy against the radius; None where there is none.
        shown: a few images; None where there are none.
    """

    name: str
    metadata: JsonObject
    rows: list[JsonObject]
    correct: Tensor | None = None
    labels: Tensor | None = None
    curve: JsonObject | None = None
    shown: Examples | None = None

    @property
    def attacks(self) -> list[str]:
        """List the attacks' names, ``clean`` first and the worst case last."""
        return [row["attack"] for row in self.rows]

    @property
    def attacked(self) -> bool:
        """Tell whether an attack was run, and not only accuracy on natural images measured."""
        return any(name not in (CLEAN, WORST) for name in self.attacks)

    @property
    def samples(self) -> int:
        """Count the images."""
        return int(self.rows[0]["samples"])

    def row(self, attack: str) -> JsonObject | None:
        """Find the row of an attack; None where it was not run."""
        return next((row for row in self.rows if row["attack"] == attack), None)

    def classes(self) -> list[str]:
        """List the names of the classes; numbers where the file does not have them."""
        known = self.metadata.get("classes")
        if isinstance(known, list) and known:
            return [str(name) for name in known]
        return [] if self.labels is None else [str(k) for k in range(int(self.labels.max()) + 1)]

    @property
    def weights(self) -> str:
        """Name the file of weights that was evaluated; where an old scores.json does not say it, the folder's name does."""
        model = self.metadata.get("model")
        last = self.name.startswith("last")
        return Path(model).name if isinstance(model, str) and model else "last.safetensors" if last else BEST

    @property
    def request(self) -> JsonObject:
        """Return the options of the command: attacks, limit, seed and so on; empty in old files."""
        return section_of(self.metadata, "asked")

    @property
    def checked(self) -> str:
        """Say how much the evaluation checked itself: ``full``, ``quick`` or, as in old files, ``none``."""
        return str(section_of(self.metadata, "checked").get("how", "none"))

    @property
    def checks(self) -> list[dict[str, str]]:
        """List what its checks found, as text by name, level, said, means, do; empty in old files."""
        given = self.metadata.get("checks")
        found = [check for check in given if isinstance(check, dict)] if isinstance(given, list) else []
        return [{key: str(check.get(key, "")) for key in ("name", "level", "said", "means", "do")} for check in found]

    @property
    def errors(self) -> list[str]:
        """List the errors that its checks found, a line each; with one of them the figures do not stand."""
        return [f"{check['name']}: {check['said']}" for check in self.checks if check["level"] == "error"]

    @property
    def versions(self) -> str:
        """List the versions that it was made with, ``mmard 1.0, torch 2.11``; empty in old files."""
        return ", ".join(f"{name} {version}" for name, version in section_of(self.metadata, "versions").items())

    @property
    def of_best(self) -> bool:
        """Tell whether it evaluated the run's best checkpoint, and not the last one or an exported file."""
        return self.of_checkpoint("best")

    def of_checkpoint(self, checkpoint: str) -> bool:
        """Tell whether it evaluated this checkpoint, ``best`` or ``last``, and not an exported file."""
        return self.weights == f"{checkpoint}.safetensors" and not {"twin", "runtime"} & self.metadata.keys()

    @property
    def own(self) -> bool:
        """Tell whether it evaluated the best checkpoint with no setting overridden."""
        return self.of_best and not self.request.get("overrides")


def section_of(settings: Mapping[str, Any], name: str) -> JsonObject:
    """Return a section of settings or metadata; empty where there is none."""
    found = settings.get(name)
    return found if isinstance(found, dict) else {}


def evaluations_in(run: Path) -> list[Path]:
    """List the folders of a run's evaluations by name."""
    return sorted(file.parent for file in (run / "eval").glob(f"*/{SCORES}"))


def find_evaluation(run: Path, checkpoint: str, request: Mapping[str, Any]) -> Path | None:
    """Find the folder of the evaluation of a checkpoint (``best`` or ``last``) with these options; checks change no verdict.

    Of several one that was checked comes first.
    """

    def without_checks(options: object) -> object:
        return {k: v for k, v in options.items() if k != "checks"} if isinstance(options, Mapping) else options

    found = (EvaluationRecord(folder.name, read_table(folder), []) for folder in evaluations_in(run))
    fits = (e for e in found if e.of_checkpoint(checkpoint) and without_checks(e.request) == without_checks(request))
    return next((run / "eval" / e.name for e in sorted(fits, key=lambda e: e.checked == "none")), None)


def read_scores(folder: Path) -> EvaluationRecord:
    """Read the table of an evaluation alone: every row, and none of the files beside scores.json.

    Raises:
        MmardError: where there is no table.
    """
    metadata = read_table(folder)
    rows = metadata.pop("attacks", None)
    if not isinstance(rows, list) or not rows or not all(_is_row(row) for row in rows):
        raise MmardError(f"{folder / SCORES} has no table of attacks; mmard eval writes it anew")
    return EvaluationRecord(folder.name, metadata, rows)


def read_evaluation(folder: Path, faults: list[str]) -> EvaluationRecord:
    """Read an evaluation; files beside scores.json that cannot be read are a line in ``faults``.

    Raises:
        MmardError: where there is no table.
    """
    found = read_scores(folder)
    rows = found.rows
    verdicts = read_optional(folder / VERDICTS, lambda at: load_tensors(at)[0], faults) or {}
    correct = verdicts.get("correct")
    if correct is not None and tuple(correct.shape) != (rows[0]["samples"], sum(r["attack"] != WORST for r in rows)):
        faults.append(f"{folder / VERDICTS} does not fit scores.json; mmard eval writes both anew")
        verdicts = {}
    if all(row["attack"] in (CLEAN, WORST) for row in rows):
        rows = rows[:1]  # where nothing attacked there is no worst case
    curve = read_optional(folder / CURVE, _curve, faults)
    shown = read_optional(folder / EXAMPLES, Examples.load, faults)
    correct, labels = verdicts.get("correct"), verdicts.get("labels")
    return replace(found, rows=rows, correct=correct, labels=labels, curve=curve, shown=shown)


def is_complete(folder: Path, weights: Path) -> bool:
    """Tell whether an evaluation came to its end, and is of the weights that are there now, by their digests."""
    verdicts = folder / VERDICTS
    if not (verdicts.exists() and weights.exists()):
        return False
    metadata = read_table(folder)
    if "weights" not in metadata:  # an evaluation from before they were recorded
        return verdicts.stat().st_mtime >= weights.stat().st_mtime
    if metadata["weights"] != digest_of_weights(weights):
        return False
    try:
        return metadata.get("verdicts") in (None, digest_of(load_tensors(verdicts)[0], {}))
    except (MmardError, SafetensorError, OSError):
        return False


def digest_of_weights(weights: Path) -> str | None:
    """Compute the SHA-256 of a file of weights, or of the one that a card names; None where it is not here."""
    if weights.suffix == ".json" and weights.is_file():
        name = str(read_json(weights).get("file"))  # what is on the hub is not fetched for this
        weights = inside(weights.parent, name)
    return _digest(weights, state_of(weights)) if weights.is_file() else None


@lru_cache(maxsize=1024)
def _digest(path: Path, _: tuple[int, ...]) -> str:
    """Read a large file once, as long as it stays what it is."""
    return sha256(path)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and all(
        isinstance(row.get(key), (int, float) if kind is float else kind) for key, kind in OF_A_ROW.items()
    )


def _curve(file: Path) -> JsonObject:
    found = read_json(file)
    columns = [found.get(key) for key in ("radii", "accuracy", "low", "high")]
    if not all(isinstance(c, list) and c and all(isinstance(v, int | float) for v in c) for c in columns):
        raise MmardError(f"{file} holds no curve; mmard eval --curve writes it anew")
    if len({len(c) for c in columns if c is not None}) > 1:
        raise MmardError(f"{file} has columns of several lengths; mmard eval --curve writes it anew")
    return found


def read_optional(file: Path, read: Callable[[Path], T], faults: list[str]) -> T | None:
    """Read a file where there is one; None where there is none or, with a line in ``faults``, where it cannot be read."""
    return try_reading(lambda: read(file), file, faults) if file.is_file() else None


def try_reading(read: Callable[[], T], file: Path, faults: list[str]) -> T | None:
    """Call ``read``; None, with a line in ``faults``, where the file cannot be read."""
    try:
        return read()
    except MmardError as e:
        faults.append(str(e))
    except (OSError, ValueError, SafetensorError) as e:
        faults.append(f"cannot read {file}: {first_line(e)}")
    return None
