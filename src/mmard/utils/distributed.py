"""Means over the processes of a run, for terms whose state moves within an epoch."""

import torch.distributed as dist
from torch import Tensor


def over_processes(value: Tensor) -> Tensor:
    """Average a value over the processes, without gradient; return it itself where there is one process.

    All of them must call it equally often, as they do from a term: each computes its loss once a step.
    """
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
