"""A method's step for a training loop of one's own: it makes the examples and gives the loss with its gradient."""

import warnings
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mmard.api.registry import build_method, names_of
from mmard.api.whole_method import must_be_of_single_samples, must_be_whole
from mmard.attacks.inner.adaptive import WarmStart
from mmard.attacks.inner.compose import Inner
from mmard.attacks.inner.switching import CollapseGuard
from mmard.attacks.pgd import Pgd, untargeted
from mmard.core.logits import predict_logits
from mmard.core.method import Maximizer, Method
from mmard.core.threat import Threat
from mmard.core.views import Models, Point, Views, held_still
from mmard.terms.temperature import UnknownTemperatureError, is_unknown
from mmard.training.awp import state_kept
from mmard.training.companions import averages_are_not_given, begun
from mmard.training.descent import LearningCompanion, descend
from mmard.training.learned import begin_learned, watch_features
from mmard.training.own_loop import (
    COUNTS_EPOCHS,
    Autocast,
    Collected,
    Network,
    OwnNetworks,
    UncountedViews,
    UntimedViews,
    as_batch,
    by_name,
    checked_logits,
    forward_logits,
    must_be_alone,
    must_be_labels,
    must_be_of_method,
    network_given,
)
from mmard.training.step import make_example, must_be_pixels, outer_losses
from mmard.utils.distributed import over_processes
from mmard.utils.errors import MmardError, Note, first_line
from mmard.utils.numbers import NeverBeginsError, must_be_whole_number, shortened
from mmard.utils.precision import full_precision
from mmard.utils.trust import Trust
from mmard.utils.validation import validated


class Distiller:
    """A method of adversarial distillation for a training loop of one's own: ``loss, log = distiller.step(x, y)``.

    The optimiser, its schedule, devices, precision and processes are the loop's. Losses and gradients are those of `mmard.train`.

    Args:
        method: a name such as ``"mmard"`` or ``"awp(igdm(rslad), gamma=0.01)"``, ``{name: ..., parameter: value}``, or a
            `Method`, whose state is then this distiller's.
        student: images (B, C, H, W) in [0, 1] → logits (B, K), the first of a tuple or ``.logits``, normalisation inside; also
            wrapped in DistributedDataParallel or ``torch.compile``. Its mode is the loop's business; attacks leave mode,
            gradients and BatchNorm's statistics alone.
        teacher: frozen here and kept in evaluation mode, on the images' device; None where the method needs none.
        threat: the ball in which examples are made.
        teachers: further networks by name, such as ``{"natural": net}``, and those that companions start from, as copies.
        attack: changes to the method's PGD, such as ``{"steps": 5}``: those of the settings ``attack.*``.
        steps: how many steps training will have in all, for methods that change on the way; see `progress`.
        epochs: how many epochs that is, for methods that count epochs, which say so.

    Attributes:
        companions: the networks that learn beside the student, by name; an optimiser needs `parameter_groups` too, theirs and
            those of a part of a term that learns (`ibd`). An average of the student is one of them, without parameters to
            learn: it follows the student at the beginning of each step.

    Raises:
        MmardError: for an argument of another kind, a method that is not there, and a teacher that it lacks.
    """

    def __init__(
        self,
        method: str | dict[str, Any] | Method,
        student: nn.Module,
        teacher: Network | None,
        threat: Threat,
        *,
        teachers: Mapping[str, Network] | None = None,
        attack: Mapping[str, Any] | None = None,
        steps: int | None = None,
        epochs: int | None = None,
    ) -> None:
        must_be_whole_number(**{k: v for k, v in (("epochs", epochs), ("steps", steps)) if v is not None})
        for name, value, kind in (("threat", threat, Threat), ("student", student, nn.Module)):
            if not isinstance(value, kind):
                raise MmardError(f"{name} is {shortened(value)}, expected an instance of {kind.__name__}")
        self.threat, self.steps, self.epochs, self.step_number, self._epoch = threat, steps, epochs, 0, 0
        self.method = _attacking(_method(method), attack or {}, threat)
        given = by_name(teachers or {}, teacher)
        networks = {name: network_given(net, name) for name, net in given.items()}
        beside = self.method.companions
        averages_are_not_given(self.method, networks)
        there = [*networks, *(name for name in beside if beside[name].fresh is not None)]
        try:
            asked = must_be_whole(self.method, there, epochs or 1)
        except NeverBeginsError as e:
            raise e if epochs else MmardError(COUNTS_EPOCHS) from e
        for name in sorted(networks.keys() - asked):
            warnings.warn(Note(f"this method asks for no network named {name!r}; it changes nothing"), stacklevel=2)
        frozen = {name: net for name, net in networks.items() if name not in beside}
        self._networks = OwnNetworks(student, frozen, self.method.attack_in_train_mode)
        self._companions = [self._companion(name, networks) for name in beside]
        self.companions = {companion.name: companion.net for companion in self._companions}
        self._terms, self._learned = list(self.method.modules()), self.method.learned()
        self._begun = not self._learned
        if self._learned:
            must_be_alone("a part of its terms")
        watch_features(self.method, self._networks.bare, *self._networks.teachers.values(), *self.companions.values())

    @property
    def progress(self) -> float:
        """Return the share of training done, `step_number` of ``steps``; 0 where those are not known."""
        return 0.0 if self.steps is None else self.step_number / self.steps

    def step(self, x: Tensor, y: Tensor, index: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Make the examples of a batch and compute the loss; the caller's ``loss.backward()`` fills the gradients.

        Each call is one of the ``steps``. Under ``torch.no_grad`` and ``torch.inference_mode``, as in a validation, the loss is
        that of the student in evaluation mode, without gradient, and nothing counts or changes.

        Args:
            x: images (B, C, H, W) in [0, 1].
            y: labels (B,), whole numbers from 0.
            index: number of each image in the training set (B,), for terms of one's own that keep something of each; None: its
                row.

        Returns:
            The loss (), its companions' losses added, and the mean of each weighted term by its formula, (), without gradient.

        Raises:
            MmardError: for images outside of their range, labels that are no classes, and networks that do not fit.
        """
        learns = torch.is_grad_enabled() and not torch.is_inference_mode_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            x, y = as_batch(x, y)
            self._networks.autocast = Autocast.here(x.device.type)
            with self._networks.autocast.outside():
                self._place_and_check(x, y)
                index = torch.arange(len(y), device=x.device) if index is None else index
                loss, log = self._learnt(x, y, index) if learns else self._validated(x, y, index)
                return loss, {name: mean.detach() for name, mean in log.items()}

    def prepare(self, x: Tensor) -> None:
        """Check the networks on images (B, C, H, W), and make what learns with the student and takes its size from them.

        Only a method of which a part learns (`ibd`) needs it, before `parameters` and `load_state_dict`.

        Raises:
            MmardError: for networks that do not fit the images or each other.
        """
        with torch.inference_mode(False):
            number = len(x) if isinstance(x, Tensor) and x.dim() else 0
            x, y = as_batch(x, torch.zeros(number, dtype=torch.int64))
            with Autocast.here(x.device.type).outside():
                self._place_and_check(x, y)

    def attack(self, x: Tensor, y: Tensor, maximizer: Maximizer = Pgd(steps=10)) -> Tensor:
        """Make images (B, C, H, W) in the ball around x on which the student errs, in evaluation mode and float32.

        For a validation: it takes gradients also under ``torch.no_grad`` and ``torch.inference_mode``. ``maximizer`` ascends the
        cross-entropy with the labels.
        """
        with torch.inference_mode(False):
            x, y = as_batch(x, y)
            with Autocast.here(x.device.type).outside(), full_precision():
                self._place_and_check(x, y)
                with held_still(student := self._networks.bare):
                    must_be_pixels(x, student, self.threat)
                    predict = partial(predict_logits, partial(forward_logits, student), who="the student")
                    return untargeted(maximizer)(predict, x, y, self.threat)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights of what learns beside the student; `parameter_groups` has the same with its own rates."""
        for group in self.parameter_groups():
            yield from group["params"]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return what learns beside the student as groups for the caller's optimiser; most methods have none.

        A network that the method trains by settings of its own has them in its group: ``lr``, ``momentum``, ``nesterov`` and
        ``weight_decay`` of `ciard`'s teacher and of `peeraid`'s peer. Their schedules are the caller's.

        Raises:
            MmardError: before `prepare`, for a method that needs it.
        """
        self._must_have_begun("parameter_groups()")
        groups: list[dict[str, Any]] = [{"params": list(part.parameters())} for part in self._learned]
        for one in self._companions:
            if one.companion.average is None:
                groups.append({"params": list(one.net.parameters()), **one.companion.rates()})
        return groups

    def state_dict(self) -> dict[str, Any]:
        """Return what a checkpoint needs beside the student and its optimiser: steps done, the method's state, companions."""
        return {
            "step": self.step_number,
            "names": self.method.term_names(),
            "terms": [module.state_dict() for module in self._terms],
            "companions": {name: net.state_dict() for name, net in self.companions.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            MmardError: for the state of another method, and before `prepare` for a method that needs it.
        """
        self._must_have_begun("load_state_dict()")
        try:
            must_be_of_method(state, self.method)
            for module, saved in zip(self._terms, state["terms"], strict=True):
                module.load_state_dict(saved)
            for name, net in self.companions.items():
                net.load_state_dict(state["companions"][name])
            self.step_number = int(state["step"])
        except (KeyError, ValueError, RuntimeError, TypeError, AttributeError) as e:
            raise MmardError(f"the state is no Distiller's of this method: {first_line(e)}") from e
        self._epoch = self._now(self.progress)

    def _views(self, x: Tensor, y: Tensor, index: Tensor) -> Views:
        models = Models(self._networks.attacked() | {c.name: c.predict for c in self._companions})
        nat = Point(x, models)
        kind = UntimedViews if self.steps is None else UncountedViews if self.epochs is None else Views
        return kind(nat, nat, y, index, self.progress, models, self.epochs or 1)

    def _learnt(self, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the losses of a step, with gradient."""
        bare, loop, learning = self._networks.bare, Collected(self._networks), self._learning()
        views = self._example(self._views(x, y, index))
        log = descend(self.method, views, bare, self._networks.predictor(bare), self._companions, learning, loop)
        self.step_number += 1
        return loop.total(), log

    def _example(self, views: Views) -> Views:
        return make_example(self.method, views, self._networks.bare, self.threat, *self.companions.values())

    def _learning(self) -> list[LearningCompanion]:
        """Begin a step: return the companions that learn in it; the others are teachers in evaluation mode."""
        if self.steps is not None and self.step_number == self.steps:
            warnings.warn(
                f"this is step {self.steps + 1} of steps={self.steps}; give the number of all steps", stacklevel=3
            )
        if (epoch := self._now(self.progress)) != self._epoch:
            self._epoch = epoch
            for buffer in (b for module in self._terms for b in module.buffers() if b.is_floating_point()):
                buffer.copy_(over_processes(buffer))
        late = [c.name for c in self._companions if c.begin > 0]
        if late and self.steps is None:
            raise MmardError(
                f"the training of {late[0]!r} begins later; give Distiller(..., steps=) the number of all steps"
            )
        learning = [c for c in self._companions if c.learns(self.progress)]
        for companion in self._companions:
            companion.net.train(companion in learning)
            done = self.step_number - 1  # the step whose update the student has had since
            companion.follow(self._networks.bare, done / (self.steps or 1))
        return learning

    def _must_have_begun(self, what: str) -> None:
        if not self._begun:
            raise MmardError(
                f"a part of the method learns, and its size is known from images alone; call prepare(x) before {what}"
            )

    def _now(self, progress: float) -> int:
        return int(progress * (self.epochs or 1) + 1e-6)

    def _validated(self, x: Tensor, y: Tensor, index: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the losses of the student in evaluation mode, and leave everything as it was."""
        bare, beside = self._networks.bare, self.companions
        with held_still(bare, *self._learned, *beside.values()), state_kept(bare, *self._terms, *beside.values()):
            views = self._example(self._views(x, y, index))
            log = outer_losses(
                self.method, views, self._networks.predictor(bare), **{c.name: c.predict for c in self._companions}
            )
            return torch.stack(list(log.values())).sum().detach(), log

    def _place_and_check(self, x: Tensor, y: Tensor) -> None:
        """Check the labels; on a new device move the networks there, and check them; make what learns, once."""
        new = self._networks.place_and_check(x)
        if new:
            for module in (*self._terms, *self.companions.values()):
                module.to(x.device)
            for name, net in self.companions.items():
                checked_logits(net, x[:2], f"the {name}")
        if not self._begun:
            networks = self._networks.attacked() | {c.name: c.predict for c in self._companions}
            with held_still(self._networks.bare, *self.companions.values()):
                begin_learned(self.method, networks, x[:2], seed=0)
            self._begun = True
        if new or x.device.type == "cpu":  # elsewhere each check would wait for the device
            must_be_labels(y, self._networks.classes)

    def _companion(self, name: str, given: Mapping[str, nn.Module]) -> LearningCompanion:
        companion = self.method.companions[name]
        if companion.average is None:
            must_be_alone(f"the network {name!r}")
        net = begun(name, companion, self._networks.bare, given, seed=0)
        predict = self._networks.predictor(net)
        return LearningCompanion(name, companion, net, predict, predict, self.epochs or 1)


def _method(method: str | dict[str, Any] | Method) -> Method:
    """Build a method by name; one from a file is the caller's own word."""
    if isinstance(method, Method):
        return method
    return build_method(method, Trust().also(names_of(method)))


def _attacking(method: Method, changes: Mapping[str, Any], threat: Threat) -> Method:
    """Apply changes of the inner attack.

    Raises:
        MmardError: for parts that need what only a run has.
    """
    inner = validated(Inner, dict(changes), "attack setting")
    if inner.stop_at is not None:
        must_be_of_single_samples(method)
    method = inner.applied_to(method, threat)
    if is_unknown(method):
        raise UnknownTemperatureError
    for kind, key in ((WarmStart, "warm_start"), (CollapseGuard, "guard")):
        if isinstance(method.maximizer, kind):
            raise MmardError(
                f"attack {key} needs what only a run knows, its images or their validation; use mmard.distill"
            )
    return method
