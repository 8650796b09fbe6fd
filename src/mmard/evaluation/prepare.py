"""Preparation of a model for attacks: memory order of the images and infinite gradients."""

import copy

import torch
from torch import Tensor, nn

from mmard.core.views import held_still
from mmard.data.images import Images

TRIED = 16  # images
VIEW = "view size is not compatible"  # what torch says of `.view` on images that lie channel by channel


class Contiguous(nn.Module):
    """A network that calls ``.view``: images are passed to it in the usual order of memory (N, C, H, W)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        # clone, not contiguous(): of one channel both orders count as contiguous, and layers take the strides at their word
        return self.model(x.clone(memory_format=torch.contiguous_format))  # type: ignore[no-any-return]


class FiniteGradients(nn.Module):
    """A network with an infinite slope at some pixels, as that of √x at 0: a gradient that is no number becomes 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            x = x.view_as(x)
            x.register_hook(lambda grad: grad.nan_to_num(0.0, posinf=1e6, neginf=-1e6))  # type: ignore[no-untyped-call]
        return self.model(x)  # type: ignore[no-any-return]


def prepare_model(model: nn.Module, images: Images) -> nn.Module:
    """Wrap a model where attacks need it, with the same logits; else return it itself. Images: (N, C, H, W).

    A model that fails on them otherwise stays as it is, and the checks report its error.
    """
    x, _, _ = images.batch(slice(0, TRIED))
    with held_still(model):
        if needs_plain_memory(model, x):
            plain = Contiguous(model)
            if needs_plain_memory(plain, x):  # weights that lie channel by channel make features that do
                plain = Contiguous(copy.deepcopy(model).to(memory_format=torch.contiguous_format))  # type: ignore[call-overload]
            model = plain
        return FiniteGradients(model) if _has_infinite_slopes(model, x) else model


def needs_plain_memory(model: nn.Module, x: Tensor) -> bool:
    """Tell whether ``.view`` in the network fails on images (N, C, H, W) in another order of memory."""
    try:
        with torch.no_grad():
            model(x)
    except RuntimeError as e:
        return VIEW in str(e)
    except Exception:  # whatever a network says of images that it was not made for
        return False
    return False


def _has_infinite_slopes(model: nn.Module, x: Tensor) -> bool:
    if not getattr(model, "has_gradients", True):
        return False
    try:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = model(x)
            if not (logits.requires_grad and logits.isfinite().all()):
                return False
            weights = torch.linspace(-1, 1, logits[0].numel(), device=x.device, dtype=logits.dtype)
            (grad,) = torch.autograd.grad((logits.flatten(1) * weights).sum(), x, allow_unused=True)
    except torch.OutOfMemoryError:
        raise
    except Exception:  # as above; also gradients that autograd cannot take
        return False
    return grad is not None and not bool(grad.isfinite().all())
