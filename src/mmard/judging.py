"""Evaluation with a progress bar, for the command line and the demo."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mmard import api
from mmard.config import parse_overrides, read_settings
from mmard.core.errors import MmardError
from mmard.evaluation.scores import Scores
from mmard.models.teachers import find_model


def judge(source: str | Path, out: Console, attacks: str | None = None, **settings: Any) -> Scores:
    """`mmard.evaluate` with a bar that names the attack."""
    name_of = escape(str(source))
    columns = (TextColumn("[bold]{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=out, transient=True) as progress:
        task = progress.add_task(name_of, total=None)

        def tick(name: str, done: int, total: int) -> None:
            progress.update(task, description=f"{name_of}: {name}", completed=done, total=total)

        return api.evaluate(source, attacks, tick=tick, **settings)


def models_and_settings(words: list[str]) -> tuple[list[str], dict[str, Any]]:
    """What the command line names, KEY=VALUE apart from models; all is there and fits before the first is attacked."""
    models = [w for w in words if "=" not in w or Path(w).exists()]
    overrides = parse_overrides([w for w in words if w not in models])
    read_settings(None, overrides)
    if not models:
        raise MmardError("no model given; expected a run folder, a .safetensors file or a card")
    for model in models:
        find_model(model)
    return models, overrides
