"""Parts of terms that learn with the student: their parameters begin with the run's networks, by its seed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mmard.core.companion import Learned
from mmard.core.features import watch
from mmard.core.method import Method
from mmard.core.views import Models, Predict, Views
from mmard.utils.errors import MmardError, failing_in_one_line
from mmard.utils.numbers import seed_of


def watch_features(method: Method, *networks: nn.Module) -> None:
    """Let the networks record their features, where a term of the method asks for any."""
    if method.reads_features():
        for network in networks:
            watch(network)


def begin_learned(method: Method, networks: Mapping[str, Predict], x: Tensor, seed: int) -> list[Learned]:
    """Make the parameters of the method's learned parts, on the images' device; returns the parts.

    Args:
        networks: all that the method asks, by name, in evaluation mode.
        x: any images (B, C, H, W) of the run's size; one will do.
        seed: of the parameters.

    Raises:
        MmardError: for a part whose `meet` fails, or makes nothing that can be learnt.
    """
    parts = method.learned()
    for number, part in enumerate(parts):
        devices = [x.device] if x.device.type == "cuda" else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(seed_of(seed, "learned part", number))
            _meet(part, Views.of(x, x.new_zeros(len(x), dtype=torch.int64), torch.arange(len(x)), Models(networks)))
        part.to(x.device).train()
    return parts


def _meet(part: Learned, views: Views) -> None:
    kind = type(part).__name__
    with failing_in_one_line(f"{kind}.meet"):
        part.meet(views)
    if not any(weight.requires_grad for weight in part.parameters()):
        raise MmardError(
            f"{kind}.meet makes no parameters that ask for gradients, expected some for the student's optimiser"
        )
