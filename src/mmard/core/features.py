"""The outputs of a network's blocks, its features, recorded in the same pass that gives its logits."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_recording: ContextVar[list[Tensor] | None] = ContextVar("features of the pass under way", default=None)


@dataclass(frozen=True)
class Features:
    """The outputs of a network's blocks for a batch, each (B, ...), in the order in which they were computed."""

    maps: tuple[Tensor, ...]

    def of_rows(self, rows: Tensor) -> "Features":
        """Restrict the features to the samples ``rows`` (R,)."""
        return Features(tuple(each[rows] for each in self.maps))


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """Find the blocks of a network whose outputs are its features.

    Blocks are the modules with modules of their own, of a kind that stands at least twice in a network's sequences, such
    as residual blocks; the outermost ones. Where there are none, they are the activations, and else the convolutions.

    >>> [type(block).__name__ for block in blocks_of(nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten()))]
    ['ReLU']
    """
    sequences = (nn.Sequential, nn.ModuleList)
    members = [child for each in network.modules() if isinstance(each, sequences) for child in each.children()]
    kinds = Counter(type(child) for child in members if any(child.children()) and not isinstance(child, sequences))
    repeated = {kind for kind, times in kinds.items() if times > 1}
    leaves = [each for each in network.modules() if not any(each.children())]
    activations = [each for each in leaves if type(each).__module__ == "torch.nn.modules.activation"]
    convolutions: list[nn.Module] = [each for each in leaves if isinstance(each, nn.Conv2d)]
    return list(_outermost(network, repeated)) or activations or convolutions


def _outermost(network: nn.Module, kinds: set[type[nn.Module]]) -> Iterator[nn.Module]:
    for child in network.children():
        if type(child) in kinds:
            yield child
        else:
            yield from _outermost(child, kinds)


def watch(network: nn.Module) -> None:
    """Let a network's passes record its features; a network that is watched, or is a copy of one, stays as it is."""
    for block in blocks_of(network):
        if _note not in block._forward_hooks.values():
            block.register_forward_hook(_note)


def _note(self, inputs: tuple[Tensor], output: Tensor) -> None:  # type: ignore[no-untyped-def]
    """Record a block's output; in words that `torch.jit.script` reads with a network that is watched."""
    if not torch.jit.is_scripting():  # type: ignore[attr-defined]
        _record_first(output)


def _record_first(output: object) -> None:
    while isinstance(output, tuple | list) and output:  # beside its output a block may give a skip
        output = output[0]
    if isinstance(output, Tensor):
        record(output)


def record(*features: Tensor) -> None:
    """Hand features to whoever collects them, as `recorded` does; to nobody where nobody does."""
    if (collected := _recording.get()) is not None:
        collected.extend(features)


@contextmanager
def recorded() -> Iterator[list[Tensor]]:
    """Collect the features of the one watched network whose pass is made in this context."""
    collected: list[Tensor] = []
    before = _recording.set(collected)
    try:
        yield collected
    finally:
        _recording.reset(before)
