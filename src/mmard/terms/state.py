"""State that terms carry, as buffers: what moves once a step, and what moves once an epoch.

Neither depends on how many processes and parts a batch is divided into.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmard.core.views import Views
from mmard.utils.distributed import over_processes
from mmard.utils.numbers import share_of_run


def rate_at(rate: float, drops: Sequence[float], v: Views) -> float:
    """Lower a rate to a tenth after each of these epochs (below 1: shares of the run), as releases do with the learning rate."""
    return float(rate * 0.1 ** sum(v.progress >= share_of_run(drop, v.epochs) for drop in drops))


class PerStep(nn.Module):
    """Hold state that moves once a step by the means of its whole batch, however many processes and parts that is divided into.

    A batch in parts calls `begin` and `seen` for each: the state goes back to where the step began, and moves by the mean
    of the parts so far. So after a step it is what the undivided batch would have made it, and within one a part
    uses a state that lacks the parts to come. What identifies a step is its ``progress``. Nothing is ever written into:
    a graph may still need a buffer, and a round that is taken back (`mmard.methods.awp`) leaves no trace.
    """

    def __init__(self) -> None:
        super().__init__()
        self._at: float | None = None  # not saved: checkpoints are made between steps
        self._before: dict[str, Tensor] = {}
        self._parts: tuple[Tensor, ...] = ()

    def begin(self, v: Views) -> None:
        """Put the buffers back to where this step began; a step that is new begins here."""
        if v.progress != self._at:
            self._at, self._before, self._parts = v.progress, dict(self.named_buffers()), ()
        for name, value in self._before.items():
            setattr(self, name, value)

    def seen(self, *values: Tensor) -> Tensor:
        """Average what each sample of this part has, (B,) each, to means (K,) of the step so far, in all processes; no gradient."""
        self._parts = (*self._parts, over_processes(torch.stack([value.mean() for value in values])))
        return torch.stack(self._parts).mean(0)


class PerEpoch(nn.Module):
    """Hold state by class that moves once an epoch, by sums over the samples of the epoch before.

    Parts of a batch add to the same sums. Each process has its own, which the trainer averages when an epoch ends: what
    `turned` makes of them must not depend on their scale. All on the device: nothing waits for the host.

    Args:
        begun: buffers by name, each of a single class (..., 1), which stands for all of them until there are logits.
    """

    epoch: Tensor

    def __init__(self, **begun: Tensor) -> None:
        super().__init__()
        self._looked: int | None = None  # the same, where it is known: to read the buffer would wait for the device
        for name, value in (begun | {"epoch": torch.zeros((), dtype=torch.int64)}).items():
            self.register_buffer(name, value)

    def turned(self, v: Views) -> dict[str, Tensor]:
        """Make the buffers with which the epoch of ``v`` begins, by name."""
        raise NotImplementedError

    def turn(self, v: Views, classes: int) -> None:
        """Bring the buffers to this epoch and this number of classes; to be called before they are read."""
        if self._looked == v.epoch:
            return
        with torch.no_grad():
            for name, value in self._by_class():
                if value.shape[-1] != classes:
                    setattr(self, name, value[..., :1].repeat_interleave(classes, -1))
            for name, value in self.turned(v).items():
                setattr(self, name, torch.where(self.epoch != v.epoch, value, getattr(self, name)))
            self.epoch = torch.full_like(self.epoch, v.epoch)
        self._looked = v.epoch

    def _by_class(self) -> list[tuple[str, Tensor]]:
        return [(name, value) for name, value in self.named_buffers() if name != "epoch"]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Take the number of classes from the checkpoint, which knows it before the first logits do."""
        self._looked = None
        for name, value in self._by_class():
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name], device=value.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
