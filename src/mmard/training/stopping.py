"""A signal that asks a training run to end, heard by all its processes at the same step."""

from mmard.training.engine import Engine
from mmard.utils.signals import Stopped

APART = 10
"""Looks of which one asks the other processes, on a GPU: each makes the host wait for the device."""


class StopRequest:
    """What has been asked of this run."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.number, self.looks = engine, 0, 0

    def ask(self, number: int) -> None:
        """Hear a signal; it takes effect at the next `look`."""
        self.number = number

    def look(self) -> None:
        """Raise `Stopped` where any process was asked to end. All the processes look equally often."""
        self.looks += 1
        number = self.number
        if self.engine.world > 1:
            if self.engine.device.type != "cpu" and self.looks % APART:
                return
            number = int(self.engine.greatest(number))
        if number:
            raise Stopped(number)
