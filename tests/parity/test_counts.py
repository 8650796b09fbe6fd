"""What a training step costs and what BatchNorm sees: forward calls per network, and their order in training mode."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Views
from mmard.methods import METHODS
from mmard.methods.absld import absld
from mmard.methods.adaad import adaad
from mmard.methods.adaiad import adaiad
from mmard.methods.ard import ard
from mmard.methods.b_mtard import b_mtard
from mmard.methods.dgad import dgad
from mmard.methods.fair import fair
from mmard.methods.iad import iad, iad_2
from mmard.methods.kd import kd
from mmard.methods.mart import mart
from mmard.methods.mmard import mmard
from mmard.methods.mtard import mtard
from mmard.methods.pgd_at import pgd_at
from mmard.methods.rslad import rslad
from mmard.methods.saad import saad, saad_c
from mmard.methods.standard import standard
from mmard.methods.trades import trades
from mmard.training.step import make_example, outer_losses

from . import nets
from .test_composed import COMPOSED

pytestmark = pytest.mark.figures

# a step with PGD-10: forwards of the student, of the teacher, and which images the student sees in training mode
# (c natural, a adversarial or x − δ), as in the columns "teacher" and "order" of the papers
STEP: dict[str, tuple[Method, int, int, str]] = {
    # name                  method                       student     teacher    order
    "standard":             (standard(),                 1,          0,         "c"),
    "pgd_at":               (pgd_at(),                   10 + 1,     0,         "a"),
    "trades":               (trades(),                   1 + 10 + 3, 0,         "cac"),
    "ard":                  (ard(),                      10 + 2,     1,         "ac"),
    "ard, script's attack": (ard(attack_in_train_mode=True), 10 + 2, 1,         "a" * 10 + "ac"),
    "rslad":                (rslad(),                    10 + 2,     1,         "ac"),
    "adaad":                (adaad(),                    10 + 2,     10 + 2,    "ca"),
    "mmard":                (mmard(),                    10 + 2,     1 + 1,     "ac"),
    "mmard drift/contrast": (mmard(inner="drift"),       10 + 2,     1 + 10 + 1, "ac"),
    "mmard none/none":      (mmard(inner="none", outer="none"), 10 + 2, 1,      "ac"),
    "mmard drift/none":     (mmard(inner="drift", outer="none"), 10 + 2, 1 + 10, "ac"),
    "mmard entropy/none":   (mmard(inner="entropy", outer="none"), 10 + 2, 1 + 10, "ac"),
    "mmard, ∇ every 3":     (mmard(inner="drift", every=3), 10 + 2,     1 + 4 + 1, "ac"),
    "mmard, ∇ once":        (mmard(inner="drift", every=10), 10 + 2,     1 + 1 + 1, "ac"),
    "mmard none/joint":     (mmard(outer="joint"),       10 + 2,     1 + 1,     "ac"),
    "mmard none/anchored":  (mmard(outer="anchored"),    10 + 2,     1,         "ac"),
    "iad":                  (iad(begin=0.9),             10 + 2,     1,         "ac"),
    "iad, trusting less":   (iad(begin=0),               10 + 2,     2,         "ac"),
    "iad, script's attack": (iad(attack_in_train_mode=True), 10 + 2, 1,         "a" * 10 + "ac"),
    "iad_2":                (iad_2(),                    10 + 2,     1,         "ac"),
    "mtard":                (mtard(),                    10 + 2,     1,         "ac"),
    "b_mtard":              (b_mtard(),                  10 + 2,     1,         "ac"),
    "absld":                (absld(),                    10 + 2,     1,         "ac"),
    "mart":                 (mart(),                     10 + 2,     0,         "ca"),
    "kd":                   (kd(),                       1,          1,         "c"),
    "adaiad":               (adaiad(),                   10 + 2,     10 + 1,    "ca"),
    "dgad":                 (dgad(),                     10 + 2,     10 + 2,    "ca"),
    "saad":                 (saad(),                     10 + 3,     1 + 3,     "aac"),
    "saad_c":               (saad_c(),                   10 + 3,     1 + 3,     "aac"),
    "mmard on trades":      (mmard(trades(), inner="drift"),            1 + 10 + 3, 1 + 10 + 1, "cac"),
    "mmard on ard":         (mmard(ard(), inner="drift"),               10 + 2,     1 + 10 + 1, "ac"),
    "mmard on adaad":       (mmard(adaad(), inner="drift"),             10 + 2,     1 + 10 + 1, "ca"),
}  # fmt: skip

Step = Callable[[Method, nn.Module, nn.Module], None]


def bare(method: Method, s: nn.Module, t: nn.Module) -> None:
    """One step with the student itself in the attack and in the loss."""
    v = make_example(method, nets.views(s, t), s, Threat(eps=0.1))
    outer_losses(method, v, s)


def wrapped(method: Method, s: nn.Module, t: nn.Module) -> None:
    """One step as the trainer does it: the attack calls a predictor, the loss another wrapper of the same student."""
    x, y = nets.batch()
    models = Models({"student": lambda x: s(x), "teacher": lambda x: t(x), "natural": nets.natural()})
    v = make_example(method, Views.of(x, y, torch.arange(len(y)), models), s, Threat(eps=0.1))
    outer_losses(method, v, nn.Sequential(s))


class Recording(nn.Module):
    """A student that writes down what it is shown while it is in training mode."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.order = nets.student(), ""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.order += "c" if torch.equal(x, nets.batch()[0]) else "a"
        return self.inner(x)


def test_every_method_is_in_the_table() -> None:
    """A method added to the list without its cost fails here."""
    assert set(METHODS) <= set(STEP) | COMPOSED


@pytest.mark.parametrize("step", [bare, wrapped])
@pytest.mark.parametrize("name", STEP)
def test_forwards_of_a_step(name: str, step: Step) -> None:
    """Each network is asked no more often than the method needs."""
    method, of_student, of_teacher, _ = STEP[name]
    s, t, calls = nets.student(), nets.teacher(), {"student": 0, "teacher": 0}
    for key, net in (("student", s), ("teacher", t)):
        net.register_forward_hook(lambda *_, key=key: calls.update({key: calls[key] + 1}))
    step(method, s, t)
    assert calls == {"student": of_student, "teacher": of_teacher}


@pytest.mark.parametrize("step", [bare, wrapped])
@pytest.mark.parametrize("name", STEP)
def test_order_in_training_mode(name: str, step: Step) -> None:
    """BatchNorm sees natural and adversarial images in the method's order, and nothing of the attack."""
    student = Recording()
    step(STEP[name][0], student, nets.teacher())
    assert student.order == STEP[name][3]


def test_weights_of_classes_do_not_change_the_order() -> None:
    """Fair-ARD's weights look at S(x') too, after the base's terms have."""
    for name in ("trades", "mart", "adaad", "ard"):
        plain, weighed = Recording(), Recording()
        bare(METHODS[name](), plain, nets.teacher())
        bare(fair(METHODS[name]()), weighed, nets.teacher())
        assert weighed.order == plain.order
