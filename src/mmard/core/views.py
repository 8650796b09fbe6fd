"""Two points, and what each network says there: computed when first asked for, and then kept."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mmard.core.logits import predict_logits
from mmard.utils.errors import MmardError

Predict = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] → logits (B, K)."""


@runtime_checkable
class ByRow(Protocol):
    """What can be had for some samples of a batch alone."""

    def of_rows(self, rows: Tensor) -> Any:
        """The same for these rows (R,), int64."""


class Frame(Protocol):
    """What augmentation did to each image of a batch: a linear map of its pixels."""

    def __call__(self, x: Tensor) -> Tensor:
        """Images, or perturbations of them, as augmented."""

    def back(self, delta: Tensor) -> Tensor:
        """A perturbation of the augmented images in the frame of the unaugmented ones: the adjoint, 0 where it cannot know."""

    def of_rows(self, rows: Tensor | slice) -> "Frame":
        """The same for these images."""


class MissingModelError(MmardError):
    """A method asks for a network that the run does not have."""

    def __init__(self, name: str, have: Iterable[str], who: str = "the method") -> None:
        key = "teacher" if name == "teacher" else f"teachers.{name}"
        names = ", ".join(sorted(have))
        super().__init__(f"{who} asks for a {name!r} model (have: {names}); give one: {key}=RUN_FOLDER_OR_CARD")
        self.name = name


@dataclass(frozen=True)
class Models:
    """The networks of a run by name: ``student``, ``teacher``, and any other that a method asks for."""

    by_name: Mapping[str, Predict]

    def __getitem__(self, name: str) -> Predict:
        if name not in self.by_name:
            raise MissingModelError(name, self.by_name)
        return self.by_name[name]

    def replaced(self, **models: Predict) -> "Models":
        return Models({**self.by_name, **models})


@dataclass(frozen=True, eq=False)
class Point:
    """A batch of images and, lazily and once, the logits of each network there.

    A teacher is constant because its weights are frozen; its graph with respect to ``x`` is kept only
    when ``x`` asks for gradients, as it does inside an attack.
    """

    x: Tensor
    models: Models
    _known: dict[str, Any] = field(default_factory=dict)

    def other(self, name: str) -> Tensor:
        """Logits (B, K) of the model of that name."""
        return self._keep(f"logits of {name}", lambda: predict_logits(self.models[name], self.x, f"the {name}"))  # type: ignore[no-any-return]

    @property
    def student(self) -> Tensor:
        """Student's logits (B, K)."""
        return self.other("student")

    @property
    def teacher(self) -> Tensor:
        """Teacher's logits (B, K)."""
        return self.other("teacher")

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Keep whatever a term wants to compute only once at this point."""
        return self._keep(f"once: {key}", compute)

    def _keep(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def of_rows(self, rows: Tensor) -> "Point":
        """Some of the images. Logits are kept; of what terms keep, that which can be had by rows: the rest is computed anew."""
        known = {key: value[rows] for key, value in self._known.items() if key.startswith("logits of ")}
        known |= {key: value.of_rows(rows) for key, value in self._known.items() if isinstance(value, ByRow)}
        return Point(self.x[rows], self.models, known)

    def seen_by(self, models: Models) -> "Point":
        """The same images under other networks; the logits of the networks that stayed the same are kept."""
        same = [f"logits of {name}" for name, model in models.by_name.items() if self.models.by_name.get(name) is model]
        return Point(self.x, models, {key: self._known[key] for key in same if key in self._known})


@dataclass(frozen=True, eq=False)
class Views:
    """All that a term may look at.

    Attributes:
        nat, adv: the natural and the adversarial point. They are the same one before an example is made.
        y: labels (B,), int64.
        index: each sample's stable number in the training set (B,), int64.
        progress: share of training done, in [0, 1].
        models: the networks.
        epochs: length of the training.
        frame: what augmentation did to the images; None: nothing.
    """

    nat: Point
    adv: Point
    y: Tensor
    index: Tensor
    progress: float
    models: Models
    epochs: int = 1
    frame: Frame | None = None

    @staticmethod
    def of(
        x: Tensor, y: Tensor, index: Tensor, models: Models, progress: float = 0.0, epochs: int = 1,
        frame: Frame | None = None,
    ) -> "Views":  # fmt: skip
        """The views before any example is made: both points are the natural one."""
        nat = Point(x, models)
        return Views(nat, nat, y, index, progress, models, epochs, frame)

    @property
    def epoch(self) -> int:
        """The epoch that this step belongs to, from 0."""
        return int(self.progress * self.epochs + 1e-6)  # a share of steps; the first step of an epoch may round down

    def point(self, x: Tensor) -> Point:
        """A third point: new images under the same networks."""
        return Point(x, self.models)

    def moved_to(self, x_adv: Tensor) -> "Views":
        """The same views with another adversarial point; what is known of the natural one is kept."""
        return replace(self, adv=self.point(x_adv))

    def of_rows(self, rows: Tensor) -> "Views":
        """Some of the samples (R,); what is known of them is kept."""
        nat = self.nat.of_rows(rows)
        adv = nat if self.adv is self.nat else self.adv.of_rows(rows)
        frame = None if self.frame is None else self.frame.of_rows(rows)
        return replace(self, nat=nat, adv=adv, y=self.y[rows], index=self.index[rows], frame=frame)

    def seen_by(self, student: Predict, **others: Predict) -> "Views":
        """The same views with another student (or the same one in another mode): its old answers are dropped.

        ``others``: further networks that are replaced, by name.
        """
        named = {"student": student, **others}
        models = self.models.replaced(
            **{name: _fresh(net) if net is self.models.by_name.get(name) else net for name, net in named.items()}
        )
        nat = self.nat.seen_by(models)
        return replace(self, nat=nat, adv=nat if self.adv is self.nat else self.adv.seen_by(models), models=models)


def _fresh(predict: Predict) -> Predict:
    return lambda x: predict(x)


@contextmanager
def held_still(*networks: nn.Module, train: bool | None = False) -> Iterator[None]:
    """Borrow networks for an attack: evaluation mode, no gradient to weights; all is given back, also on error.

    Args:
        train: put the networks in training mode instead (some released scripts attack so; BatchNorm then moves); None:
            each stays in its mode.
    """
    modes = [(m, m.training) for net in networks for m in net.modules()]
    asked = [p for net in networks for p in net.parameters() if p.requires_grad]
    try:
        for net in networks:
            if train is not None:
                net.train(train)
        for p in asked:
            p.requires_grad_(False)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in asked:
            p.requires_grad_(True)
