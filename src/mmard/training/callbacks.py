"""Callbacks of training, and the progress bar of the command line."""

import warnings
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mmard.utils.errors import Note
from mmard.utils.terminal import line, task_column

NOTABLE = 0.05  # share of the time spent waiting for images of which a person should know


class Watcher:
    """A listener to the events of a run; this one does nothing."""

    def __init_subclass__(cls) -> None:
        if "judged" in vars(cls):
            warnings.warn(
                Note(f"{cls.__name__}.judged is epoch_ended now; the old name goes with version 0.3"), stacklevel=2
            )
            cls.epoch_ended = vars(cls)["judged"]  # type: ignore[method-assign]
        super().__init_subclass__()

    def told(self, line: str) -> None:
        """Receive a line about the run that a person should read before it starts."""

    def begin(self, total: int, done: int) -> None:
        """Hear that training starts, or goes on, at step ``done`` of ``total``."""

    def prepared(self, done: int, total: int) -> None:
        """Hear that the teachers' logits are known for so many of so many batches, before the first step."""

    def stepped(self, step: int, images: int) -> None:
        """Hear that a step on so many images is done."""

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """Hear that an epoch is done; ``record`` is the line of metrics.jsonl."""

    def end(self) -> None:
        """Hear that training is over, well or not."""


class Watchers(Watcher):
    """A watcher that hands each event on to several."""

    def __init__(self, *each: Watcher) -> None:
        self.each = each

    def told(self, line: str) -> None:
        for one in self.each:
            one.told(line)

    def begin(self, total: int, done: int) -> None:
        for one in self.each:
            one.begin(total, done)

    def prepared(self, done: int, total: int) -> None:
        for one in self.each:
            one.prepared(done, total)

    def stepped(self, step: int, images: int) -> None:
        for one in self.each:
            one.stepped(step, images)

    def epoch_ended(self, record: dict[str, Any]) -> None:
        for one in self.each:
            one.epoch_ended(record)

    def end(self) -> None:
        for one in self.each:
            one.end()


class Bar(Watcher):
    """A progress bar: images per second, time left, last clean and robust accuracy on the held-out split."""

    def __init__(self, title: str, console: Console) -> None:
        columns = (
            task_column(),
            BarColumn(16),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[held_out]}", markup=False),
        )
        self.progress = Progress(*columns, console=console)
        self.task = self.progress.add_task(title, total=None, rate="", held_out="")
        self.seconds = self.waited = 0.0

    def told(self, line: str) -> None:
        self.progress.console.print(line, highlight=False, markup=False)

    def begin(self, total: int, done: int) -> None:
        self.progress.update(self.task, total=total, completed=done)
        self.progress.start()

    def prepared(self, done: int, total: int) -> None:
        text = f"teacher's logits, once: {done / total:.0%}" if done < total else ""
        self.progress.update(self.task, held_out=text)

    def stepped(self, step: int, images: int) -> None:
        speed = self.progress.tasks[0].speed
        self.progress.update(self.task, completed=step, rate=f"{speed * images:,.0f} images/s" if speed else "")

    def epoch_ended(self, record: dict[str, Any]) -> None:
        self.seconds += record["seconds"]
        self.waited += record["data_wait"] * record["seconds"]
        if "robust" in record:
            text = f"held-out clean {record['clean']:.1f} % robust {record['robust']:.1f} %"
            self.progress.update(self.task, held_out=text)

    def end(self) -> None:
        self.progress.stop()
        if self.waited > max(1.0, NOTABLE * self.seconds):  # a second in all is not worth a word
            text = (
                f"waited {self.waited / self.seconds:.0%} of the time for images; what helps: more CPU cores, smaller "
                "pictures on disk, or data.stream=false where they fit in memory"
            )
            self.progress.console.print(line(text))
