"""Predictions of an evaluation: checked float32 logits."""

from functools import partial

import torch
from torch import Tensor, nn

from mmard.core.logits import PredictionError, changes_input, predict_logits
from mmard.core.views import Predict
from mmard.data.images import Images
from mmard.evaluation.checks.messages import CheckError
from mmard.utils.errors import MmardError, first_line, is_out_of_memory

FIRST = 16  # images of the first prediction


def logits_of(predict: Predict, x: Tensor, classes: int) -> Tensor:
    """Compute a network's logits (B, K) for images (B, C, H, W) in float32, whatever kind of floats it computes in.

    Raises:
        CheckError: when it fails or gives no such logits (``classifier``), or writes into the images (``input``).
    """
    try:
        return predict_logits(predict, x, "the model", classes).float()
    except PredictionError as e:
        raise CheckError(e.kind, e.said) from e
    except Exception as e:  # whatever a network says of images that it was not made for
        if isinstance(e, MmardError) or is_out_of_memory(e):
            raise
        fault = f"{type(e).__name__}: {first_line(e)}"
        raise CheckError("classifier", f"it fails on images of shape {tuple(x.shape)}: {fault}") from e


class LogitsModel(nn.Module):
    """A model whose predictions pass `logits_of`.

    ``forward``: images (B, C, H, W) in [0, 1] → logits (B, K), float32.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, x: Tensor) -> Tensor:
        return logits_of(self.model, x, self.classes)


@torch.no_grad()
def must_answer(model: nn.Module, images: Images) -> None:
    """Raise CheckError unless a small batch gets logits and is left unchanged, whatever is checked besides.

    Raises:
        CheckError: from `logits_of`, or where the images were written into.
    """
    x, _, _ = images.batch(slice(0, FIRST))
    before = x.clone()
    logits_of(model, x, len(images.classes))
    if not torch.equal(x, before):  # written by a way round torch's count
        raise CheckError("input", changes_input("the model").said)


def classes_answered(model: nn.Module, faster: Predict | None, images: Images) -> tuple[nn.Module, Predict]:
    """Wrap the model, and the faster network used in its place (None: the model), to predict by `logits_of`.

    Raises:
        CheckError: from `must_answer`.
    """
    must_answer(model, images)
    wrapped = LogitsModel(model, len(images.classes))
    return wrapped, wrapped if faster is None else partial(logits_of, faster, classes=wrapped.classes)
