"""One update of the student: inner attack, outer loss, gradient, weights; and what makes it fast.

Networks are laid out channels-last; in the attack and for teachers BatchNorm is folded into the convolutions.
"""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmard.attacks.inner.adaptive import WarmStart
from mmard.core.companion import Learned
from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.core.views import Frame, Known, Models, Predict, Views, held_still
from mmard.models.folding import Folded, folded
from mmard.training.awp import moved_up
from mmard.training.channels_last import lay_out
from mmard.training.companions import StudentAverage, TrainedCompanion, companions_of
from mmard.training.descent import LearningCompanion, descend
from mmard.training.engine import Engine
from mmard.training.learned import begin_learned, watch_features
from mmard.training.schedule import Plan
from mmard.training.step import make_example
from mmard.utils.errors import MmardError, first_line


@dataclass(kw_only=True)
class Update:
    """An update of the student by one batch.

    Args:
        method, threat: the objectives, the attack, and its ball.
        student: updated in place, in training mode.
        teachers: the other networks by name; frozen and put in evaluation mode here.
        plan: optimiser, learning rate, clipping.
        scale: the KL terms of the outer objectives are multiplied by it.
        compile: run the networks of the inner process through ``torch.compile``.
        seed: of the weights of fresh companions.
        shape: (C, H, W) of the images: networks that call ``.view``, and the sizes of what learns with the student, are found
            by it; None: there is nothing of the kind.
    """

    method: Method
    threat: Threat
    student: nn.Module
    teachers: Mapping[str, nn.Module]
    plan: Plan
    engine: Engine
    scale: float = 1.0
    compile: bool = False
    seed: int = 0
    shape: torch.Size | None = None
    optimizer: Optimizer = field(init=False)
    companions: list[TrainedCompanion | StudentAverage] = field(init=False)

    def __post_init__(self) -> None:
        engine, shadows = self.engine, {}
        self.method = self.method.scale_divergences(self.scale)
        frozen = {name: net for name, net in self.teachers.items() if name not in self.method.companions}
        for network in (self.student, *frozen.values()):
            lay_out(network, engine.device, self.shape)
        for name, teacher in frozen.items():
            shadows[name] = folded(teacher.eval().requires_grad_(False))
        self.shadow = self.student if self.method.attack_in_train_mode else folded(self.student)
        networks = {**shadows, "student": self.shadow}
        self.companions = companions_of(
            self.method, self.student, self.teachers, self.plan, engine, self.seed, self.shape
        )
        beside = {companion.name: companion.net for companion in self.companions}
        watch_features(self.method, self.student, *networks.values(), *beside.values())
        self.learned = self._learned(networks | beside)
        self.optimizer = self.plan.optimizer_for(self.student, *self.learned)
        self.wrapped, self.stepper = engine.setup(self.student, self.optimizer)
        self.in_training = engine.predictor(self.student)  # without the wrapper, whose gradients are averaged
        self.predictors = {
            name: engine.predictor(compiled(net, name) if self.compile else net) for name, net in networks.items()
        } | {c.name: c.predict for c in self.companions}
        self.constant = {name: self.predictors[name] for name in frozen}

    def _learned(self, networks: Mapping[str, nn.Module]) -> list[Learned]:
        if self.compile and self.method.reads_features():
            raise MmardError("compiled networks record no features, and the method asks for them; engine.compile=false")
        if self.shape is None:
            return []
        x = torch.zeros(2, *self.shape, device=self.engine.device)
        with held_still(*networks.values()):
            return begin_learned(self.method, networks, x, self.seed)

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        index: Tensor,
        progress: float,
        at_once: int | None = None,
        frame: Frame | None = None,
        known: Known | None = None,
    ) -> dict[str, Tensor]:
        """Update on one batch; returns the mean of each weighted term.

        Args:
            x, y, index: of the batch, (B, C, H, W) in [0, 1], (B,) and (B,).
            progress: share of training done.
            at_once: images that go through the networks at once, a divisor of B; their gradients add up. BatchNorm and
                terms of a whole batch see only so many. None: all.
            frame: what augmentation did to x.
            known: logits at x of constant networks, which then are not called there.
        """
        at_once = at_once or len(x)
        means: dict[str, Tensor] = {}
        self.stepper.zero_grad()
        begun = [companion for companion in self.companions if companion.begins(progress)]
        learning = [companion for companion in begun if isinstance(companion, TrainedCompanion)]
        for start in range(0, len(x), at_once):
            part, share = slice(start, start + at_once), at_once / len(x)
            last = start + at_once >= len(x)
            views = Views.of(
                x[part], y[part], index[part], Models(self.predictors), progress, self.plan.epochs,
                None if frame is None else frame.of_rows(part),
                {name: logits[part] for name, logits in (known or {}).items()},
            )  # fmt: skip
            for name, mean in self._descend(self._example(views), learning, share, last).items():
                means[name] = means.get(name, 0) + share * mean.detach()
        self._step(progress, learning)
        return means

    def _step(self, progress: float, learning: list[TrainedCompanion]) -> None:
        """Update the weights, those of companions and averages too, and store the perturbations of warm starts."""
        for weight in (weight for part in self.learned for weight in part.parameters()):
            if weight.grad is not None:
                weight.grad = self.engine.all_reduce_sum(weight.grad) / self.engine.world
        if self.plan.clip is not None:
            self.engine.clip(self.wrapped, self.stepper, self.plan.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = self.plan.lr_at(progress)
        self.stepper.step()
        for companion in learning:
            companion.step(progress)
        for each in self.companions:
            each.follow(self.student, progress)
        for module in self.method.modules():
            if isinstance(module, WarmStart):
                module.sync(self.engine.gather)

    def _example(self, views: Views) -> Views:
        if isinstance(self.shadow, Folded):
            self.shadow.refresh()
        return make_example(self.method, views, self.student, self.threat, *(c.net for c in self.companions))

    def _descend(self, views: Views, learning: list[TrainedCompanion], share: float, last: bool) -> dict[str, Tensor]:
        """Add the gradient of this share of the batch, first to the companions' weights, then to the student's."""
        loop = _Part(self, share, last)
        return descend(self.method, views, self.student, self.in_training, self.companions, learning, loop)


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of a batch: its losses descend at once, with its share of the batch as weight.

    Attributes:
        last: whether the gradients are averaged over processes.
    """

    update: Update
    share: float
    last: bool

    def around(self, companion: LearningCompanion | None) -> AbstractContextManager[None]:
        module = companion.module if isinstance(companion, TrainedCompanion) else self.update.wrapped
        return self.update.engine.gradients_kept(module, not self.last)

    def take(self, loss: Tensor) -> None:
        self.update.engine.backward(self.share * loss)

    @contextmanager
    def moved(self, moves: Mapping[str, Tensor] | None) -> Iterator[Predict]:
        with nullcontext() if moves is None else moved_up(self.update.student, moves):
            yield self.update.wrapped

    def over_all(self, gradient: Tensor) -> Tensor:
        return self.update.engine.all_reduce_sum(gradient)


def compiled(network: nn.Module, name: str) -> Predict:
    """Run a network through ``torch.compile``; where that fails it runs as it is, with a warning."""
    fast: Predict | None = torch.compile(network, dynamic=False)

    def predict(x: Tensor) -> Tensor:
        nonlocal fast
        if fast is not None:
            try:
                return fast(x)
            except Exception as e:  # compilers fail in every way there is
                fast = None
                warnings.warn(f"torch.compile fails for the {name}, which runs as it is: {first_line(e)}", stacklevel=2)
        return network(x)  # type: ignore[no-any-return]

    return predict
