"""What a reader should know before he believes the figures: what it is, what it means, what to do."""

from collections.abc import Sequence
from dataclasses import replace

from mmard.runs.command import again
from mmard.runs.groups import Group
from mmard.runs.record import Run
from mmard.runs.rules import LOOKS, Flag

LEVELS = ("error", "warning", "look", "note")
"""The gravest first; ``look``: nothing is known to be wrong, for nobody has looked."""
UNCHECKED = Flag(
    "look",
    "Nothing was checked.",
    "weak attacks make any model look robust, and nobody has looked whether these figures can be believed",
    "judge it again with checks, by the command beside it",
)
ONE_SEED = Flag(
    "note",
    "One seed only.",
    "another training seed can move accuracy by some points, and this cannot show it",
    "train it with other seeds, too, and report them together",
)
LEFT_OUT = Flag(
    "warning",
    "Left out: files that cannot be read, or figures of other weights.",
    "what they hold is not in this report",
    "mend them, or make them anew",
)


def flags_of(groups: Sequence[Group], kind: str) -> list[Flag]:
    """All there is to say of these runs, the gravest first; each kind of thing once."""
    runs = [run for group in groups for run in group.runs]
    found = _of_checks(runs)
    for flag, look in LOOKS:
        hits = [(run, word) for run in runs if (word := look(run, run.evaluations.get(kind))) is not None]
        found.append(replace(flag, where=tuple(f"{run.name}: {word}" if word else run.name for run, word in hits)))
    single = tuple(group.name for group in groups if len(group.runs) == 1)
    found.append(replace(ONE_SEED, where=single if len(runs) > 1 else ()))
    found.append(replace(LEFT_OUT, where=tuple(fault for run in runs for fault in run.faults)))
    found.append(replace(UNCHECKED, where=tuple(word for run in runs for word in _unchecked(run))))
    return sorted((flag for flag in found if flag.where), key=lambda flag: LEVELS.index(flag.level))


def _unchecked(run: Run) -> list[str]:
    """The evaluations that attacked and were not checked, as those from before there were checks, with the command that does."""
    return [
        f"{run.name}, {evaluation.name}: {again(evaluation, [run.path])}"
        for evaluation in run.evaluations.values()
        if evaluation.attacked and evaluation.checked == "none"
    ]


def _of_checks(runs: Sequence[Run]) -> list[Flag]:
    """What evaluations found amiss with themselves, each kind of finding once."""
    found: dict[Flag, list[str]] = {}
    for run in runs:
        for check in checks_of(run):
            level = check["level"] if check["level"] in LEVELS else "warning"
            flag = Flag(level, f"Check {check['name']}.", check["means"], check["do"])
            found.setdefault(flag, []).append(f"{run.name}, {check['evaluation']}: {check['said']}")
    return [replace(flag, where=tuple(where)) for flag, where in found.items()]


def checks_of(run: Run) -> list[dict[str, str]]:
    """What the checks of its evaluations found: ``name``, ``level``, ``said``, ``means``, ``do``, ``evaluation``, as text."""
    found = []
    for evaluation in run.evaluations.values():
        given = evaluation.metadata.get("checks")
        for check in given if isinstance(given, list) else []:
            if isinstance(check, dict):
                texts = {key: str(check.get(key, "")) for key in ("name", "level", "said", "means", "do")}
                found.append({**texts, "evaluation": evaluation.name})
    return [check for i, check in enumerate(found) if check not in found[:i]]
