"""`mmard report`, as the command line takes it."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mmard.cli import console
from mmard.utils.errors import MmardError, unknown
from mmard.utils.packages import version_of

if TYPE_CHECKING:  # the rest is slow to import, and `mmard --help` needs none of it
    from mmard.report.page import Report

KINDS = ("md", "tex", "csv")
Runs = Annotated[
    list[Path],
    typer.Argument(metavar="RUN...", parser=console.path, help="Run folders, a study's folder, or evaluated weights."),
]
OUT = "File to write; default report.html in RUN, or here for several."
To = Annotated[Path | None, typer.Option("--out", parser=console.path, help=OUT)]


def report(
    runs: Runs,
    to: To = None,
    also: Annotated[
        str | None, typer.Option(help="The tables beside it, too: md, tex, csv or several: md,csv.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="Of the page; default: the folder's name.")] = None,
) -> None:
    """Write one HTML file about runs: tables, curves, classes, examples, cost, and what to know before believing it.

    [bold]mmard report runs/a runs/b[/bold]   runs that differ by their seed alone stand together: mean ± sd

    [bold]mmard report runs/studies/mine --also md,tex,csv[/bold]   all the runs of a study

    It reads run folders alone; what they lack is named with the command that makes it.
    """
    from mmard.runs.archive import unpacked

    kinds = _kinds(also)
    if to is None:
        beside = runs[0].with_suffix(".html") if runs[0].expanduser().is_file() else runs[0] / "report.html"
        to = beside if len(runs) == 1 else Path("report.html")
    if to.is_dir():
        raise MmardError(f"{to} is a folder; expected a file to write, such as {to / 'report.html'}")
    once = {run.expanduser().resolve(): run.expanduser() for run in runs}
    with ExitStack() as archives:
        _write([archives.enter_context(unpacked(run)) for run in once.values()], to, kinds, title)


def _write(runs: list[Path], to: Path, kinds: list[str], title: str | None) -> None:
    from mmard.report.table import table_files
    from mmard.utils.files import write_text
    from mmard.utils.portable_paths import unpacked_from

    found = report_of(runs, title)
    write_text(to, _without_places(found.html(version_of("mmard")), runs))
    console.say(f"report: {to} ({to.stat().st_size / 1e6:.1f} MB)")
    for kind in kinds:
        for name, text in table_files(found.tables(), kind, to.stem).items():
            write_text(to.with_name(name), _without_places(text, runs))
            console.say(f"tables: {to.with_name(name)}")
    for fault in (fault for group in found.groups for run in group.runs for fault in run.faults):
        console.say(f"left out: {unpacked_from(fault)}")
    for part in found.missing():
        line = f"not there yet, of {len(part.runs)} run{'s' if len(part.runs) > 1 else ''}: {part.what}"
        console.say(line)
    if found.missing():
        console.say("the report has the commands that make them")


def _kinds(also: str | None) -> list[str]:
    kinds = [kind.strip() for kind in (also or "").split(",") if kind.strip()]
    for kind in kinds:
        if kind not in KINDS:
            raise unknown("kind of table", kind, KINDS)
    return list(dict.fromkeys(kinds))


def _without_places(text: str, runs: list[Path]) -> str:
    """Name the runs in a text without this machine's folders, because the report is shared."""
    from markupsafe import escape

    from mmard.utils.portable_paths import portable

    for run in sorted((str(run.expanduser()) for run in runs), key=len, reverse=True):
        if Path(run).is_absolute():
            text = text.replace(run, portable(run)).replace(str(escape(run)), str(escape(portable(run))))
    return text


def report_of(runs: list[Path], title: str | None = None) -> "Report":
    """Read run folders and study folders into a report.

    Raises:
        MmardError: when one of them is neither, or its settings cannot be read.
    """
    from mmard.api.artifacts import settings_and_formula_of
    from mmard.report.page import Report
    from mmard.runs.groups import read_groups, study_results

    groups = read_groups([run.expanduser() for run in runs], settings_and_formula_of)
    names = [run.resolve().name for run in runs]
    results = study_results(runs[0].expanduser()) if len(runs) == 1 else {}
    count = sum(len(group.runs) for group in groups)
    about = str(results.get("about") or groups[0].runs[0].settings.get("about") or "")
    about = about if len(groups) == 1 or results else ""
    words = f"{count} run{'s' if count > 1 else ''}" + (f" in {len(groups)} groups" if len(groups) > 1 else "")
    return Report(
        groups, title or ", ".join(names[:3]) + (" …" if len(names) > 3 else ""), f"{about} {words}.".strip(), results
    )
