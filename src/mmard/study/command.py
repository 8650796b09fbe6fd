"""The words ``mmard study`` and ``mmard results``."""

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.study.file import StudyFile
    from mmard.study.jobs import Job
    from mmard.study.schedule import Places


Source = Annotated[str, typer.Argument(metavar="STUDY", help="A .yaml file (docs/studies.md), or smoke.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show the cells and their state.")]
ReportOnly = Annotated[bool, typer.Option("--report-only", help="Only make tables and figure from what is done.")]
Into = Annotated[
    Path | None, typer.Option(help="Also put them into this Markdown page, with the runs' small files beside it.")
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
    """A grid of runs (methods × students × teachers × data × seeds), several at once, to tables, tests and a plot.

    What is done is skipped, and what was cut goes on. A cell that fails stops no other; exit code 1 says that one did.

    [bold]mmard study smoke --dry-run[/bold]   what would run

    [bold]mmard study smoke[/bold]   run it; stop it with Ctrl-C, and the same command goes on
    """
    from mmard.commands import console
    from mmard.study.jobs import jobs_of
    from mmard.study.plan import cells_of
    from mmard.study.screen import plan_table

    plan = _read(source, into, trust)
    if report_only:
        _report(plan, into)
        return
    cells = cells_of(plan)
    todo = jobs_of(cells, plan.evaluate)
    if dry_run:
        console.out.print(plan_table(todo, f"{len(cells)} cells in {plan.folder}"))
        return
    failed = _run(plan, todo, jobs, threads, engine)
    if not failed.keys() >= {cell.name for cell in cells}:
        _report(plan, into)
    if failed:
        _list_failed(failed)
        raise typer.Exit(1)


def results(
    page: Annotated[Path, typer.Argument(metavar="PAGE", help="A Markdown page, such as docs/results.md.")],
) -> None:
    """Make every study's tables and figure in a page anew, from the run folders kept beside it.

    [bold]mmard study STUDY --into PAGE[/bold] puts them there.
    """
    from mmard.commands import console
    from mmard.study.pages import refresh

    for name in refresh(page):
        console.say(f"{name}: tables and figure made anew")


def _read(source: str, into: Path | None, trust: bool) -> "StudyFile":
    """The study; whether the page has a place for it is known before anything runs."""
    from mmard.study.file import read_study
    from mmard.study.pages import must_have_place

    study = read_study(source, trust=trust)
    if into is not None:
        must_have_place(study, into)
    return study


def _run(
    plan: "StudyFile", jobs: Sequence["Job"], at_once: int | None, threads: int | None, engine: str
) -> dict[str, str]:
    """Do what is not done yet; returns name → error of what failed."""
    from mmard.commands import console
    from mmard.core.errors import Interrupted
    from mmard.runs import RunFolder
    from mmard.study.schedule import run_all
    from mmard.study.screen import Screen

    todo = [job for job in jobs if job.state() != "done"]
    console.say(f"{len(jobs)} runs in {plan.folder}, {len(jobs) - len(todo)} of them done")
    if not todo:
        return {}
    folder = RunFolder(plan.folder)
    folder.lock()
    try:
        places = _places(todo, at_once, threads, engine)
        with Screen(todo, len(jobs) - len(todo), console.out) as screen:
            return run_all(todo, places, screen)
    except KeyboardInterrupt:
        raise Interrupted("the same command goes on") from None
    finally:
        folder.close()


def _places(jobs: Sequence["Job"], at_once: int | None, threads: int | None, engine: str) -> "Places":
    from mmard.study.local import Local, gpus, slots

    if engine == "ray":
        from mmard.study.cluster import Cluster

        return Cluster(at_once, threads)
    needed = any(job.settings.engine.accelerator in ("auto", "cuda") for job in jobs)
    return Local(slots(at_once, threads, gpus() if needed else []))


def _list_failed(failed: dict[str, str]) -> None:
    from mmard.commands import console

    for name, error in failed.items():
        console.say(("failed:", "bold red"), f" {name}: {error}")
    console.say(f"{len(failed)} failed; the log.txt of each run has the whole of it. The same command tries again.")


def _report(plan: "StudyFile", into: Path | None) -> None:
    from mmard.commands import console
    from mmard.study.pages import keep, write_results
    from mmard.study.screen import results_table, verdicts

    found = write_results(plan)
    console.out.print(results_table(found))
    for line in verdicts(found):
        console.say(line)
    console.say(f"tables, figure and rows: {plan.folder}/table.md, figure.png, results.csv")
    if into is not None:
        keep(plan, into)
        console.say(f"and in {into}; mmard results {quote(str(into))} makes them anew")
