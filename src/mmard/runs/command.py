"""The command that repeats an evaluation, with results in the same folder."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmard.runs.evaluation import BEST, EvaluationRecord, section_of
from mmard.utils.errors import MmardError
from mmard.utils.text_files import NoYamlError, parse_yaml

BATCH_SIZE = 500
"""Of `mmard eval`, where it is told no other."""


def eval_command(evaluation: EvaluationRecord, runs: Sequence[Path]) -> str:
    """Write the command that repeats an evaluation: ``mmard eval RUN ... --attacks pgd-20 --limit 500 threat.eps=4/255``.

    All its options are in it: without the attacks, the protocol, the number of images or a setting the figures would go to
    another folder. Where nothing was checked, the default checks run.

    Args:
        runs: the folders to evaluate so; another run's weights have the same name there.
    """
    asked, overrides = evaluation.request, section_of(evaluation.request, "overrides")
    words = [
        word
        for run in runs
        for word in (
            target_of(run, evaluation)
            if run.is_file() or evaluation.weights == BEST
            else [str(run / evaluation.weights)]
        )
    ]
    batch_size = asked.get("batch_size")
    options = {key: asked.get(key) for key in ("attacks", "protocol", "limit", "seed")}
    options |= {"batch-size": None if batch_size == BATCH_SIZE else batch_size}
    options |= {"checks": _checks(evaluation), "surrogate": overrides.get("twin")}
    words += [word for key, value in options.items() if value for word in (f"--{key}", str(value))]
    words += ["--curve"] if evaluation.curve is not None else []
    words += [f"{key}={as_argument(value)}" for key, value in overrides.items() if key != "twin"]
    return shlex.join(["mmard", "eval", *words])


def target_of(run: Path, evaluation: EvaluationRecord | None) -> list[str]:
    """Return the words by which `mmard eval` takes a run, or a file of weights with the network that it is of."""
    network = evaluation.metadata.get("network") if evaluation is not None and run.is_file() else None
    return [str(network), "--weights", str(run)] if network else [str(run)]


def _checks(evaluation: EvaluationRecord) -> str | None:
    """Return the kind of checks, where it is not the attacks' default."""
    usual = "full" if "AutoAttack" in evaluation.attacks else "quick"
    return None if evaluation.checked in ("none", usual) else evaluation.checked


def as_argument(value: Any) -> str:
    """Write a setting's value as the command line reads it back: as YAML.

    >>> [as_argument(value) for value in ("4/255", 0.1, None, "8")]
    ['4/255', '0.1', 'null', '"8"']
    """
    plain = value if isinstance(value, str) else json.dumps(value)
    try:
        same = parse_yaml(plain, "a setting") == value
    except NoYamlError:
        same = True  # what is no YAML is taken as it stands
    except MmardError:
        same = False
    return plain if same else json.dumps(value)
