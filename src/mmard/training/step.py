"""One step of min-max training: the inner attack, the views at x', the outer loss."""

from weakref import WeakSet

import torch
from torch import Tensor, nn

from mmard.core.ascent import Ascent
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Predict, Views, held_still
from mmard.data.images import ROUNDING
from mmard.utils.errors import MmardError, failing_in_one_line

SEEN: WeakSet[nn.Module] = WeakSet()
"""Networks whose first batch has been checked, where each check would wait for the device."""


def must_be_a_step(method: Method, views: Views, *trained: str) -> None:
    """Check what a training loop of one's own may get wrong; nothing here waits for an accelerator.

    Args:
        trained: names of the networks that are no constant teachers, besides the student and the method's companions.

    Raises:
        MmardError: under ``no_grad`` or inference mode, and for a teacher in training mode or with gradients for its weights.
    """
    if not torch.is_grad_enabled() or views.nat.x.is_inference():
        inference = torch.is_inference_mode_enabled() or views.nat.x.is_inference()
        where = "torch.inference_mode" if inference else "torch.no_grad"
        raise MmardError(f"a step of training takes gradients, and {where} forbids them; call it outside of that")
    for name in views.models.by_name.keys() - {"student", *method.companions, *trained}:
        net = views.models.by_name[name]
        if not isinstance(net, nn.Module):
            continue
        if any(module.training for module in net.modules()):
            raise MmardError(f"the {name} is in training mode, where BatchNorm and dropout move; call .eval() on it")
        if any(p.requires_grad for p in net.parameters()):
            raise MmardError(f"the weights of the {name} ask for gradients; call .requires_grad_(False) on it")


def must_be_pixels(x: Tensor, network: nn.Module, threat: Threat) -> None:
    """Raise MmardError unless images lie in the threat's pixel range; off the CPU only a network's first batch is checked."""
    if x.device.type != "cpu":
        if network in SEEN:
            return
        SEEN.add(network)
    low, high = (end.item() for end in x.detach().aminmax())
    if not (low >= threat.lower - ROUNDING and high <= threat.upper + ROUNDING):
        expected = f"[{threat.lower:g}, {threat.upper:g}]"
        raise MmardError(
            f"pixels lie in [{low:g}, {high:g}], expected {expected}; normalise inside the network, not before"
        )


def make_example(method: Method, views: Views, network: nn.Module, threat: Threat, *beside: nn.Module) -> Views:
    """Run the inner attack and return views whose adversarial point maximises the inner objective.

    Args:
        views: of the natural images; their student is what the attack calls, and runs ``network``.
        threat: its pixels and norm, and its radius where the method has none of its own.
        network: held still meanwhile, and so are the networks that are trained ``beside`` it.

    Raises:
        MmardError: for pixels outside of their range, and for what `must_be_a_step` refuses.
    """
    must_be_a_step(method, views)
    must_be_pixels(views.nat.x, network, threat)
    if not method.inner or method.maximizer is None:
        return views
    with (
        held_still(*beside),
        held_still(network, *method.inner.modules(), train=method.attack_in_train_mode),
        failing_in_one_line(f"the attack {method.maximizer}"),
    ):
        x_adv = method.maximizer(Ascent(method.inner, views), views.nat.x, method.ball(threat))
    if not isinstance(x_adv, Tensor) or x_adv.shape != views.nat.x.shape:
        raise MmardError(
            f"the maximizer {method.maximizer} gave no images of the shape it got, {tuple(views.nat.x.shape)}"
        )
    return views.moved_to(x_adv.detach())


def outer_losses(method: Method, views: Views, student: Predict, **beside: Predict) -> dict[str, Tensor]:
    """Compute the batch mean of each weighted outer term, with the student in training mode.

    Args:
        beside: the networks that are trained beside the student, as functions of images, by name.
    """
    must_be_a_step(method, views, *beside)
    return {name: values.mean() for name, values in method.outer(views.seen_by(student, **beside)).items()}
