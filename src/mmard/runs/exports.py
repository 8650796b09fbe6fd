"""exports.json: what was measured of a run's exported files, read and written."""

from pathlib import Path

from pydantic import Field

from mmard.utils.errors import MmardError
from mmard.utils.files import read_json, sha256, write_json
from mmard.utils.validation import Section, validated

EXPORTS = "exports.json"
MUCH = 5.0
"""Points of clean accuracy that an export may lose without a word."""


class Timing(Section):
    """The time of one batch: median and 95th percentile in milliseconds, of so many runs."""

    median: float
    p95: float
    runs: float


class Accuracy(Section):
    """An accuracy in percent, with Wilson's 95 % interval over the images."""

    value: float
    low: float
    high: float


class ExportRow(Section):
    """The measurements of one model.

    Attributes:
        name: as the table calls it: the file's, or what kind of network it is.
        file, sha256: of an exported file; None for a network in PyTorch.
        weights: SHA-256 of the weights that an exported file was made from, as it says itself; None where it does not.
        runtime: what ran it, with its version.
        megabytes: size of its files.
        peak_mib: the most memory of a process that ran it, runtime included.
        latency: threads → batch size → time.
        clean, robust: accuracies.
    """

    name: str
    file: str | None = None
    sha256: str | None = None
    weights: str | None = None
    runtime: str = ""
    precision: str = ""
    megabytes: float | None = None
    peak_mib: float | None = None
    latency: dict[str, dict[str, Timing]] = Field(default_factory=dict)
    clean: Accuracy | None = None
    robust: Accuracy | None = None


class ExportRecord(Section):
    """The measurements of exported files, of the network that they were made from, and of its teacher.

    Attributes:
        cpu: the processor; ``threads`` are all of it that the process may use.
        images: how many test images the accuracies are of.
        data: the name of their data set or file; empty in files from before it was recorded.
        test_images: digest of their pixels and labels; empty as before.
        attack, threat: of the robust ones; empty where no threat is known.
    """

    mmard: str
    cpu: str
    threads: int
    images: int
    data: str = ""
    test_images: str = ""
    attack: str = ""
    threat: str = ""
    rows: list[ExportRow]


def keep_exports(folder: Path, record: ExportRecord) -> ExportRecord:
    """Write the record into a run folder; rows of other files measured alike, that are still what they were, stay."""
    try:
        before = read_exports(folder)
    except MmardError:  # damaged: it is written anew
        before = None
    names = {row.name for row in record.rows}
    alike = before is not None and all(
        getattr(before, key) == getattr(record, key)
        for key in ("mmard", "cpu", "threads", "images", "test_images", "attack", "threat")
    )
    stay = [row for row in before.rows if row.name not in names and is_current(folder, row)] if before and alike else []
    teacher = [row for row in record.rows if row.file is None]
    files = sorted([row for row in (*stay, *record.rows) if row.file is not None], key=lambda row: row.name)
    whole = record.changed(rows=[*teacher[:1], *files, *teacher[1:]])
    write_json(folder / EXPORTS, whole.model_dump(mode="json"))
    return whole


def lost_accuracy(record: ExportRecord, digest: str) -> str | None:
    """Say how much clean accuracy the exported file of this digest loses, with what helps; None where it is not `MUCH`."""
    network, made = record.rows[0].clean, next((row for row in record.rows if row.sha256 == digest), None)
    if made is None or made.clean is None or network is None or network.value - made.clean.value <= MUCH:
        return None
    return (
        f"{made.name} loses {network.value - made.clean.value:.1f} points of clean accuracy ({network.value:.1f} → "
        f"{made.clean.value:.1f} %); calibrate on more images (--calibration 2048), or ship the float file"
    )


def is_current(folder: Path, row: ExportRow) -> bool:
    """Tell whether a row is of a file that is still what it was, made from the weights that the folder holds now."""
    file, best = folder / Path(row.file or "").name, folder / "best.safetensors"
    if row.file is None or not file.is_file() or sha256(file) != row.sha256:
        return False
    return row.weights is None or not best.is_file() or row.weights == sha256(best)


def read_exports(folder: Path) -> ExportRecord | None:
    """Read the record of a run folder; None where nothing was measured.

    Raises:
        MmardError: for a file that is none.
    """
    file = folder / EXPORTS
    return validated(ExportRecord, read_json(file), f"key of {file}") if file.is_file() else None
