"""Parts of a report that run folders lack, each with the command that makes it."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mmard.runs.by_class import accuracy_by_class
from mmard.runs.command import as_argument, eval_command, target_of
from mmard.runs.evaluation import section_of
from mmard.runs.groups import Group, evaluation_with
from mmard.runs.record import MEMORY, Run


@dataclass(frozen=True)
class Missing:
    """A part of the report that some runs lack, and the command that makes it for all of them."""

    what: str
    runs: tuple[str, ...]
    command: str


def missing_of(groups: Sequence[Group], main: str, most: int | None = None) -> list[Missing]:
    """List the parts of the report that runs lack, in the order of the report; a command is for the first ``most`` of them."""
    runs = [run for group in groups for run in group.runs]
    parts: list[tuple[str, Callable[[Run], bool], Callable[[Sequence[Run]], str]]] = [
        ("an end of the training", lambda run: run.finished, _resume),
        (
            "scores on test images",
            lambda run: any(j.attacked for j in run.evaluations.values()),
            lambda r: _eval(r, ""),
        ),
        ("accuracy by class", lambda run: accuracy_by_class(run, main) is not None, lambda r: _again(r, main)),
        (
            "accuracy against eps",
            lambda run: evaluation_with(run, lambda j: j.curve, main) is not None,
            lambda r: _eval(r, " --attacks none --curve"),
        ),
        (
            "examples",
            lambda run: evaluation_with(run, lambda j: j.shown, main) is not None,
            lambda r: _eval(r, " --attacks none --examples 12"),
        ),
        ("where its examples lie to the teacher's boundary", _diagnosed, _diagnose),
        (
            "peak memory (training writes it into metrics.jsonl)",
            lambda run: not run.trained_here or any(MEMORY in r for r in run.metrics),
            lambda r: f"mmard train {shlex.quote(str(r[0].path))} --out {shlex.quote(str(r[0].path) + '-again')}",
        ),
    ]
    found = []
    for what, there, command in parts:
        lacking = [run for run in runs if not there(run)]
        if lacking:
            found.append(Missing(what, tuple(run.name for run in lacking), command(lacking[:most])))
    return found


def _paths(runs: Sequence[Run]) -> str:
    return " ".join(shlex.quote(str(run.path)) for run in runs)


def _eval(runs: Sequence[Run], options: str) -> str:
    """Write the command that evaluates runs: one for all of them, and one for each file of somebody else's weights."""
    own, others = [run for run in runs if run.trained_here], [run for run in runs if not run.trained_here]
    lines = [f"mmard eval {_paths(own)}{options}"] if own else []
    for run in others:
        evaluation = next(iter(run.evaluations.values()), None)
        settings = section_of(evaluation.request, "overrides") if evaluation else {}
        given = [f"{key}={as_argument(value)}" for key, value in settings.items()]
        lines.append(f"mmard eval {shlex.join([*target_of(run.path, evaluation), *given])}{options}")
    return "\n".join(lines)


def _resume(runs: Sequence[Run]) -> str:
    return "\n".join(f"mmard train {shlex.quote(str(run.path))} --resume" for run in runs)


def _again(runs: Sequence[Run], main: str) -> str:
    """Write the command of the main evaluation, which now saves the labels; where it attacked nothing, of a whole one."""
    evaluation = next(
        (run.evaluations[main] for run in runs if main in run.evaluations and run.evaluations[main].attacked), None
    )
    if evaluation is None:
        return _eval(runs, "")
    own, others = [run.path for run in runs if run.trained_here], [run for run in runs if not run.trained_here]
    commands = [eval_command(evaluation, own)] if own else []
    return "\n".join([*commands, *(eval_command(run.evaluations.get(main, evaluation), [run.path]) for run in others)])


def _diagnosed(run: Run) -> bool:
    return run.diagnosis is not None or not run.settings.get("teacher")


def _diagnose(runs: Sequence[Run]) -> str:
    if len(runs) == 1:
        return f"mmard diagnose {_paths(runs)}"
    return f'for run in {_paths(runs)}; do mmard diagnose "$run"; done'
