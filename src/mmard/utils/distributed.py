"""What the processes of one run have in common, for terms whose state moves within an epoch."""

import torch.distributed as dist
from torch import Tensor


def over_processes(value: Tensor) -> Tensor:
    """The mean of the processes' values, without gradient; the value itself where there is one process.

    All of them must call it equally often, as they do from a term: each computes its loss once a step.
    """
    value = value.detach()
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()
