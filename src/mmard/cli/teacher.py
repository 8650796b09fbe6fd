"""`mmard teacher`, as the command line takes it."""

import json
import math
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TimeElapsedColumn

from mmard.cli import console
from mmard.utils.errors import Interrupted, MmardError
from mmard.utils.numbers import is_number
from mmard.utils.terminal import ScreenTable, task_column, visible

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.api.teacher import Examination
    from mmard.diagnostics.teaching import Row

SMALL = "A small {} network in a student's place, or several with commas; none: without. Default: one is trained."
TARGET = "Mean entropy, in nats, to sharpen its targets to. Default: .8 of ten classes."


def teacher(
    words: Annotated[
        list[str],
        typer.Argument(metavar="TEACHER [KEY=VALUE]...", help="Card, run folder, weights, robustbench:...; settings."),
    ],
    natural: Annotated[str | None, typer.Option(metavar="RUN", help=SMALL.format("natural"))] = None,
    robust: Annotated[str | None, typer.Option(metavar="RUN", help=SMALL.format("robust"))] = None,
    limit: Annotated[
        int, typer.Option(min=20, help="About so many test images; of the held-out ones 500 at most.")
    ] = 500,
    epochs: Annotated[int, typer.Option(min=1, help="Of the small networks' training.")] = 10,
    target_entropy: Annotated[float | None, typer.Option(help=TARGET)] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images attacked at once.")] = 100,
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of the attacks and the small networks.")] = 0,
    to: Annotated[str | None, typer.Option("--out", help="Folder to write to; default teacher/ beside it.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record, and nothing else.")] = False,
    trust: console.Trusted = False,
) -> None:
    """Examine a teacher: what it is, whether its claim holds, and how well it will teach.

    Weights of somebody else get a card, where their names and shapes tell the layout. Small networks show what a student's attack
    makes of the teacher; they are trained once, in minutes, and kept in runs/small-nets/. Writes teacher.json and
    samples.safetensors. The advice is by rules of thumb; docs/softness.md says which.
    """
    console.must_be_settings(words, teacher)
    options: dict[str, Any] = {"natural": natural, "robust": robust, "limit": limit, "epochs": epochs, "seed": seed}
    options |= {"batch_size": batch_size, "target_entropy": target_entropy, "to": to, "trust": trust}
    _tell(_examined(words, as_json, options), as_json)


def _tell(found: "Examination", as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.record(), indent=2, ensure_ascii=False))
        return
    console.out.print(_table(found))
    if found.measured["fault"]:
        console.say(("its claim", "bold"), f"  it {found.measured['fault']}")
    console.say((found.advice.verdict, "bold"), f"  {found.advice.sentence()}")
    console.say(f"rules of thumb, no measurement of a student; record: {found.metadata['folder']}")


def _examined(words: list[str], quiet: bool, options: dict[str, Any]) -> "Examination":
    """Examine with a progress bar."""
    from mmard.api.overrides import parse_overrides
    from mmard.api.teacher import examine
    from mmard.cli.recipe_words import as_keywords
    from mmard.training.callbacks import Bar, Watcher

    if not words or "=" in words[0]:
        raise MmardError("no teacher given; expected a card, a run folder, weights, or robustbench:DATA/THREAT/NAME")
    keywords = as_keywords(parse_overrides(words[1:]))
    columns = (task_column(), BarColumn(24), TimeElapsedColumn())
    bar = Progress(*columns, console=console.out, transient=True, disable=quiet)
    task = bar.add_task("loading", total=None)

    def on_progress(what: str, done: int, total: int) -> None:
        bar.start()
        bar.update(task, description=visible(what), completed=done, total=total or None)

    def watch(title: str) -> Watcher:
        return Watcher() if quiet else Bar(title, console.out)

    try:
        return examine(words[0], on_progress=on_progress, watch=watch, **options, **keywords)
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on; small networks that are trained are kept") from None
    finally:
        bar.stop()


def _table(found: "Examination") -> ScreenTable:
    """Make the table: a figure a row, with what it means."""
    what, measured, row = found.what, found.measured, found.lessons.row()
    inside = "normalised inside" if what["mean"] else "raw pixels"
    size = f"{what['parameters_million']:,} M parameters, {what['classes']} classes, {inside}"
    card = f"\nit had no card; {what['card']} was written" if "card" in what else ""
    table = ScreenTable(
        title=f"{what['architecture']}: {size}{card}", title_justify="left", box=None, padding=(0, 2, 0, 0)
    )
    for head, justify in (("", "left"), (found.metadata["threat"], "right"), ("", "left")):
        table.add_column(head, justify=justify, no_wrap=head != "" or justify == "left")
    table.columns[2].no_wrap = False
    table.add_row(f"{measured['images']} test images: clean", f"{measured['clean']:.1f} %", _claim(measured["claimed"]))
    if "pgd_10" in measured:
        table.add_row("  under PGD-10", f"{measured['pgd_10']:.1f} %", "no less than AutoAttack's")
    table.add_row(f"{row['images']} held-out images: clean", _percent(row["clean"]), "perhaps seen in its training")
    for name, value, meaning in (*_answers(row), *_students(row)):
        table.add_row(name, value, meaning)
    tau = found.advice
    table.add_row("temperature", f"{tau.temperature:.2f}", f"for an entropy of at most {tau.target:.2f} nats")
    return table


def _answers(row: "Row") -> list[tuple[str, str, str]]:
    guess = f"of {math.log(row['classes'] or 2):.2f}, a guess's"
    small = row["small_robust"]
    return [
        (
            "  under PGD-20",
            _percent(row["robust"]),
            "" if small is None else f"a small net of its own: {_percent(small)}",
        ),
        ("entropy at x", _nats(row["entropy"]), guess),
        ("entropy at x'", _nats(row["entropy_adv"]), f"{row['entropy_range']:+.2f} by a direct attack"),
        ("probability of the label", f"{row['label']:.2f}", f"{row['label_adv']:.2f} at x'"),
    ]


def _students(row: "Row") -> list[tuple[str, str, str]]:
    """Say what examples of small networks do to the teacher, and what it says where these fail."""
    lines = [
        (
            f"fooled by a {kind} net's x'",
            _percent(row[f"transfer_{kind}"]),
            f"of {row[f'fooling_{kind}']}; {_percent(row[f'effect_{kind}'])} of a direct attack's effect",
        )
        for kind in ("natural", "robust")
        if row[f"effect_{kind}"] is not None
    ]
    if row.get("unlearnable"):
        share = f"on the {_percent(row['unlearnable'])} hardest for the robust net; elsewhere {_nats(row['entropy_learnable'])}"
        lines.append(("entropy where students fail", _nats(row["entropy_unlearnable"]), share))
    return lines


def _claim(claimed: dict[str, Any]) -> str:
    """Shorten a card's claim to the clean accuracy, the least robust one, and its threat."""
    robust = [value for key, value in claimed.items() if key != "clean" and is_number(value)]
    parts = [f"clean {claimed['clean']:g}"] if is_number(claimed.get("clean")) else []
    parts += [f"robust {min(robust):g} at {claimed.get('threat', 'a threat that it does not say')}"] if robust else []
    return f"claimed: {', '.join(parts)}" if parts else "no claim"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _nats(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f} nats"
