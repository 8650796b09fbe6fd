"""The command line."""

import io
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer

from mmard.cli import console
from mmard.cli.bench import bench
from mmard.cli.cp import copy
from mmard.cli.crash_report import describe_fault
from mmard.cli.demo import demo
from mmard.cli.diagnose import diagnose
from mmard.cli.eval import evaluate
from mmard.cli.export import export
from mmard.cli.ls import list_all
from mmard.cli.push import push
from mmard.cli.report import report
from mmard.cli.results import results
from mmard.cli.show import show
from mmard.cli.study import study
from mmard.cli.teacher import teacher
from mmard.cli.train import train
from mmard.utils.errors import Interrupted, MmardError, Note, as_mistake
from mmard.utils.packages import version_of
from mmard.utils.signals import Stopped, end_at_once, on_signals

INTERRUPTED, UNEXPECTED = 130, 70  # exit codes, as shells and sysexits.h have them

app = typer.Typer(
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="""Adversarial robustness distillation: small classifiers that resist attack, learnt from large robust ones.

    Start with [bold]mmard demo[/bold] (three minutes on two cores, no download), then [bold]mmard ls[/bold].""",
)
GOES_ON = "the same command goes on, a training with --resume from the checkpoint that it saved"
COMMANDS: dict[str, Callable[..., None]] = {  # in the order of a first day
    "demo": demo, "ls": list_all, "cp": copy, "show": show, "train": train, "eval": evaluate, "diagnose": diagnose,
    "teacher": teacher, "report": report, "export": export, "push": push, "study": study, "results": results,
    "bench": bench,
}  # fmt: skip


def _version(asked: bool) -> None:
    if asked:
        console.say(version_of("mmard"))
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


for name, command in COMMANDS.items():
    app.command(name)(command)


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
    """Return the exit code of a command that came to its end, or was stopped where nothing can be resumed."""
    sys.stdout.flush()
    if code == INTERRUPTED:
        console.tell("", "stopped", "")
    return code if isinstance(code, int) else 0


def _told(e: Exception) -> int:
    """Print what went wrong in a line; returns the exit code."""
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
