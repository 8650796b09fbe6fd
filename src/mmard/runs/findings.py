"""Findings: what a reader should know before believing the figures, what it means, and what to do."""

from collections.abc import Sequence
from dataclasses import replace

from mmard.runs.command import eval_command
from mmard.runs.groups import Group
from mmard.runs.record import Run
from mmard.runs.rules import RULES, Finding

LEVELS = ("error", "warning", "look", "note")
"""The gravest first; ``look``: nothing is known to be wrong, for nobody has looked."""
UNCHECKED = Finding(
    "look",
    "Nothing was checked.",
    "weak attacks make any model look robust, and nobody has looked whether these figures can be believed",
    "judge it again with checks, by the command beside it",
)
ONE_SEED = Finding(
    "note",
    "One seed only.",
    "another training seed can move accuracy by some points, and this cannot show it",
    "train it with other seeds, too, and report them together",
)
LEFT_OUT = Finding(
    "warning",
    "Left out: files that cannot be read, or figures of other weights.",
    "what they hold is not in this report",
    "mend them, or make them anew",
)


def findings_of(groups: Sequence[Group], main: str) -> list[Finding]:
    """Collect the findings on these runs, the gravest first; each kind once, with the runs it is true of."""
    runs = [run for group in groups for run in group.runs]
    found = _of_checks(runs)
    for finding, rule in RULES:
        hits = [(run, word) for run in runs if (word := rule(run, run.evaluations.get(main))) is not None]
        found.append(replace(finding, where=tuple(f"{run.name}: {word}" if word else run.name for run, word in hits)))
    single = tuple(group.name for group in groups if len(group.runs) == 1)
    found.append(replace(ONE_SEED, where=single if len(runs) > 1 else ()))
    found.append(replace(LEFT_OUT, where=tuple(fault for run in runs for fault in run.faults)))
    found.append(replace(UNCHECKED, where=tuple(word for run in runs for word in _unchecked(run))))
    return sorted((finding for finding in found if finding.where), key=lambda finding: LEVELS.index(finding.level))


def _unchecked(run: Run) -> list[str]:
    """List evaluations that attacked and were not checked, with the command that checks them."""
    return [
        f"{run.name}, {evaluation.name}: {eval_command(evaluation, [run.path])}"
        for evaluation in run.evaluations.values()
        if evaluation.attacked and evaluation.checked == "none"
    ]


def _of_checks(runs: Sequence[Run]) -> list[Finding]:
    """Collect the findings of evaluations' own checks, each kind once."""
    found: dict[Finding, list[str]] = {}
    for run in runs:
        for check in checks_of(run):
            level = check["level"] if check["level"] in LEVELS else "warning"
            finding = Finding(level, f"Check {check['name']}.", check["means"], check["do"])
            found.setdefault(finding, []).append(f"{run.name}, {check['evaluation']}: {check['said']}")
    return [replace(finding, where=tuple(where)) for finding, where in found.items()]


def checks_of(run: Run) -> list[dict[str, str]]:
    """Collect what a run's evaluations found when they checked themselves, as text by name, level, said, means, do, evaluation."""
    found = [{**check, "evaluation": e.name} for e in run.evaluations.values() for check in e.checks]
    return [check for i, check in enumerate(found) if check not in found[:i]]
