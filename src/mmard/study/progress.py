"""Progress of a study on the screen: its cells before it runs, a live table while it does."""

import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.live import Live

from mmard.evaluation.scores import WORST
from mmard.report.study_tables import apart_of, judged_in
from mmard.report.table import mean_and_sd, number
from mmard.study.jobs import Job
from mmard.study.queue import Listener
from mmard.utils.terminal import ScreenTable, line

TRAINING_SHARE = 0.8
"""Share of a cell that counts as done when it is trained and not evaluated yet; a guess, for the time left."""


def plan_table(jobs: Sequence[Job], title: str) -> ScreenTable:
    """Make the table of all jobs with their state."""
    table = ScreenTable(title=title, title_justify="left", box=None, padding=(0, 2))
    for name in ("run", "state", "epochs"):
        table.add_column(name)
    for job in jobs:
        epochs = f"{job.epochs} of {job.settings.train.epochs}"
        table.add_row(job.name, job.state() + (", after its teacher" if job.needs else ""), epochs)
    return table


class Screen(Listener):
    """A line for each job that ends, and, on a terminal, the running ones with a count and the time left."""

    def __init__(self, jobs: Sequence[Job], skipped: int, out: Console) -> None:
        self.out, self.skipped, self.all = out, skipped, list(jobs)
        self.running: dict[str, tuple[Job, float]] = {}
        self.over: dict[str, bool] = {}
        self.begun = self.drawn = time.monotonic()
        self.first = {job.name: self._share(job) for job in jobs}  # what was there before
        self.live = Live(console=out, auto_refresh=False, transient=True)

    def __enter__(self) -> "Screen":
        self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.live.stop()

    def started(self, job: Job) -> None:
        self.running[job.name] = (job, time.monotonic())

    def ended(self, job: Job, error: str | None) -> None:
        _, begun = self.running.pop(job.name, (job, time.monotonic()))
        self.over[job.name] = error is None
        if error is None and (found := job.errors()):
            word = line(("done", "bold red"), f"    {job.name}, but its figures do not stand: {'; '.join(found)}")
        elif error is None:
            word = line(("done", "green"), f"    {job.name}, {_duration(time.monotonic() - begun)}")
        else:
            word = line(("failed", "bold red"), f"  {job.name}: {error}")
        self.out.print(word, soft_wrap=True)

    def polled(self) -> None:
        if time.monotonic() - self.drawn > 0.5:
            self.drawn = time.monotonic()
            if self.out.is_terminal:
                self.live.update(self._table(), refresh=True)

    def _table(self) -> ScreenTable:
        table = ScreenTable(box=None, show_header=False, padding=(0, 2))
        for name, (job, begun) in self.running.items():
            done, total = job.epochs, job.settings.train.epochs
            stage = "judging" if done >= total else f"epoch {done} of {total}"
            table.add_row((name, "bold"), stage, _duration(time.monotonic() - begun))
        failed = sum(not good for good in self.over.values())
        waiting = len(self.all) - len(self.over) - len(self.running)
        counts = f"done {len(self.over) - failed + self.skipped}, running {len(self.running)}, failed {failed}"
        table.add_row(f"{counts}, waiting {waiting}", "", self._left())
        return table

    def _share(self, job: Job) -> float:
        return TRAINING_SHARE * min(1.0, job.epochs / job.settings.train.epochs)

    def _left(self) -> str:
        """Estimate the time left, if the rest goes as fast as what was done since the start."""
        gone = total = 0.0
        for job in self.all:
            before = self.first[job.name]
            now = 1.0 if job.name in self.over else self._share(job) if job.name in self.running else before
            gone, total = gone + now - before, total + 1 - before
        if gone < 0.02 * total:
            return ""
        return f"about {_duration((time.monotonic() - self.begun) * (total - gone) / gone)} left"


def results_table(results: dict[str, Any]) -> ScreenTable:
    """Make the table of mean and sd of clean accuracy, worst case and the strongest attacks, a group a line."""
    title = "Accuracy on the test images, in percent: mean ± sd over seeds"
    table = ScreenTable(title=title, title_justify="left", caption=judged_in(results), caption_justify="left")
    for axis in results["axes"]:
        table.add_column(axis)
    for name in ("seeds", *results["attacks"]):
        table.add_column(name, justify="right")
    for group in results["groups"]:
        cells = []
        for attack in results["attacks"]:
            found = group["figures"][attack]
            cells.append(mean_and_sd((found["mean"], found["sd"])).text)
        table.add_row(*group["labels"].values(), str(len(group["seeds"])), *cells)
    return table


def comparison_lines(results: dict[str, Any]) -> list[str]:
    """Describe each comparison under the worst case in one line, and those that are not made."""
    lines = [f"{left}: not compared, judged under another threat or on other images" for left in apart_of(results)]
    for c in results["comparisons"]:
        if c["attack"] == WORST:
            words = (
                f"{c['label']} − {c['baseline']}, {WORST}: {number(c['mean'], '+.2f').text} points over {c['n']} pairs"
            )
            if max(c["settings"]) > 1:
                words += f", each the mean over up to {max(c['settings'])} settings of a seed"
            if c["p_exact"] is not None:
                words += f", exact p {c['p_exact']:.3g} (cannot go under {2 / 2 ** c['n']:.3g})"
            lines.append(words)
    return lines


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
