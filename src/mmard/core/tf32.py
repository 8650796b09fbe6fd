"""TensorFloat-32: float32 whose convolutions and matrix products NVIDIA's GPUs round to ten bits. Nothing elsewhere."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch


def allow_tf32(convolutions: bool, products: bool) -> None:
    """Let them round from now on, or not. PyTorch's default: convolutions do, products do not."""
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = products


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """The same for a while."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(convolutions, products)
    try:
        yield
    finally:
        allow_tf32(*before)


def full_precision() -> AbstractContextManager[None]:
    """Neither, for whatever is judged."""
    return tf32(convolutions=False, products=False)
