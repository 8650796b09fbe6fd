"""`mmard demo`: the main job, end to end, on what is embedded."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from mmard.cli import console
from mmard.utils.files import write_text
from mmard.utils.terminal import line

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.study.jobs import Job
    from mmard.training.callbacks import Bar

STUDENTS = ("rslad", "mmard")
SHORTER: dict[str, Any] = {"train.epochs": 20, "attack.steps": 5, "attack.step_size": 0.05}
"""A minute instead of the recipes' 30 epochs and ten steps; so the figures are not theirs (docs/performance.md)."""


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
    from mmard.evaluation.scores import Scores
    from mmard.report.figures.learning import plot_curves
    from mmard.report.screen import checks_lines, compare_markdown, compare_table
    from mmard.runs.folder import RunFolder

    out.print(line(("1", "bold"), "  A robust teacher, by PGD-AT, on 8×8 digits (eps 0.15)"))
    teacher = str(to / "teacher")
    watch = partial(_bar, "teacher", out)
    train("digits-teacher", resume=True, watch=watch, out=teacher, **SHORTER)
    out.print(
        line(("\n2", "bold"), "  Two small students of it, side by side: trained, then attacked on all 360 test images")
    )
    results = {}
    for name, evaluation in _students(to, teacher, out).items():
        scores = Scores.load(evaluation)
        results[name] = scores
        out.print(*checks_lines(name, scores.metadata), sep="\n")
    out.print(compare_table(results))
    write_text(to / "results.md", compare_markdown(results))
    plot_curves({name: RunFolder(to / name) for name in ("teacher", *STUDENTS)}, to / "curves.png")
    out.print("One seed and 360 images: differences below five points say nothing.")
    out.print(line(f"Table {to / 'results.md'}, curves {to / 'curves.png'}, weights {to}/*/best.safetensors"))


def _students(to: Path, teacher: str, out: Console) -> dict[str, Path]:
    """Train and evaluate the students, a process each, and return the folder of each one's scores."""
    from mmard.api.settings import read_settings
    from mmard.study.jobs import Job, scores_of
    from mmard.study.spec import Evaluation

    ours = SHORTER | {"teacher": teacher}
    of = {name: read_settings(f"digits-{name}", ours | {"out": str(to / name)}) for name in STUDENTS}
    jobs = [Job(name, settings, Evaluation()) for name, settings in of.items()]
    _run([job for job in jobs if job.state() != "done"], out)
    return {job.name: found for job in jobs if (found := scores_of(job.folder, Evaluation())) is not None}


def _run(jobs: "list[Job]", out: Console) -> None:
    """Run jobs side by side; raises MmardError for the first that fails."""
    from mmard.study.jobs import must_be_ours
    from mmard.study.local_backend import LocalBackend, cores, gpus, slots
    from mmard.study.progress import Screen
    from mmard.study.queue import run_all
    from mmard.study.worker import log_file
    from mmard.utils.errors import Interrupted, MmardError

    must_be_ours(jobs)
    try:
        with Screen(jobs, 0, out) as screen:
            failed = run_all(jobs, LocalBackend(slots(min(len(STUDENTS), cores()), None, gpus())), screen)
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on") from None
    for job in jobs:
        if job.name in failed:
            raise MmardError(f"{job.name} failed: {failed[job.name]}; {log_file(job.settings.out)} has the whole of it")


def _bar(name: str, out: Console, _folder: str) -> "Bar":
    from mmard.training.callbacks import Bar

    return Bar(name, out)
