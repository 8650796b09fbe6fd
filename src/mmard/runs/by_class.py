"""Accuracy of each class, from verdicts and labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from mmard.runs.evaluation import EvaluationRecord
from mmard.runs.groups import Group, evaluation_with
from mmard.runs.record import Run


@dataclass(frozen=True)
class ClassAccuracy:
    """The accuracy of each class in one evaluation, in percent.

    Attributes:
        names: of the classes that have images.
        count: images of each.
        clean, robust: share still right without attack, and under every attack of the evaluation.
        source: the evaluation's folder.
    """

    names: tuple[str, ...]
    count: tuple[int, ...]
    clean: tuple[float, ...]
    robust: tuple[float, ...]
    source: str

    @property
    def worst(self) -> int:
        """Find the number of the least robust class; of equals the first."""
        return self.robust.index(min(self.robust))

    def mean(self, values: Sequence[float]) -> float:
        """Average values over the classes, each counting the same."""
        return sum(values) / len(values)


def accuracy_by_class(run: Run, main: str) -> ClassAccuracy | None:
    """Count the accuracy of each class in the main evaluation or, where that kept no labels, in another; None where none did."""
    evaluation = evaluation_with(run, lambda j: j.labels if j.correct is not None and j.attacked else None, main)
    return None if evaluation is None else _counted(evaluation)


def _counted(evaluation: EvaluationRecord) -> ClassAccuracy | None:
    correct, labels, names = evaluation.correct, evaluation.labels, evaluation.classes()
    if correct is None or labels is None or len(labels) != len(correct) or int(labels.max()) >= len(names):
        return None
    right = torch.stack([correct[:, 0].double(), correct.bool().all(1).double()])
    count = torch.bincount(labels, minlength=len(names))
    sums = torch.zeros(2, len(names), dtype=torch.float64).index_add_(1, labels, right)
    there = count.nonzero()[:, 0]
    clean, robust = (100 * sums / count.clamp_min(1))[:, there].tolist()
    return ClassAccuracy(
        tuple(names[k] for k in there), tuple(count[there].tolist()), tuple(clean), tuple(robust), evaluation.name
    )


def mean_accuracy_by_class(group: Group, main: str) -> ClassAccuracy | None:
    """Average the accuracy of each class over a group's runs that were evaluated alike; None where none kept labels."""
    found = [one for run in group.runs if (one := accuracy_by_class(run, main)) is not None]
    alike = [
        one for one in found if (one.names, one.count, one.source) == (found[0].names, found[0].count, found[0].source)
    ]
    if not alike:
        return None
    clean, robust = (
        tuple(sum(column) / len(alike) for column in zip(*(getattr(one, key) for one in alike), strict=True))
        for key in ("clean", "robust")
    )
    return ClassAccuracy(alike[0].names, alike[0].count, clean, robust, alike[0].source)
