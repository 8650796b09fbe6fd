"""The rules by which a report finds faults in runs; what an evaluation checks by itself is not checked again."""

from collections.abc import Callable
from dataclasses import dataclass

from mmard.evaluation.scores import WORST
from mmard.runs.by_class import accuracy_by_class
from mmard.runs.evaluation import EvaluationRecord
from mmard.runs.groups import curve_of
from mmard.runs.record import Run

FALL = 3.0
"""Points of held-out robust accuracy lost by the end of a run that are worth a word."""
FEW = 500
"""Test images below which an interval is wide."""


@dataclass(frozen=True)
class Finding:
    """A finding: something to know before believing the figures.

    Attributes:
        level: one of `mmard.runs.findings.LEVELS`.
        text: what it is.
        means: why it matters.
        do: what mends it, or how to read the figures.
        where: of which runs, evaluations or groups, with a word on each where there is one.
    """

    level: str
    text: str
    means: str
    do: str
    where: tuple[str, ...] = ()

    @property
    def advice(self) -> str:
        """Write what it means and what to do as sentences; a finding in a file may say neither."""
        told = (("Means", self.means), ("Do", self.do))
        return " ".join(f"{name}: {said.rstrip('.')}." for name, said in told if said)


Rule = Callable[[Run, EvaluationRecord | None], str | None]
"""A word on a run where it has the fault, perhaps an empty one; None where it has not."""


def _unfinished(run: Run, _: EvaluationRecord | None) -> str | None:
    done, planned = run.epochs
    validation = run.settings.get("validation")
    early = isinstance(validation, dict) and (validation.get("patience") or validation.get("target"))
    return None if run.finished else f"epoch {done} of {planned}" + (" (it may stop early)" if early else "")


def _collapsed(run: Run, _: EvaluationRecord | None) -> str | None:
    at = next((r["epoch"] for r in run.metrics if r.get("collapsed") is True), None)
    return None if at is None else f"seen in epoch {at}"


def _overfitted(run: Run, _: EvaluationRecord | None) -> str | None:
    if run.best is None or run.best.get("chosen_by") == "clean":
        return None
    if (lost := run.best["robust"] - run.validations[-1]["robust"]) < FALL:
        return None
    return f"{run.best['robust']:.1f} % in epoch {run.best['epoch']}, {lost:.1f} points less at the end"


def _not_judged(run: Run, evaluation: EvaluationRecord | None) -> str | None:
    if evaluation is not None:
        return None
    return f"only {', '.join(run.evaluations)}" if run.evaluations else ""


def _few_images(_: Run, evaluation: EvaluationRecord | None) -> str | None:
    if evaluation is None or evaluation.samples >= FEW:
        return None
    row = evaluation.row(WORST) or evaluation.rows[-1]
    return f"{evaluation.samples} images, {row['low']:.1f} to {row['high']:.1f} %"


def _no_autoattack(_: Run, evaluation: EvaluationRecord | None) -> str | None:
    none = (
        evaluation is not None and evaluation.attacked and not any("AutoAttack" in name for name in evaluation.attacks)
    )
    return "" if none else None  # an exported model's is called transfer-AutoAttack


def _quick_only(_: Run, evaluation: EvaluationRecord | None) -> str | None:
    names = evaluation.attacks if evaluation else []
    quick = any("AutoAttack-quick" in name for name in names)
    return "" if quick and not any(name.endswith("AutoAttack") for name in names) else None


def _rises(run: Run, _: EvaluationRecord | None) -> str | None:
    found = curve_of(run, "")
    if found is None:
        return None
    pairs = list(zip(found["accuracy"], found["accuracy"][1:], strict=False))
    worst = max((b - a for a, b in pairs), default=0.0)
    return f"by {worst:.1f} points" if worst > 2 else None


def _uneven(run: Run, evaluation: EvaluationRecord | None) -> str | None:
    found = accuracy_by_class(run, evaluation.name if evaluation else "")
    if found is None:
        return None
    worst, mean = found.worst, found.mean(found.robust)
    return (
        f"class {found.names[worst]} {found.robust[worst]:.1f} %, mean {mean:.1f} %"
        if found.robust[worst] < mean / 2
        else None
    )


RULES: tuple[tuple[Finding, Rule], ...] = (
    (
        Finding(
            "warning",
            "The training is not at its end.",
            "what is shown is of what is there",
            "let it go on: mmard train RUN --resume",
        ),
        _unfinished,
    ),
    (
        Finding(
            "warning",
            "Robust accuracy collapsed while it trained (catastrophic overfitting).",
            "from then on the attack of the training no longer found what fools the network",
            "judge the best checkpoint, not the last; train with an attack of more steps",
        ),
        _collapsed,
    ),
    (
        Finding(
            "warning",
            "Not judged on test images yet, or not as the others were.",
            "the first table has no figures of it",
            "mmard eval RUN",
        ),
        _not_judged,
    ),
    (
        Finding(
            "warning",
            "Accuracy grows with the radius of the attack.",
            "a larger ball can only be easier to attack: a sign of hidden gradients",
            "do not trust gradient attacks here; judge with --checks full, attack adaptively",
        ),
        _rises,
    ),
    (
        Finding(
            "note",
            "Robust overfitting: by the end the held-out robust accuracy had fallen from its best.",
            "the last checkpoint resists less than the best one",
            "use the best checkpoint, which is the one that is judged unless said otherwise",
        ),
        _overfitted,
    ),
    (
        Finding(
            "note",
            "Judged without AutoAttack.",
            "figures under PGD and C&W flatter by some points",
            "mmard eval RUN, which runs AutoAttack, too",
        ),
        _no_autoattack,
    ),
    (
        Finding(
            "note",
            "AutoAttack without FAB and Square.",
            "it compares methods as well, but would not find hidden gradients out",
            "for a final figure AutoAttack itself: mmard eval RUN",
        ),
        _quick_only,
    ),
    (
        Finding(
            "note",
            "Few test images.",
            "the 95 % interval of the worst case is wide",
            "take no difference within it for one; judge on more images where there are more",
        ),
        _few_images,
    ),
    (
        Finding(
            "note",
            "One class is far less robust than the mean.",
            "the mean hides how easily its images are attacked",
            "read accuracy by class beside it",
        ),
        _uneven,
    ),
)
