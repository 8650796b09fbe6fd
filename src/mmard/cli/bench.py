"""`mmard bench`, as the command line takes it."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mmard.cli import console
from mmard.cli.recipe_words import Words, split_words
from mmard.utils.errors import Interrupted, MmardError

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.bench.accuracy import Entry

METHOD = "As for train; with --to-accuracy several, each perhaps with settings of its own: 'rslad attack.kind=n-fgsm'."
TEACHER = "Of a step: its architecture (wrn-16-4), for its weights do not matter. With --to-accuracy: as for train."
TO_ACCURACY = (
    "Instead of a step: seconds of training until AutoAttack-quick leaves so many percent of the held-out images right."
)
Methods = Annotated[list[str] | None, typer.Option(help=METHOD)]
Student = Annotated[str | None, typer.Option(help="Architecture; the recipe's, or resnet18.")]
Teacher = Annotated[str | None, typer.Option(help=TEACHER)]
Batch = Annotated[int | None, typer.Option(min=2, help="Images a step; 8 by default.")]
Size = Annotated[int | None, typer.Option(min=8, help="Height and width of an image; 32 by default.")]
Repeats = Annotated[int | None, typer.Option(min=1, help="Turns of each step that are counted; 3 by default.")]
ToAccuracy = Annotated[float | None, typer.Option(help=TO_ACCURACY)]
Seeds = Annotated[
    int | None, typer.Option(min=1, max=1000, help="With --to-accuracy: runs of each method; 1 by default.")
]
Out = Annotated[Path | None, typer.Option(parser=console.path, help="With --to-accuracy: folder of the runs.")]
Json = Annotated[Path | None, typer.Option("--json", parser=console.path, help="Also write all figures to this file.")]
OPTIONS = {
    "train.batch_size": "--batch 128",
    "data.size": "--size 32",
    **dict.fromkeys(("teacher", "teachers", "teacher_recipe"), "--teacher wrn-16-4"),
}
"""Settings in whose place an option says what a step is measured on."""
RUNS = Path("runs/to-accuracy")


def bench(
    words: Words = None,
    method: Methods = None,
    student: Student = None,
    teacher: Teacher = None,
    batch: Batch = None,
    size: Size = None,
    repeats: Repeats = None,
    to_accuracy: ToAccuracy = None,
    seeds: Seeds = None,
    out: Out = None,
    trust: console.Trusted = False,
    to: Json = None,
) -> None:
    """Measure how fast a training step is, or how long a training takes until its student is so robust.

    [bold]mmard bench --method mmard[/bold]   a step, beside the same written plainly, and the base method's

    [bold]mmard bench --to-accuracy 20 --method rslad --method pgd_at[/bold]   whole trainings
    """
    from mmard.api.settings import Settings
    from mmard.utils.files import must_take_a_file, write_json

    console.must_be_settings(words or (), bench, Settings.model_fields)
    if to is not None:
        must_take_a_file(to)
    networks = {key: name for key, name in (("student", student), ("teacher", teacher)) if name}
    shape = {"batch": batch, "size": size, "repeats": repeats}
    if to_accuracy is None:
        _must_not_stand({"seeds": seeds, "out": out}, "with --to-accuracy")
        figures = _time_a_step(words, method or [], networks, {k: v for k, v in shape.items() if v}, trust)
    else:
        _must_not_stand(shape, "without --to-accuracy")
        how = {"accuracy": to_accuracy, "seeds": seeds or 1, "out": out or RUNS, "trust": trust}
        figures = _time_runs(words, method or [], networks, how)
    if to is not None:
        write_json(to, figures)


def _must_not_stand(options: Mapping[str, Any], where: str) -> None:
    for name, value in options.items():
        if value is not None:
            raise MmardError(f"--{name} has a meaning only {where}; leave it out")


def _time_a_step(
    words: Words, methods: list[str], networks: dict[str, str], shape: dict[str, int], trust: bool
) -> dict[str, Any]:
    from mmard.api.settings import read_settings
    from mmard.api.unused_settings import STEP, must_be_used_in
    from mmard.bench.step import Case, measure
    from mmard.report.screen import bench_table

    if len(methods) > 1:
        raise MmardError(f"got {len(methods)} methods, expected one for the time of a step; or give --to-accuracy")
    recipe, overrides = split_words(words)
    for key in overrides:
        if option := next((OPTIONS[own] for own in OPTIONS if key == own or key.startswith(f"{own}.")), None):
            raise MmardError(f"{key} changes nothing in the time of a step; say {option}, or give --to-accuracy")
    teacher = {"teacher": networks.pop("teacher")} if "teacher" in networks else {}
    given = ({} if recipe else {"student": "resnet18"}) | networks | ({"method": methods[0]} if methods else {})
    settings = read_settings(recipe, given | overrides, trust=trust)
    must_be_used_in(settings, overrides, STEP)
    with console.out.status("measuring"):
        figures = measure(Case(settings=settings, **teacher, **shape))  # type: ignore[arg-type]
    console.out.print(bench_table(figures))
    return figures


def _time_runs(words: Words, methods: list[str], networks: dict[str, str], how: dict[str, Any]) -> dict[str, Any]:
    from mmard.bench.accuracy import entries_of, summed_up, usual_recipe
    from mmard.report.screen import to_accuracy_table

    recipe, overrides = split_words(words)
    if recipe is None:
        recipe, said = usual_recipe()
        console.say(said)
    entries = entries_of(recipe, methods, networks | overrides, **how)
    figures = summed_up(entries, [_figures_of(entry) for entry in entries], recipe)
    console.out.print(to_accuracy_table(figures))
    return figures


def _figures_of(entry: "Entry") -> list[dict[str, Any]]:
    """Train and judge a method's runs, with a progress bar each and a line when it is done."""
    from mmard.bench.accuracy import ATTACK, run_to_accuracy
    from mmard.cli.evaluation import judge
    from mmard.training.callbacks import Bar

    found = []
    for resolved in entry.runs:
        own, name = Path(resolved.settings.out).name, f"{entry.label}, seed {resolved.settings.seed}"

        def bar(title: str, own: str = own, name: str = name) -> Bar:
            return Bar(name if title == own else title, console.out)  # the other is a teacher that is trained first

        try:
            figures = run_to_accuracy(resolved, bar, lambda file: judge(file, console.out, ATTACK, checks="none"))
        except KeyboardInterrupt:
            raise Interrupted("the same command goes on") from None
        reached = "reached" if figures["reached"] else "not reached"
        epochs = f"{figures['epochs']} epoch{'s' if figures['epochs'] > 1 else ''}"
        took = f": {reached} after {epochs}, {figures['seconds']:.1f} s"
        console.say((name, "bold"), f"{took}; held-out {figures['held_out']:.2f} %, test {figures['test']:.2f} %")
        found.append(figures)
    return found
