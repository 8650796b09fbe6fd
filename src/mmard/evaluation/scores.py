"""Scores: one verdict per sample and attack."""

import hashlib
import json
import math
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from mmard.models.tensor_files import digest_of, load_tensors, save_tensors
from mmard.utils.csv_files import csv_of_records
from mmard.utils.errors import MmardError, Note, first_line, unknown
from mmard.utils.files import json_text, read_json, write_text

SCORES, DIGEST = "scores.json", "digest"
CLEAN = "clean"
WORST = "worst case"
WITHIN_1_96 = math.erf(1.96 / math.sqrt(2))
"""Share of a normal distribution within 1.96 standard deviations, by which 95 % is meant in published tables."""
MUCH, SURE = 0.15, 4.0
"""So much better is far better: share of the images, and standard deviations of what chance gives to equals."""


def is_far_better(one: Tensor, other: Tensor) -> bool:
    """Tell whether verdicts ``one`` (N,) bool are right on far more images than ``other``; see `MUCH` and `SURE`."""
    gained, lost = (one & ~other).sum().item(), (other & ~one).sum().item()
    return bool(gained - lost >= max(MUCH * len(one), SURE * (gained + lost) ** 0.5))


def is_no_fluke(alone: int, count: int) -> bool:
    """Tell whether ``alone`` of ``count`` images, broken by one kind of attack only, are more than chance."""
    return alone > max(2, 0.02 * count)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a share seen in n samples, at 1.96 standard deviations."""
    from scipy.stats import binomtest  # a second to import

    found = binomtest(round(share * n), n).proportion_ci(WITHIN_1_96, "wilson")
    return float(found.low), float(found.high)


def read_table(folder: Path) -> dict[str, Any]:
    """Read the scores.json of a folder, whose digest is checked where it carries one.

    Raises:
        MmardError: when it cannot be read, or is not what was written.
    """
    table = read_json(folder / SCORES)
    told = table.pop(DIGEST, None)
    if told is not None and told != _digest(table):
        raise MmardError(
            f"{folder / SCORES} is damaged: its contents do not match its digest; mmard eval writes it anew"
        )
    return table


def table_text(table: dict[str, Any]) -> str:
    """Write the text of a scores.json, with its digest."""
    return json_text({**table, DIGEST: _digest(table)})


def _digest(table: dict[str, Any]) -> str:
    """Compute the SHA-256 of a table as JSON holds it."""
    return hashlib.sha256(json.dumps(json.loads(json_text(table)), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True, eq=False)
class Stage:
    """One of the attacks of AutoAttack, run on the images that those before it left right.

    Attributes:
        of: the evaluation's attack that it belongs to, such as ``"AutoAttack"``.
        name: such as ``"FAB-T"``.
        right: (N,) bool, right after it and all before it.
        attacked: how many were right before it.
        seconds: wall time.
    """

    of: str
    name: str
    right: Tensor
    attacked: int
    seconds: float

    def row(self) -> dict[str, Any]:
        """Return its row of a table: images attacked and broken, accuracy in percent that is left, seconds."""
        left = int(self.right.sum())
        metadata = {"stage": self.name, "attacked": self.attacked, "broken": self.attacked - left}
        return {**metadata, "accuracy": 100 * left / len(self.right), "seconds": self.seconds}


@dataclass(frozen=True, eq=False)
class Scores:
    """Per-sample results of a model under several attacks.

    Attributes:
        correct: (N, K) bool, sample × attack.
        attacks: the K names; the first is ``"clean"``.
        details: each attack with its step, start and number of steps, as one line.
        seconds: wall time of each attack.
        index: (N,) the samples' stable numbers.
        metadata: what was evaluated: model, data, threat, names of the classes.
        stages: AutoAttack's attacks, each with its verdicts; empty where it was not run.
        labels: (N,) the samples' classes; None in files from before they were written.
    """

    correct: Tensor
    attacks: tuple[str, ...]
    details: tuple[str, ...]
    seconds: tuple[float, ...]
    index: Tensor
    metadata: dict[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    labels: Tensor | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """Return ``metadata`` by its old name, with a note."""
        warnings.warn(Note("scores.facts is scores.metadata now; the old name goes with version 0.3"), stacklevel=2)
        return self.metadata

    def accuracy(self, attack: str) -> float:
        """Return the share of samples still right under this attack, or under all of them (``"worst case"``)."""
        if attack not in (*self.attacks, WORST):
            raise unknown("attack", attack, (*self.attacks, WORST))
        column = self.worst() if attack == WORST else self.correct[:, self.attacks.index(attack)]
        return column.double().mean().item()

    def worst(self) -> Tensor:
        """Return which samples are right under every attack, (N,) bool."""
        return self.correct.all(1)

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each attack and one for the worst case: accuracy in percent, its 95 % interval, seconds.

        AutoAttack's row has its attacks under ``"stages"``: images attacked and broken, accuracy that is left, seconds.
        """
        n, rows = len(self.correct), []
        described = [
            *zip(self.attacks, self.details, self.seconds, strict=True),
            (WORST, "each sample's worst", sum(self.seconds)),
        ]
        for name, detail, seconds in described:
            share = self.accuracy(name)
            low, high = wilson(share, n)
            row = {"attack": name, "detail": detail, "accuracy": 100 * share, "low": 100 * low, "high": 100 * high}
            stages = [s.row() for s in self.stages if s.of == name]
            rows.append({**row, "samples": n, "seconds": seconds, **({"stages": stages} if stages else {})})
        return rows

    def __str__(self) -> str:
        """Return the rows as a table of plain text: attack, accuracy and 95 % interval in percent; and what checks warn of."""
        head = f"{len(self.correct):,} test images"
        head += f", {self.metadata['threat']}" if self.metadata.get("threat") else ""
        rows = self.rows() if len(self.attacks) > 1 else self.rows()[:1]  # unattacked, there is no worst case
        wide = max(len(row["attack"]) for row in rows)
        lines = [f"{r['attack']:<{wide}}  {r['accuracy']:6.2f} %  {r['low']:5.1f}–{r['high']:.1f}" for r in rows]
        grave = [check for check in self.metadata.get("checks", ()) if check["level"] != "note"]
        return "\n".join([head, *lines, *(f"{c['level']}: {c['name']}: {c['said']}" for c in grave)])

    def __repr__(self) -> str:
        found = ", ".join(f"{row['attack']} {row['accuracy']:.2f} %" for row in self.rows())
        return f"Scores({len(self.correct)} images: {found})"

    def save(self, folder: Path) -> None:
        """Write scores.json, scores.csv (the table), verdicts.safetensors (sample × attack) and, of AutoAttack, stages.csv."""
        rows = self.rows()
        tensors = {"correct": self.correct, "index": self.index, **{f"{s.of}/{s.name}": s.right for s in self.stages}}
        tensors |= {} if self.labels is None else {"labels": self.labels}
        digest = digest_of(tensors, {})  # so that a table is never taken for that of verdicts from before
        table = {**self.metadata, "verdicts": digest, "attacks": rows}
        write_text(folder / SCORES, table_text(table))
        write_text(
            folder / "scores.csv", csv_of_records([{k: v for k, v in row.items() if k != "stages"} for row in rows])
        )
        if self.stages:
            write_text(folder / "stages.csv", csv_of_records([{"attack": s.of, **s.row()} for s in self.stages]))
        save_tensors(folder / "verdicts.safetensors", tensors)

    @staticmethod
    def load(folder: str | Path) -> "Scores":
        """Read the files that `save` wrote.

        Raises:
            MmardError: when the verdicts are damaged, or not those of the table.
        """
        if not isinstance(folder, str | Path):
            raise MmardError(f"load: folder is {folder!r}, expected a path")
        folder = Path(folder)
        metadata = read_table(folder)
        try:
            tensors, _ = load_tensors(folder / "verdicts.safetensors")
        except (SafetensorError, OSError) as e:
            raise MmardError(
                f"cannot read {folder / 'verdicts.safetensors'}: {first_line(e)}; mmard eval writes it anew"
            ) from e
        if metadata.pop("verdicts", None) not in (None, digest_of(tensors, {})):
            raise MmardError(f"{folder}: verdicts.safetensors is not that of scores.json; mmard eval writes both anew")
        rows = [r for r in metadata.pop("attacks") if r["attack"] != WORST]
        stages = [
            Stage(r["attack"], s["stage"], tensors[f"{r['attack']}/{s['stage']}"], s["attacked"], s["seconds"])
            for r in rows
            for s in r.get("stages", ())
        ]
        return Scores(
            tensors["correct"].to(torch.bool),
            tuple(r["attack"] for r in rows),
            tuple(r["detail"] for r in rows),
            tuple(r["seconds"] for r in rows),
            tensors["index"],
            metadata,
            tuple(stages),
            tensors.get("labels"),
        )
