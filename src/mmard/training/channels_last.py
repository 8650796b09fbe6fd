"""Channels-last memory layout of networks, which is fast, for those that work in it."""

import torch
from torch import Tensor, nn

from mmard.core.views import held_still
from mmard.evaluation.prepare import needs_plain_memory
from mmard.models.architectures import Classifier


def lay_out(network: nn.Module, device: torch.device, shape: torch.Size | None) -> None:
    """Move a network to a device and into channels-last memory; one that calls ``.view`` stays in the usual order.

    Images are handed to such a network, and to copies of it, in the usual order (N, C, H, W). Its weights, modes and logits,
    and the generators, are left as they are.

    Args:
        shape: (C, H, W) of the images on which that is tried; None: it is not tried.
    """
    network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if shape is None:
        return
    x = torch.zeros(2, *shape, device=device).to(memory_format=torch.channels_last)
    with held_still(network), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        if not needs_plain_memory(network, x):
            return
    network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    inner = network.net if isinstance(network, Classifier) else network  # which a folded shadow copies
    inner.register_forward_pre_hook(_in_the_usual_order)


def _in_the_usual_order(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # clone, not contiguous(): of one channel both orders count as contiguous, and layers take the strides at their word
    return given[0].clone(memory_format=torch.contiguous_format), *given[1:]
