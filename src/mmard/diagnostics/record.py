"""The record of a diagnosis, and its files."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmard.diagnostics.boundary import BoundaryRecord, Drop, Row, summary
from mmard.diagnostics.slices import Slice
from mmard.models.tensor_files import save_tensors
from mmard.utils.csv_files import csv_of_records
from mmard.utils.errors import Note
from mmard.utils.files import write_json, write_text
from mmard.utils.portable_paths import portable

NATURAL, DIRECT = "natural images", "direct attack on T"


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """A diagnosis of the examples of several methods, made on one student with one teacher from the same images.

    Attributes:
        metadata: run, teacher, data, split, threat, attack, formulas of the inner objectives.
        methods: records by method; the others are compared with the first.
        natural, direct: the two ends of the scale: the natural images, and a direct attack on the teacher.
        triangles: mutual informations by method, on the run's best student.
        training: the same under the run's own method, by checkpoint.
        slices: by method, the same few images in each.
        titles: what these images are.
    """

    metadata: dict[str, Any]
    methods: Mapping[str, BoundaryRecord]
    natural: BoundaryRecord
    direct: BoundaryRecord
    triangles: Mapping[str, dict[str, dict[str, float]]]
    training: Mapping[str, dict[str, dict[str, float]]]
    slices: Mapping[str, list[Slice]]
    titles: list[str]

    @property
    def facts(self) -> dict[str, Any]:
        """Return ``metadata`` by its old name, with a note."""
        warnings.warn(Note("diagnosis.facts is metadata now; the old name goes with version 0.3"), stacklevel=2)
        return self.metadata

    @property
    def drop(self) -> Drop:
        """Return the possible drop of the teacher's margin."""
        return Drop.of(self.natural, [*self.methods.values(), self.direct])

    def boundary_records(self) -> dict[str, BoundaryRecord]:
        """Return the records of the natural images, of each method, and of the direct attack."""
        return {NATURAL: self.natural, **self.methods, DIRECT: self.direct}

    def rows(self) -> dict[str, Row]:
        """Return a row of means for each record; ``gain``: share of the possible drop less the first method's, paired."""
        first = next(iter(self.methods.values()))
        return {name: summary(p, self.natural, self.drop, first) for name, p in self.boundary_records().items()}

    def save(self, folder: Path) -> None:
        """Write diagnosis.json, diagnosis.csv (the rows), and samples.safetensors (each sample's numbers)."""
        rows = self.rows()
        measured = {"examples": rows, "triangles": dict(self.triangles), "training": dict(self.training)}
        write_json(folder / "diagnosis.json", {**portable(self.metadata), **measured})
        write_text(folder / "diagnosis.csv", csv_of_records([{"examples": name, **row} for name, row in rows.items()]))
        tensors = {f"{name}/{k}": t for name, p in self.boundary_records().items() for k, t in p.columns().items()}
        save_tensors(folder / "samples.safetensors", tensors)
