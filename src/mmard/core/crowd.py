"""A number of the whole batch, where several processes share it."""

import torch
from torch import Tensor


def mean_of_all(value: Tensor) -> Tensor:
    """The mean of a value over the processes of the run, a constant; itself where there is only one."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return value.detach()
    shared = value.detach().clone()
    torch.distributed.all_reduce(shared)
    return shared / torch.distributed.get_world_size()
