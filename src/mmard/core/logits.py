"""Calls of a network: logits are found and checked, and a write into the input images is an error."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from mmard.utils.errors import MmardError
from mmard.utils.numbers import shortened

NEW_TENSOR = (
    "make a new tensor: (x - mean) / std in place of x.sub_(mean).div_(std), and inplace=False in a first layer"
)
NAMELESS = "the network"
WRITES = "leaf Variable that requires grad is being used in an in-place operation"  # torch's words, inside an attack


class PredictionError(MmardError):
    """A network gave something else than logits, or wrote into its input.

    Attributes:
        kind: ``"input"`` it changes its input, ``"classifier"`` it gives no logits.
        said: what was seen and expected, without the cure.
    """

    def __init__(self, kind: str, said: str, cure: str) -> None:
        self.kind, self.said, self.cure = kind, said, cure
        super().__init__(f"{said}; {cure}")

    def of(self, who: str) -> "PredictionError":
        """Name the network, where whoever raised it did not know which it is."""
        return PredictionError(self.kind, self.said.replace(NAMELESS, who, 1), self.cure)


def logits_in(output: object) -> Tensor:
    """Find the logits in what a network gives: itself, the first of a tuple or a list, or its ``.logits``.

    Raises:
        PredictionError: when none of these is a tensor.
    """
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, tuple | list) and output:
        found = output[0]
    if not isinstance(found, Tensor):
        said = f"{NAMELESS} gives a {type(output).__name__}, expected logits, a tuple that begins with them, or .logits"
        raise PredictionError("classifier", said, "let it return logits, a row for each image")
    return found


def predict_logits(predict: Callable[[Tensor], object], x: Tensor, who: str, classes: int | None = None) -> Tensor:
    """Compute a network's logits (B, K) for images (B, C, H, W), in float32 at least.

    Nothing waits for an accelerator here: shapes, types, and torch's own count of writes into ``x`` are checked, no values.

    Args:
        who: the network's name in errors.
        classes: K; None: any number from 2.

    Raises:
        PredictionError: when the network writes into ``x``, or gives anything but real logits of this shape.
    """
    for what, value, right in (("images", x, isinstance(x, Tensor)), (who, predict, callable(predict))):
        if not right:
            raise MmardError(f"{what}: got {shortened(value)}, expected " + ("a tensor" if value is x else "a network"))
    before = None if x.is_inference() else x._version
    try:
        logits = predict(x)
    except PredictionError as e:
        raise e.of(who) from e
    except RuntimeError as e:
        if WRITES not in str(e):
            raise
        raise changes_input(who) from e
    if before is not None and x._version != before:
        raise changes_input(who)
    return as_logits(logits, len(x), who, classes)


def changes_input(who: str) -> PredictionError:
    """Make the error for a network that writes into the images it is given."""
    return PredictionError(
        "input",
        f"{who} changes its input: its forward pass writes into the images that it is given",
        f"let it {NEW_TENSOR}",
    )


def as_logits(value: object, count: int, who: str, classes: int | None = None) -> Tensor:
    """Check that ``value`` is (``count``, K) real numbers; float16 and bfloat16 become float32.

    Raises:
        PredictionError: when it is something else.
    """
    wanted = f"logits ({count}, {'K' if classes is None else classes})"
    cure = "give a model that returns logits, a row for each image"
    if not isinstance(value, Tensor):
        raise PredictionError(
            "classifier", f"{who} gives a {type(value).__name__}, expected a tensor of {wanted}", cure
        )
    got = tuple(value.shape)
    if got in ((count,), (count, 1)) and got != (count, classes):
        said = f"{who} gives {got} for {count} images, one number each, expected {wanted}; one logit z of a sigmoid becomes two by "
        raise PredictionError("classifier", said + "torch.stack([torch.zeros_like(z), z], 1)", cure)
    if value.dim() != 2 or len(value) != count or (classes is not None and got[1] != classes):
        what = f"{count} images" if classes is None else f"{count} images of {classes} classes"
        raise PredictionError("classifier", f"{who} gives {got} for {what}: not a fit", cure)
    if not value.is_floating_point():
        kind = str(value.dtype).removeprefix("torch.")
        raise PredictionError("classifier", f"{who} gives numbers of kind {kind}, expected {wanted} in float32", cure)
    return value if value.dtype.itemsize >= torch.float32.itemsize else value.float()


def says_no_logits(logits: Tensor, what: str = "images") -> str | None:
    """Describe answers (N, K) that no loss can use, and probabilities, of which the target would be a softmax; None: logits."""
    if wrong := len(logits) - int(logits.isfinite().all(1).sum()):
        return (
            f"gives logits that are not finite on {wrong} of {len(logits)} {what}; is a weight of it no number? A class that it "
            "must never say has a logit such as -1e4, not -inf"
        )
    if logits.min() >= 0 and (logits.sum(1) - 1).abs().max() <= 1e-4:
        return "gives probabilities, expected logits; leave out the softmax that it ends with"
    return None


def must_have_values(network: nn.Module, who: str) -> None:
    """Raise MmardError where weights are not there: of a lazy module, or on the device meta."""
    for weight in network.parameters():
        if is_lazy(weight) or weight.is_meta:
            kind = (
                "of a lazy module that has seen no images" if is_lazy(weight) else "on the device meta, without values"
            )
            raise MmardError(f"the weights of {who} are {kind}; call it on images first, or load its weights")


def freeze(network: nn.Module, who: str) -> None:
    """Keep gradients from a network's weights, also from those of a TorchScript module; its mode stays.

    Raises:
        MmardError: from `must_have_values`.
    """
    must_have_values(network, who)
    for weight in network.parameters():
        weight.requires_grad_(False)


def must_be_apart(student: nn.Module, other: nn.Module, who: str) -> None:
    """Raise MmardError where a teacher has weights of the student: freezing the one would stop the other from learning."""
    theirs = {id(weight) for weight in other.parameters()}
    shared = [name for name, weight in student.named_parameters() if id(weight) in theirs]
    if shared:
        raise MmardError(
            f"the student and the {who} share {len(shared):,} weights, such as {shared[0]}, and teachers are frozen; give a "
            f"copy as the {who}: copy.deepcopy(net)"
        )


def kind_of_weights(network: nn.Module) -> str:
    """Say that a network's weights are of another kind than float32, for the message of one that fails; else empty.

    >>> kind_of_weights(nn.Linear(2, 2).double())
    '; its weights are float64, expected float32: call .float() on it'
    """
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()} - {torch.float32}
    said = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
    return f"; its weights are {said}, expected float32: call .float() on it" if said else ""
