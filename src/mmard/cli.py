"""The command line."""

import io
import os
import sys
import warnings
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from mmard import config
from mmard.commands import console
from mmard.commands.diagnose import diagnose
from mmard.commands.eval import evaluate
from mmard.commands.export import export
from mmard.commands.report import report
from mmard.commands.unexpected import describe_fault
from mmard.core.errors import Interrupted, MmardError, Note, as_mistake
from mmard.core.files import write_text
from mmard.core.signals import Stopped, end_at_once, on_signals
from mmard.core.terminal import Table
from mmard.study import command

INTERRUPTED, UNEXPECTED = 130, 70  # exit codes, as shells and sysexits.h have them

app = typer.Typer(
    invoke_without_command=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Adversarial robustness distillation: small classifiers that resist attack, learnt from large robust ones.

    Start with [bold]mmard demo[/bold] (three minutes on two cores, no download), then [bold]mmard ls[/bold].""",
)
RECIPE = typer.Argument(
    metavar="[RECIPE] [KEY=VALUE]...", help="A recipe (see mmard ls recipes) or .yaml file, and settings."
)
Extend = Annotated[bool, typer.Option("--extend", help="With --resume: for more epochs, or at another learning rate.")]
GOES_ON = "the same command goes on, a training with --resume from the checkpoint that it saved"
Words = Annotated[list[str] | None, RECIPE]


def _split(words: list[str] | None) -> tuple[str | None, dict[str, Any]]:
    words = words or []
    recipe = words[0] if words and ("=" not in words[0] or Path(words[0]).exists()) else None
    return recipe, config.parse_overrides(words[1 if recipe else 0 :])


def _must_be_there(teacher: str | None, recipe: str | None, settings: config.Settings) -> None:
    """A teacher that the command names is not made where the recipe's own would be."""
    from mmard.models.teachers import find_model

    if teacher is not None and settings.teacher_recipe and teacher != config.read_settings(recipe).teacher:
        find_model(teacher)


def _version(asked: bool) -> None:
    if asked:
        console.say(metadata.version("mmard"))
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
def train(
    words: Words = None,
    method: Annotated[
        str | None, typer.Option(help="A name, or your own: file.py:function, package.module:function.")
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Run folder, .safetensors file or card (.json).")] = None,
    student: Annotated[str | None, typer.Option(help="Architecture, such as resnet18 or cnn-16-3.")] = None,
    to: Annotated[str | None, typer.Option("--out", help="Run folder to make.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run folder's checkpoint ends.")] = False,
    extend: Extend = False,
    trust: console.Trusted = False,
) -> None:
    """Train a student (or, with a method that needs no teacher, a teacher).

    [bold]mmard train digits-rslad[/bold]   a built-in recipe, its teacher first where there is none yet

    [bold]mmard train digits-rslad train.epochs=5 threat.eps=0.1 --out runs/short[/bold]   with other settings

    [bold]mmard train --method my_method.py:build --teacher runs/digits-teacher[/bold]   a method of your own

    [bold]mmard train runs/short train.epochs=20 --resume --extend[/bold]   go on for more epochs than it was planned for
    """
    from mmard import api
    from mmard.training.progress import Bar

    console.must_be_settings(words or (), train, config.Settings.model_fields)
    recipe, overrides = _split(words)
    given = {"method": method, "teacher": teacher, "student": student, "out": to}
    settings = config.read_settings(recipe, {k: v for k, v in given.items() if v is not None} | overrides, trust=trust)
    _must_be_there(teacher, recipe, settings)
    console.say((settings.student, "bold"), f" on {settings.data.name}")
    console.say(str(api.method_of(settings)))
    try:
        folder = api.train(settings, resume=resume, extend=extend, watch=lambda title: Bar(title, console.out))
    except KeyboardInterrupt:
        raise Interrupted("the same command with --resume goes on") from None
    _tell_looks(folder.metrics())
    console.say("judge the best on the test images: ", (f"mmard eval {quote(str(folder.path))}", "bold"))


def _tell_looks(metrics: list[dict[str, Any]]) -> None:
    """The best and the last look at the held-out images."""
    judged = [r for r in metrics if "robust" in r]
    ordered = sorted(judged, key=lambda r: (r["robust"], r["clean"], -r["epoch"]))
    for which, r in [("best", ordered[-1]), ("last", judged[-1])] if judged else []:
        figures = f"clean {r['clean']:.2f} %, robust {r['robust']:.2f} %"
        console.say(f"{which} on the held-out split: epoch {r['epoch']}, {figures}")


app.command("eval")(evaluate)


@app.command("ls")
def list_all(
    what: Annotated[
        str | None, typer.Argument(help="methods, models, data, terms, inner or recipes; all by default.")
    ] = None,
) -> None:
    """What there is: methods, models, data sets, terms, parts of the inner process, recipes, with one line each."""
    from mmard.catalogue import catalogue
    from mmard.core.errors import unknown

    lists = catalogue()
    if what is not None and what not in lists:
        raise unknown("list", what, lists)
    for title, made in lists.items():
        if what in (None, title):
            table = Table(title=title, title_justify="left", box=None, show_header=False, padding=(0, 2))
            for name, line in made().items():
                table.add_row((name, "bold"), line)
            console.out.print(table, "")


@app.command("cp")
def copy(
    recipe: str, to: Annotated[Path | None, typer.Argument(help="File to write; default RECIPE.yaml here.")] = None
) -> None:
    """Copy a recipe, to change it: mmard cp digits-rslad mine.yaml; mmard train mine.yaml."""
    source, target = config.recipe_file(recipe), to or Path(f"{Path(recipe).stem}.yaml")
    if target.exists():
        raise MmardError(f"{target} exists already; choose another name")
    write_text(target, source.read_text(encoding="utf-8"))
    console.say(f"wrote {target}; train it: ", (f"mmard train {quote(str(target))}", "bold"))


@app.command()
def show(words: Words = None, trust: console.Trusted = False) -> None:
    """Show the resolved settings of a recipe or a run folder, and the method as its formula.

    A run folder's is the one it was trained with. A method from a file that a recipe names is not run for this without --trust.
    """
    import yaml

    from mmard import api
    from mmard.locate import names_of
    from mmard.runs import RunFolder

    recipe, overrides = _split(words)
    settings = config.read_settings(recipe, overrides, trust=trust)
    console.say(yaml.safe_dump(settings.resolved(), sort_keys=False, allow_unicode=True))
    as_trained = recipe is not None and Path(recipe).expanduser().is_dir() and not trust
    as_trained = as_trained and not any(key.split(".")[0] in ("method", "attack", "threat") for key in overrides)
    formula = api.formula_of(settings, RunFolder(recipe) if as_trained and recipe else None)
    if not formula:
        names = ", ".join(sorted(names_of(settings.method)))
        formula = (
            f"method {names}: not built, for it is not all of this package; --trust builds it and shows its formula"
        )
    console.say(formula)


@app.command()
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
    to: Annotated[Path | None, typer.Option("--json", help="Also write all figures to this file.")] = None,
) -> None:
    """How fast a step is, against the same step written plainly and against the base method's; a minute on two cores."""
    from mmard.bench.report import Case, measure
    from mmard.core.files import write_json
    from mmard.report.tables import bench_table

    console.must_be_settings(words or (), bench, config.Settings.model_fields)
    recipe, overrides = _split(words)
    student = student or (None if recipe else "resnet18")
    given = {key: value for key, value in (("student", student), ("method", method)) if value is not None}
    settings = config.read_settings(recipe, given | overrides, trust=trust)
    with console.out.status("measuring"):
        figures = measure(Case(settings=settings, teacher=teacher, batch=batch, size=size, repeats=repeats))
    console.out.print(bench_table(figures))
    if to is not None:
        write_json(to, figures)


app.command()(diagnose)
app.command()(export)
app.command()(report)


@app.command()
def demo(
    to: Annotated[Path, typer.Option("--out", help="Folder for the runs, the table and the plot.")] = Path("runs/demo"),
) -> None:
    """The main job on embedded digits: a robust teacher, students by RSLAD and MMARD, AutoAttack, a table, a plot."""
    from mmard.demo import run_demo

    run_demo(to, console.out)


app.command("study")(command.study)
app.command("results")(command.results)


def main() -> None:
    """Run the command line; a user's mistake is one line on standard error and exit code 2.

    A fault of this package is one line, too, with a file of details and exit code 70.
    """
    warnings.showwarning = lambda message, kind, *_: console.tell(
        "yellow", "note" if issubclass(kind, Note) else "warning", str(message)
    )
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what a terminal's encoding has not is written out
    try:
        with on_signals(end_at_once):
            sys.exit(_ended(app(prog_name="mmard", standalone_mode=False)))
    except Stopped as e:
        with suppress(OSError):  # of a terminal that is gone
            if console.RANK == "0":
                console.tell("", f"stopped by {e}; {GOES_ON}", "")
        # The other processes are children of the first, which would take their code for a fault.
        sys.exit(e.code if console.LOCAL == "0" else 0)
    except Exception as e:
        sys.exit(_told(e))


def _ended(code: Any) -> int:
    """The exit code of a command that came to its end, or was stopped where it had nothing to say of going on."""
    sys.stdout.flush()
    if code == INTERRUPTED:
        console.tell("", "stopped", "")
    return code if isinstance(code, int) else 0


def _told(e: Exception) -> int:
    """Say what went wrong in a line; returns the exit code."""
    if isinstance(e, Interrupted):
        console.tell("", f"stopped; {e}", "")
        return INTERRUPTED
    if isinstance(e, BrokenPipeError):  # mmard ls | head: nobody is listening any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    if hasattr(e, "format_message"):  # typer's kinds of error, whose module is another in each version
        context = getattr(e, "ctx", None)
        where = context.command_path if context else "mmard"
        console.tell("bold red", "error", f"{e.format_message().rstrip('.')}; see {where} --help")
        return 2
    if isinstance(e, typer.Abort):
        return INTERRUPTED
    if isinstance(mistake := as_mistake(e), MmardError):
        console.tell("bold red", "error", " ".join(str(mistake).splitlines()))
        return 2
    console.tell("bold red", "error", describe_fault(e))
    return UNEXPECTED
