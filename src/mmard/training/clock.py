"""The time of training: of an epoch's steps, and of what is prepared before the first of them."""

import time

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
        self.cost, self.step, self.begun, self.preparation = ResourceMeter(engine), 0, 0.0, 0.0

    def start(self, step: int) -> None:
        """Start at this step."""
        self.step, self.preparation, self.loader.waited = step, 0.0, 0.0
        self.cost.start()
        self.begun = time.perf_counter()

    def prepared(self) -> None:
        """Count what has passed as preparation; the steps begin now."""
        begun, self.begun = self.begun, self._now()
        self.preparation = self.begun - begun

    def pace(self, step: int) -> dict[str, float]:
        """Measure the steps up to this one: seconds, images per second, the share spent on waiting for images, resources."""
        seconds = self._now() - self.begun
        before = {"prepared_seconds": self.preparation} if self.preparation else {}
        speed = (step - self.step) * self.batch_size / seconds
        waited = self.loader.waited_share(seconds)
        return {"seconds": seconds, **before, "images_per_second": speed, "data_wait": waited, **self.cost.spent()}

    def _now(self) -> float:
        self.engine.synchronize()
        return time.perf_counter()
