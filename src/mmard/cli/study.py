"""`mmard study`, as the command line takes it."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from mmard.cli import console

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.study.jobs import Job
    from mmard.study.queue import Backend
    from mmard.study.spec import StudyFile


Source = Annotated[
    str, typer.Argument(metavar="STUDY", help="A .yaml file (docs/studies.md), or a built-in one: smoke.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the cells and their state.")]
ReportOnly = Annotated[bool, typer.Option("--report-only", help="Only make tables and figure from what is done.")]
Into = Annotated[
    Path | None,
    typer.Option(
        parser=console.path, help="Also put them into this Markdown page, with the runs' small files beside it."
    ),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Runs at once; default: one a GPU, without GPUs one a core.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of each; default: the cores shared out.")]
Trusted = Annotated[bool, typer.Option("--trust", help="Run methods from files that the study names; all cells may.")]
Where = Annotated[Literal["local", "ray"], typer.Option(help="This machine, or the Ray cluster that is running.")]


def study(
    source: Source,
    dry_run: DryRun = False,
    report_only: ReportOnly = False,
    into: Into = None,
    jobs: Jobs = None,
    threads: Threads = None,
    engine: Where = "local",
    trust: Trusted = False,
) -> None:
    """Run a grid of runs (methods × students × teachers × data × seeds), to tables, tests and a plot.

    What is done is skipped, and what was cut goes on. A cell that fails stops no other; exit code 1 says that one did, or
    that figures do not stand by the checks of their evaluation.

    [bold]mmard study smoke --dry-run[/bold]   what would run

    [bold]mmard study smoke[/bold]   run it; stop it with Ctrl-C, and the same command goes on
    """
    from mmard.study.grid import cells_of
    from mmard.study.jobs import jobs_of
    from mmard.study.progress import plan_table

    plan = _read(source, into, trust)
    if report_only:
        _end(stand=_report(plan, into))
        return
    cells = cells_of(plan)
    todo = jobs_of(cells, plan.evaluate)
    if dry_run:
        console.out.print(plan_table(todo, f"{len(cells)} cells in {plan.folder}"))
        return
    failed = _run(plan, todo, jobs, threads, engine)
    stand = failed.keys() >= {cell.name for cell in cells} or _report(plan, into)
    if failed:
        _list_failed(failed)
    _end(stand=stand and not failed)


def _end(*, stand: bool) -> None:
    """Exit with 1 unless every cell has figures, and all of them stand."""
    if not stand:
        raise typer.Exit(1)


def _read(source: str, into: Path | None, trust: bool) -> "StudyFile":
    """Read the study, after checking that the page has a place for it."""
    from mmard.study.publish import must_have_place
    from mmard.study.spec import read_study

    study = read_study(source, trust=trust)
    if into is not None:
        must_have_place(study, into)
    return study


def _run(
    plan: "StudyFile", jobs: Sequence["Job"], at_once: int | None, threads: int | None, engine: str
) -> dict[str, str]:
    """Run what is not done yet; returns name → error of what failed."""
    from mmard.runs.folder import RunFolder
    from mmard.study.jobs import must_have_data
    from mmard.study.progress import Screen
    from mmard.study.queue import run_all
    from mmard.utils.errors import Interrupted

    todo = [job for job in jobs if job.state() != "done"]
    console.say(f"{len(jobs)} runs in {plan.folder}, {len(jobs) - len(todo)} of them done")
    if not todo:
        return {}
    must_have_data(todo)
    folder = RunFolder(plan.folder)
    folder.lock()
    try:
        backend = _backend(todo, at_once, threads, engine)
        with Screen(todo, len(jobs) - len(todo), console.out) as screen:
            return run_all(todo, backend, screen)
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on") from None
    finally:
        folder.close()


def _backend(jobs: Sequence["Job"], at_once: int | None, threads: int | None, engine: str) -> "Backend":
    from mmard.study.local_backend import LocalBackend, gpus, slots

    if engine == "ray":
        from mmard.study.ray_backend import RayBackend

        return RayBackend(at_once, threads)
    needed = any(job.settings.engine.accelerator in ("auto", "cuda") for job in jobs)
    return LocalBackend(slots(at_once, threads, gpus() if needed else []))


def _list_failed(failed: dict[str, str]) -> None:
    for name, error in failed.items():
        console.say(("failed:", "bold red"), f" {name}: {error}")
    console.say(f"{len(failed)} failed; the log.txt of each run has the whole of it. The same command tries again.")


def _report(plan: "StudyFile", into: Path | None) -> bool:
    """Write and print the results; returns whether all the figures stand."""
    from mmard.report.study_tables import errors_of
    from mmard.study.progress import comparison_lines, results_table
    from mmard.study.publish import keep, write_results

    found = write_results(plan)
    console.out.print(results_table(found))
    for line in comparison_lines(found):
        console.say(line)
    for said in (untenable := errors_of(found)):
        console.say(("does not stand:", "bold red"), f" {said}")
    console.say(f"tables, figure and rows: {plan.folder}/table.md, figure.png, results.csv")
    if into is not None:
        keep(plan, into)
        console.say(f"and in {into}; mmard results {quote(str(into))} makes them anew")
    return not untenable
