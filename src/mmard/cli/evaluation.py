"""Evaluation with a progress bar, for the command line."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

from mmard.api.evaluate import evaluate_run
from mmard.api.exported import surrogates
from mmard.api.overrides import parse_overrides
from mmard.api.settings import read_settings
from mmard.cli.recipe_words import as_keywords
from mmard.evaluation.scores import Scores
from mmard.models.foreign import is_foreign
from mmard.report.screen import checks_lines, compare_table, scores_table
from mmard.utils.errors import MmardError
from mmard.utils.terminal import task_column, visible


def judge(source: str | Path, out: Console, attacks: str | None = None, /, **settings: Any) -> Scores:
    """Run `mmard.evaluate` with a progress bar that names the attack."""
    name_of = visible(str(source))
    columns = (task_column(), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(name_of, total=None)

        def on_progress(name: str, done: int, total: int) -> None:
            progress.update(task, description=f"{name_of}: {name}", completed=done, total=total)

        return evaluate_run(source, attacks, on_progress=on_progress, **settings)


def is_network(word: str) -> bool:
    """Tell a network from elsewhere with parameters, ``net.py:build(width=8)``, from a setting."""
    return is_foreign(word) and "=" not in word.partition("(")[0].partition("@")[0]


def judge_all(words: list[str], out: Console, attacks: str | None, surrogate: str | None = None, **asked: Any) -> bool:
    """Evaluate models one after the other: a table of each with its checks' findings, and one of all.

    Returns:
        Whether all the figures stand: no check after the attacks found an error.
    """
    models = [w for w in words if "=" not in w or Path(w).exists() or is_network(w)]
    overrides = parse_overrides([w for w in words if w not in models])
    if len(models) > 1:
        read_settings(None, overrides)  # what does not fit the last is known before the first is attacked
    if not models:
        raise MmardError("no model given; expected a run folder, a .safetensors file or a card")
    of_each = surrogates(models, surrogate)
    stand, results, keywords = True, {}, as_keywords(overrides)
    for model, its in of_each.items():
        scores = judge(model, out, attacks, **its, **asked, **keywords)
        results[model] = scores
        stand &= all(check["level"] != "error" for check in scores.metadata["checks"])
        out.print(scores_table(model, scores))
        if len(scores.attacks) > 1 or scores.metadata["checks"]:
            out.print(*checks_lines(model, scores.metadata), sep="\n", soft_wrap=True)
    if len(results) > 1:
        out.print(compare_table(results))
    return stand
