"""Evaluation with a progress bar, for the command line and the demo."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmard import api
from mmard.evaluation.scores import Scores


def judge(source: str | Path, out: Console, attacks: str | None = None, **settings: Any) -> Scores:
    """`mmard.evaluate` with a bar that names the attack."""
    name_of = escape(str(source))
    columns = (TextColumn("[bold]{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(name_of, total=None)

        def tick(name: str, done: int, total: int) -> None:
            progress.update(task, description=f"{name_of}: {name}", completed=done, total=total)

        return api.evaluate(source, attacks, tick=tick, **settings)
