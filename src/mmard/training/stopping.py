"""Stopping a training run by a signal, in all its processes at the same step."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from mmard.training.engine import Engine
from mmard.utils.signals import Stopped

Part = TypeVar("Part")
APART = 10
"""So many calls of `look` share one exchange with the other processes, on a GPU: it makes the host wait."""


class StopRequest:
    """A request to stop this run."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.number, self.looks = engine, 0, 0

    def ask(self, number: int) -> None:
        """Record a signal; it takes effect at the next `look`."""
        self.number = number

    def look(self) -> None:
        """Raise `Stopped` where any process got a request to end. All processes call it equally often."""
        self.looks += 1
        number = self.number
        if self.engine.world > 1:
            if self.engine.device.type != "cpu" and self.looks % APART:
                return
            number = int(self.engine.greatest(number))
        if number:
            raise Stopped(number)

    def heeded(self, parts: Iterable[Part]) -> Iterator[Part]:
        """Yield the parts of a longer work, and `look` before each."""
        for part in parts:
            self.look()
            yield part
