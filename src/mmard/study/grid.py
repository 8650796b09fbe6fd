"""The grid of a study: its cells, each with folder and settings."""

import itertools
import re
from dataclasses import dataclass
from typing import Any

from mmard.api.settings import SECTIONS, Settings, flat, read_settings
from mmard.api.train import fingerprint
from mmard.runs.folder import RunFolder
from mmard.study.spec import OF_THE_STUDY, StudyFile, is_setting, not_ours
from mmard.utils.errors import MmardError, unknown

Axes = dict[str, dict[str, dict[str, Any]]]
"""axis → label → settings by dotted key."""
WITH_PARTS = {"method", "teachers", *SECTIONS}  # settings whose value is a mapping


@dataclass(frozen=True)
class Cell:
    """A cell of the grid: one run.

    Attributes:
        labels: axis → label.
        settings: all of them, ``seed`` and ``out`` too.
    """

    labels: dict[str, str]
    settings: Settings

    @property
    def name(self) -> str:
        """Name its folder within the study's."""
        return "/".join([*(folder_of(label) for label in self.labels.values()), f"seed-{self.settings.seed}"])

    @property
    def folder(self) -> RunFolder:
        """Open its run folder."""
        return RunFolder(self.settings.out)

    @property
    def fingerprint(self) -> str:
        """Return the `fingerprint` of its settings."""
        return fingerprint(self.settings)


def cells_of(study: StudyFile, *, recorded: bool = False) -> list[Cell]:
    """Make all the cells, the last axis and the seeds turning fastest.

    Args:
        recorded: they have run, and their paths may be cut to last names, by which two may be alike.

    Raises:
        MmardError: for an unknown axis or setting, an empty axis, labels that cannot be folders, one cell twice.
    """
    base, axes = study.base_settings(), axes_of(study)
    if study.compare is not None and study.compare not in axes:
        raise unknown("axis to compare", study.compare, axes)
    if len(set(study.seeds)) < len(study.seeds):
        raise MmardError(f"seeds {list(study.seeds)} has one twice; expected each once")
    cells = []
    for chosen in itertools.product(*(values.items() for values in axes.values())):
        labels = dict(zip(axes, (label for label, _ in chosen), strict=True))
        overrides = {key: value for _, pairs in chosen for key, value in pairs.items()}
        for seed in study.seeds:
            place = study.folder.joinpath(*map(folder_of, labels.values()), f"seed-{seed}")
            try:
                settings = read_settings(base, {**overrides, "seed": seed, "out": str(place)}, own=False)
            except MmardError as e:
                raise MmardError(f"cell {place}: {e}") from e
            cells.append(Cell(labels, settings))
    if not recorded:
        _all_differ(cells)
    return cells


def axes_of(study: StudyFile) -> Axes:
    """Resolve the grid to a label and settings for each value, in the order written."""
    axes: Axes = {}
    for axis, values in study.grid.items():
        not_ours(axis, "grid")
        if not isinstance(values, list | dict):
            raise MmardError(f"axis {axis!r} is {values!r}, expected a list of values or labels with a value each")
        if not values:
            raise MmardError(f"axis {axis!r} is empty; expected a value at least")
        axes[axis] = {}
        for label, value in values.items() if isinstance(values, dict) else _labelled(axis, values):
            axes[axis][_fit_for_a_folder(axis, label, axes[axis])] = _settings_of(axis, label, value)
    _no_axis_undoes_another(axes)
    return axes


def folder_of(label: str) -> str:
    """Turn a label into the name of a folder."""
    return re.sub(r"[^\w.+=-]", "-", label)


def _labelled(axis: str, values: list[Any]) -> list[tuple[str, Any]]:
    for value in values:
        if isinstance(value, dict | list):
            raise MmardError(f"axis {axis!r}: {value!r} needs a label; write {axis}: {{LABEL: {value!r}, ...}}")
    labels = [str(value).lower() if value is None or isinstance(value, bool) else str(value) for value in values]
    return list(zip(labels, values, strict=True))


def _fit_for_a_folder(axis: str, given: Any, taken: dict[str, Any]) -> str:
    label = str(given)
    if not label.strip(". ") or len(label) > 80:
        raise MmardError(f"axis {axis!r}: {label!r} is no label; expected up to 80 characters that can name a folder")
    for other in taken:
        if folder_of(other) == folder_of(label):
            raise MmardError(f"axis {axis!r}: the labels {other!r} and {label!r} would share a folder; rename one")
    return label


def _settings_of(axis: str, label: Any, value: Any) -> dict[str, Any]:
    """Return the settings that a label changes, by dotted key.

    An axis named after a setting gives that setting its value; where a mapping is no value for it, and under any other
    axis, a mapping holds the settings that change together.
    """
    if axis in SECTIONS and isinstance(value, dict):
        return flat({axis: value})
    if is_setting(axis) and (axis in WITH_PARTS or not isinstance(value, dict)):
        return {axis: value}
    if not isinstance(value, dict):
        known = [key for key in Settings.model_fields if key not in ("about", *OF_THE_STUDY)]
        raise unknown("axis", axis, known, "or, under a name of your own, LABEL: {train.lr: 0.1} for each label")
    for key in value:
        not_ours(str(key), f"axis {axis!r}")
    return flat(value)


def _no_axis_undoes_another(axes: Axes) -> None:
    earlier: dict[str, str] = {}
    for axis, labels in axes.items():
        keys = {key for pairs in labels.values() for key in pairs}
        for key in keys:
            for old, other in earlier.items():
                if old == key or old.startswith(f"{key}."):
                    after = f"; write {axis!r} before {other!r}" if old != key else ""
                    raise MmardError(f"axes {other!r} and {axis!r} both set {key}, and the first would be lost{after}")
        earlier |= dict.fromkeys(keys, axis)


def _all_differ(cells: list[Cell]) -> None:
    seen: dict[str, Cell] = {}
    for cell in cells:
        if (other := seen.setdefault(cell.fingerprint, cell)) is not cell:
            raise MmardError(f"cells {other.name} and {cell.name} have the same settings; expected each once")
