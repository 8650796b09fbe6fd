"""Pruning of AutoAttack: forward passes that can change no verdict are left out.

Each stands in the network's place; the package's attacks run as they are, with their own random numbers.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from mmard.core.views import Predict

PIXELS = 1 << 16  # 64 images of 32×32: what one layer writes is still in a core's cache when the next one reads it


def in_parts(predict: Predict) -> Predict:
    """Split large batches on a CPU, where a few images at a time are faster; elsewhere predict as before."""

    def ask(x: Tensor) -> Tensor:
        most = max(1, PIXELS // x[0, 0].numel()) if x.device.type == "cpu" and len(x) else len(x)
        return predict(x) if len(x) <= most else torch.cat([predict(part) for part in torch.split(x, most)])

    return ask


class Pruned:
    """A network inside the package's APGD that skips images which an iterate of this run has broken already.

    Without it each image runs for all its iterations. APGD takes no notice of a broken image but to keep its last wrong
    iterate; it is given a right answer without gradient from then on, and so keeps the iterate that broke it.

    Args:
        apgd: the package's object, targeted or not; it calls this one from now on.
        predict: pixels (B, C, H, W) → logits (B, K).
    """

    def __init__(self, apgd: Any, predict: Predict) -> None:
        self.predict, self.run = predict, apgd.attack_single_run
        self.y: Tensor | None = None  # None: between two runs
        self.live: Tensor | None = None  # rows still right; None: before the first pass of a run
        self.classes = 0
        apgd.model, apgd.attack_single_run = self, self.single_run

    def single_run(self, x: Tensor, y: Tensor, x_init: Tensor | None = None) -> Any:
        self.y, self.live = y, None
        try:
            return self.run(x, y, x_init)
        finally:
            self.y = None

    def __call__(self, x: Tensor) -> Tensor:
        y = self.y
        if y is None:
            return self.predict(x)
        if self.live is None:
            logits = self.predict(x)
            self.classes, self.live = logits.shape[1], torch.eq(logits.argmax(1), y).nonzero().squeeze(1)
            return logits
        if len(self.live) == len(y):
            logits = self.predict(x)
            self.live = torch.eq(logits.argmax(1), y).nonzero().squeeze(1)
            return logits
        answer = functional.one_hot(y, self.classes).to(x.dtype)
        if len(self.live) == 0:
            return answer + 0 * x.flatten(1).sum(1, keepdim=True)  # the package asks for a gradient all the same
        logits = self.predict(x[self.live])
        answer = answer.index_put((self.live,), logits)
        self.live = self.live[torch.eq(logits.argmax(1), y[self.live])]
        return answer


class Remembering:
    """A network inside the package's Square that caches the logits of images it has seen.

    Square often proposes what it has proposed before, or what changes no pixel: on 8×8 digits three times in four, on 32×32 colour
    images hardly ever. So memory is tried, and left for a while where it does not pay. Only exactly equal images count as seen.

    Args:
        predict: pixels (B, C, H, W) → logits (B, K); each image's must not depend on the others in its batch.
        values: logits that are kept; when there are more, all are forgotten.
    """

    TRIED, LEFT, PAYS = 64, 448, 0.05  # calls, calls, share of images known

    def __init__(self, predict: Predict, values: int = 1 << 23) -> None:
        self.predict, self.values = predict, values
        self.rows: dict[int, int] = {}
        self.table = torch.empty(0, 1)
        self.used = self.calls = self.asked = self.known = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls > self.TRIED and self.known < self.PAYS * self.asked and self.calls <= self.TRIED + self.LEFT:
            return self.predict(x)
        if self.calls > self.TRIED:
            self.calls = self.asked = self.known = 0
        if self.used + len(x) > len(self.table):
            self.rows.clear()
            self.used = 0
        keys = prints(x)
        new = [i for i, key in enumerate(keys) if key not in self.rows]
        self.asked, self.known = self.asked + len(keys), self.known + len(keys) - len(new)
        if new:
            self._keep([keys[i] for i in new], self.predict(x if len(new) == len(keys) else x[new]))
        where = torch.tensor([self.rows[key] for key in keys], device=x.device)
        return self.table[where]  # a copy: the package writes into it

    def _keep(self, keys: list[int], logits: Tensor) -> None:
        if len(self.table) < len(keys) or self.table.shape[1] != logits.shape[1]:
            self.table = logits.new_empty(max(len(keys), self.values // logits.shape[1]), logits.shape[1])
        end = self.used + len(keys)
        self.table[self.used : end] = logits
        self.rows.update(zip(keys, range(self.used, end), strict=True))
        self.used = end


def prints(x: Tensor) -> list[int]:
    """Hash each image (B, C, H, W), float32, to 64 bits: equal where all bits are; others collide by a chance of 2⁻⁶⁰."""
    bits = x.detach().contiguous().view(torch.int32).flatten(1).long()
    odd = _odd(bits.shape[1] + 1, x.device)
    mixed = bits * odd[0]
    mixed ^= mixed >> 32  # the high bits, which the multiplication has mixed, into the low ones
    return (mixed * odd[1:]).sum(1).tolist()


@cache
def _odd(count: int, device: torch.device) -> Tensor:
    draw = torch.Generator().manual_seed(0)  # its own, for the attacks draw from the common one
    return torch.randint(-(1 << 62), 1 << 62, (count,), generator=draw).to(device) * 2 + 1
