"""`mmard demo`: the main job, end to end, on what is embedded."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from mmard.cli import console
from mmard.utils.files import write_text
from mmard.utils.terminal import line

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.training.callbacks import Bar

STUDENTS = ("rslad", "mmard")


def demo(
    to: Annotated[
        Path, typer.Option("--out", parser=console.path, help="Folder for the runs, the table and the plot.")
    ] = Path("runs/demo"),
) -> None:
    """Run the whole job on embedded digits: a robust teacher, students by RSLAD and MMARD, AutoAttack, a table, a plot."""
    run_demo(to, console.out)


def run_demo(to: Path, out: Console) -> None:
    """Train and evaluate into the folder ``to``; a demo that was stopped resumes."""
    from mmard.api.train import train
    from mmard.cli.evaluation import judge
    from mmard.evaluation.scores import Scores
    from mmard.report.figures.learning import plot_curves
    from mmard.report.screen import checks_lines, compare_markdown, compare_table
    from mmard.runs.folder import RunFolder

    out.print(
        line(("1", "bold"), "  A robust teacher, by PGD-AT, and two small students of it, on 8×8 digits (eps 0.15)")
    )
    teacher = str(to / "teacher")
    train("digits-teacher", resume=True, watch=partial(_bar, "teacher", out), out=teacher)
    folders = {}
    for name in STUDENTS:
        watch = partial(_bar, name, out)
        folders[name] = train(f"digits-{name}", resume=True, watch=watch, out=str(to / name), teacher=teacher)
    out.print(line(("\n2", "bold"), "  Both students under attack, all 360 test images"))
    results = {}
    for name, folder in folders.items():
        done = folder.path / "eval" / "best"
        scores = Scores.load(done) if (done / "verdicts.safetensors").exists() else judge(folder.path, out)
        results[name] = scores.rows()
        out.print(*checks_lines(name, scores.metadata), sep="\n")
    out.print(compare_table(results))
    write_text(to / "results.md", compare_markdown(results))
    plot_curves({"teacher": RunFolder(teacher), **folders}, to / "curves.png")
    out.print("One seed and 360 images: differences below five points say nothing.")
    out.print(line(f"Table {to / 'results.md'}, curves {to / 'curves.png'}, weights {to}/*/best.safetensors"))


def _bar(name: str, out: Console, _folder: str) -> "Bar":
    from mmard.training.callbacks import Bar

    return Bar(name, out)
