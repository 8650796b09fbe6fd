"""What a reader should know before he believes the figures, in plain words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmard.evaluation.scores import WORST
from mmard.report.html.classes import by_class
from mmard.report.html.groups import Group, curve_of
from mmard.report.html.judged import Judged
from mmard.report.html.records import Run

FALL = 3.0
"""Points of held-out robust accuracy lost by the end of a run that are worth a word."""
FEW = 500
"""Test images below which an interval is wide."""


@dataclass(frozen=True)
class Flag:
    """Something to know.

    Attributes:
        level: ``warning`` where a figure may mislead, ``note`` where it is to be read with care.
        text: what, and why it matters.
        where: of which runs or groups, with a word on each where there is one.
    """

    level: str
    text: str
    where: tuple[str, ...] = ()


Look = Callable[[Run, Judged | None], str | None]
"""A word on a run where it has the fault, perhaps an empty one; None where it has not."""


def flags_of(groups: Sequence[Group], kind: str) -> list[Flag]:
    """All there is to say of these runs, warnings first; each kind of thing once."""
    runs = [run for group in groups for run in group.runs]
    found = []
    for level, text, look in LOOKS:
        hits = [(run, word) for run in runs if (word := look(run, run.judged.get(kind))) is not None]
        if hits:
            found.append(Flag(level, text, tuple(f"{run.name}: {word}" if word else run.name for run, word in hits)))
    single = [group.name for group in groups if len(group.runs) == 1]
    if single and len(runs) > 1:
        text = "One seed only: another training seed can move accuracy by some points, and this cannot show it."
        found.append(Flag("note", text, tuple(single)))
    broken = tuple(fault for run in runs for fault in run.faults)
    if broken:
        found.append(Flag("warning", "Files that could not be read; what they hold is not in this report.", broken))
    return sorted(found, key=lambda flag: flag.level != "warning")


def _unfinished(run: Run, _: Judged | None) -> str | None:
    done, planned = run.epochs
    early = (
        run.settings.get("validation", {}).get("patience") if isinstance(run.settings.get("validation"), dict) else None
    )
    return None if run.finished else f"epoch {done} of {planned}" + (" (it may stop early)" if early else "")


def _collapsed(run: Run, _: Judged | None) -> str | None:
    at = next((r["epoch"] for r in run.metrics if r.get("collapsed") is True), None)
    return None if at is None else f"seen in epoch {at}"


def _overfitted(run: Run, _: Judged | None) -> str | None:
    if run.best is None or (lost := run.best["robust"] - run.looks[-1]["robust"]) < FALL:
        return None
    return f"{run.best['robust']:.1f} % in epoch {run.best['epoch']}, {lost:.1f} points less at the end"


def _not_judged(run: Run, judged: Judged | None) -> str | None:
    return "" if judged is None else None


def _few_images(_: Run, judged: Judged | None) -> str | None:
    if judged is None or judged.samples >= FEW:
        return None
    row = judged.row(WORST) or judged.rows[-1]
    return f"{judged.samples} images, {row['low']:.1f} to {row['high']:.1f} %"


def _no_autoattack(_: Run, judged: Judged | None) -> str | None:
    none = judged is not None and judged.attacked and not any("AutoAttack" in name for name in judged.attacks)
    return "" if none else None  # an exported model's is called transfer-AutoAttack


def _quick_only(_: Run, judged: Judged | None) -> str | None:
    names = judged.attacks if judged else []
    quick = any("AutoAttack-quick" in name for name in names)
    return "" if quick and not any(name.endswith("AutoAttack") for name in names) else None


def _one_step_beats_many(_: Run, judged: Judged | None) -> str | None:
    one, many = (judged.row(name) if judged else None for name in ("FGSM", "PGD-20"))
    if one is None or many is None or one["accuracy"] >= many["accuracy"] - 1:
        return None
    return f"FGSM {one['accuracy']:.1f} %, PGD-20 {many['accuracy']:.1f} %"


def _rises(run: Run, _: Judged | None) -> str | None:
    found = curve_of(run, "")
    if found is None:
        return None
    pairs = list(zip(found["accuracy"], found["accuracy"][1:], strict=False))
    worst = max((b - a for a, b in pairs), default=0.0)
    return f"by {worst:.1f} points" if worst > 2 else None


def _survives(run: Run, judged: Judged | None) -> str | None:
    found = curve_of(run, "")
    if found is None or found["radii"][-1] < 3.9 * found.get("eps", 1):
        return None
    chance = 100 / max(2, len(judged.classes())) if judged else 10.0
    return f"{found['accuracy'][-1]:.1f} %" if found["accuracy"][-1] > 2 * chance else None


def _uneven(run: Run, judged: Judged | None) -> str | None:
    found = by_class(run, judged.name if judged else "")
    if found is None:
        return None
    worst, mean = found.worst, found.mean(found.robust)
    return (
        f"class {found.names[worst]} {found.robust[worst]:.1f} %, mean {mean:.1f} %"
        if found.robust[worst] < mean / 2
        else None
    )


LOOKS: tuple[tuple[str, str, Look], ...] = (
    ("warning", "The training is not at its end; what is shown is of what is there.", _unfinished),
    ("warning", "Robust accuracy collapsed while it trained (catastrophic overfitting).", _collapsed),
    ("warning", "Not judged on test images yet.", _not_judged),
    ("warning", "One gradient step fools it more often than twenty: a sign of hidden gradients.", _one_step_beats_many),
    ("warning", "Accuracy grows with the radius of the attack: a sign of hidden gradients.", _rises),
    ("warning", "Far outside its ball the attack still fails: a sign of hidden gradients.", _survives),
    (
        "note",
        "Robust overfitting: by the end the held-out robust accuracy had fallen from its best. The best checkpoint is the one "
        "that is judged, unless said otherwise.",
        _overfitted,
    ),
    ("note", "Judged without AutoAttack: figures under PGD and C&W flatter by some points.", _no_autoattack),
    (
        "note",
        "AutoAttack without FAB and Square: it compares methods as well, but would not find hidden gradients out.",
        _quick_only,
    ),
    ("note", "Few test images: the 95 % interval of the worst case is wide.", _few_images),
    ("note", "One class is far less robust than the mean.", _uneven),
)


def checks_of(run: Run) -> list[dict[str, str]]:
    """The pre-flight checks that an evaluation kept: ``name``, ``level``, ``said``, ``means``, ``do``, as text."""
    found = []
    for judged in run.judged.values():
        given = judged.facts.get("checks")
        for check in given if isinstance(given, list) else []:
            if isinstance(check, dict):
                found.append({key: str(check.get(key, "")) for key in ("name", "level", "said", "means", "do")})
    return [check for i, check in enumerate(found) if check not in found[:i]]
