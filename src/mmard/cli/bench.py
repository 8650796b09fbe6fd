"""`mmard bench`, as the command line takes it."""

from pathlib import Path
from typing import Annotated

import typer

from mmard.cli import console
from mmard.cli.recipe_words import Words, split_words


def bench(
    words: Words = None,
    method: Annotated[str | None, typer.Option(help="As for train.")] = None,
    student: Annotated[str | None, typer.Option(help="Architecture; the recipe's, or resnet18.")] = None,
    teacher: Annotated[
        str, typer.Option(help="Architecture of the teacher; its weights do not matter here.")
    ] = "wrn-16-4",
    batch: Annotated[int, typer.Option(min=2, help="Images a step.")] = 8,
    size: Annotated[int, typer.Option(min=8, help="Height and width of an image.")] = 32,
    repeats: Annotated[int, typer.Option(min=1, help="Turns that are counted, each: ours, plain, base.")] = 3,
    trust: console.Trusted = False,
    to: Annotated[
        Path | None, typer.Option("--json", parser=console.path, help="Also write all figures to this file.")
    ] = None,
) -> None:
    """Measure how fast a step is, against the same step written plainly and the base method's; a minute on two cores."""
    from mmard.api.settings import Settings, read_settings
    from mmard.bench.step import Case, measure
    from mmard.report.screen import bench_table
    from mmard.utils.files import write_json

    console.must_be_settings(words or (), bench, Settings.model_fields)
    recipe, overrides = split_words(words)
    student = student or (None if recipe else "resnet18")
    given = {key: value for key, value in (("student", student), ("method", method)) if value is not None}
    settings = read_settings(recipe, given | overrides, trust=trust)
    with console.out.status("measuring"):
        figures = measure(Case(settings=settings, teacher=teacher, batch=batch, size=size, repeats=repeats))
    console.out.print(bench_table(figures))
    if to is not None:
        write_json(to, figures)
