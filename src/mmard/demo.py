"""The main job, end to end, on what is embedded: teacher, two students, AutoAttack, a table and a plot."""

from functools import partial
from pathlib import Path

from rich.console import Console

from mmard import api
from mmard.commands.judging import judge
from mmard.core.files import write_text
from mmard.core.terminal import line
from mmard.evaluation.scores import Scores
from mmard.report.curves import plot_curves
from mmard.report.tables import checks_lines, compare_markdown, compare_table
from mmard.runs import RunFolder
from mmard.training.progress import Bar

STUDENTS = ("rslad", "mmard")


def run_demo(to: Path, out: Console) -> None:
    """Train and judge into the folder ``to``; a demo that was cut goes on where it was."""
    out.print(
        line(("1", "bold"), "  A robust teacher, by PGD-AT, and two small students of it, on 8×8 digits (eps 0.15)")
    )
    teacher = str(to / "teacher")
    api.train("digits-teacher", resume=True, watch=partial(_bar, "teacher", out), out=teacher)
    folders = {}
    for name in STUDENTS:
        watch = partial(_bar, name, out)
        folders[name] = api.train(f"digits-{name}", resume=True, watch=watch, out=str(to / name), teacher=teacher)
    out.print(line(("\n2", "bold"), "  Both students under attack, all 360 test images"))
    results = {}
    for name, folder in folders.items():
        done = folder.path / "eval" / "best"
        scores = Scores.load(done) if (done / "verdicts.safetensors").exists() else judge(folder.path, out)
        results[name] = scores.rows()
        out.print(*checks_lines(name, scores.facts), sep="\n")
    out.print(compare_table(results))
    write_text(to / "results.md", compare_markdown(results))
    plot_curves({"teacher": RunFolder(teacher), **folders}, to / "curves.png")
    out.print("One seed and 360 images: differences below five points say nothing.")
    out.print(line(f"Table {to / 'results.md'}, curves {to / 'curves.png'}, weights {to}/*/best.safetensors"))


def _bar(name: str, out: Console, _folder: str) -> Bar:
    return Bar(name, out)
