"""Classes of a network that are in another order than the data's."""

import numpy as np
import torch
from torch import Tensor

from mmard.evaluation.scores import is_far_better


def reordered(said: Tensor, true: Tensor) -> float | None:
    """Find out whether answers (N,) fit the labels (N,) far oftener with the classes in another order, each in one place.

    The order is learnt on one half of the images and tried on the other: few images of a class prove nothing.

    Returns:
        The share that is right then; None: they are not.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    there, both = np.unique(torch.stack([said, true]).cpu().numpy(), return_inverse=True)  # of many classes few occur
    k, (answers, labels) = len(there), torch.from_numpy(both.reshape(2, -1))
    halves = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % 2
    then = torch.empty_like(answers)
    for half in (0, 1):
        learnt, tried = halves != half, halves == half
        table = torch.bincount(k * answers[learnt] + labels[learnt], minlength=k * k).view(k, k)
        _, order = linear_sum_assignment(-table.numpy())
        then[tried] = torch.from_numpy(order)[answers[tried]]
    right = torch.eq(then, labels)
    return right.float().mean().item() if is_far_better(right, torch.eq(answers, labels)) else None
