"""One step of min-max training: attack, look again, loss."""

from torch import Tensor, nn

from mmard.core.ascent import Ascent
from mmard.core.errors import MmardError
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Predict, Views, held_still


def make_example(method: Method, views: Views, network: nn.Module, threat: Threat, *beside: nn.Module) -> Views:
    """The inner process: views whose adversarial point maximises the inner objective.

    Args:
        views: of the natural images; their student is what the attack calls, and runs ``network``.
        network: held still meanwhile, and so are the networks that are trained ``beside`` it.
    """
    if not method.inner or method.maximizer is None:
        return views
    with (
        held_still(*beside),
        held_still(network, *method.inner.modules(), train=method.attack_in_train_mode),
    ):
        x_adv = method.maximizer(Ascent(method.inner, views), views.nat.x, threat)
    if not isinstance(x_adv, Tensor) or x_adv.shape != views.nat.x.shape:
        raise MmardError(
            f"the maximizer {method.maximizer} gave no images of the shape it got, {tuple(views.nat.x.shape)}"
        )
    return views.moved_to(x_adv.detach())


def outer_losses(method: Method, views: Views, student: Predict, **beside: Predict) -> dict[str, Tensor]:
    """The outer process: the batch mean of each weighted term, with the student in training mode.

    Args:
        beside: what the networks that are trained beside the student say now, by name.
    """
    return {name: values.mean() for name, values in method.outer(views.seen_by(student, **beside)).items()}
