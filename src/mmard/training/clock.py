"""The time of training: of an epoch's steps, and of what is prepared before the first of them."""

import time
from collections.abc import Mapping

from mmard.training.engine import Engine
from mmard.training.loader import BatchLoader
from mmard.training.resources import ResourceMeter


class Clock:
    """A clock of the steps since it was started; looks at held-out images are between the epochs, and are not in it.

    Preparation (`mmard.training.variants`) has a figure of its own, since more epochs do not make it longer. Its energy is counted
    in the first epoch.
    """

    def __init__(self, engine: Engine, loader: BatchLoader, batch_size: int) -> None:
        self.engine, self.loader, self.batch_size = engine, loader, batch_size
        self.cost, self.step, self.begun, self.preparation, self.before = ResourceMeter(engine), 0, 0.0, 0.0, 0.0

    def start(self, step: int, stopped: Mapping[str, float] | None = None) -> None:
        """Start at this step.

        Args:
            stopped: what `so_far` gave where this epoch was stopped: its steps and their seconds count.
        """
        self.step, self.preparation, self.loader.waited = step, 0.0, 0.0
        self.before = stopped["seconds"] if stopped else 0.0
        self.step -= int(stopped["steps"]) if stopped else 0
        self.cost.start()
        self.begun = time.perf_counter()

    def so_far(self, step: int) -> dict[str, float] | None:
        """Return the steps up to this one since the start, and their seconds, for a checkpoint; None before any start."""
        if not self.begun:
            return None
        return {"steps": float(step - self.step), "seconds": self.before + self._now() - self.begun}

    def prepared(self) -> None:
        """Count what has passed as preparation; the steps begin now."""
        begun, self.begun = self.begun, self._now()
        self.preparation = self.begun - begun

    def pace(self, step: int) -> dict[str, float]:
        """Measure the steps up to this one: seconds, images per second, the share spent on waiting for images, resources."""
        now = self._now() - self.begun
        seconds = self.before + now
        before = {"prepared_seconds": self.preparation} if self.preparation else {}
        speed = (step - self.step) * self.batch_size / seconds
        waited = self.loader.waited_share(now)
        return {"seconds": seconds, **before, "images_per_second": speed, "data_wait": waited, **self.cost.spent()}

    def _now(self) -> float:
        self.engine.synchronize()
        return time.perf_counter()
