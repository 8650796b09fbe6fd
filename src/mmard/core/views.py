"""The points at which terms evaluate networks, x and x', with logits computed once and cached."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from mmard.core.features import Features, recorded
from mmard.core.logits import predict_logits
from mmard.utils.errors import MmardError
from mmard.utils.numbers import must_be_whole_number, must_lie_within, shortened

Predict = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in [0, 1] → logits (B, K)."""
Known = Mapping[str, Tensor]
"""Logits (B, K) by a network's name."""


@runtime_checkable
class ByRow(Protocol):
    """A value of a batch that can be restricted to some of its samples."""

    def of_rows(self, rows: Tensor) -> Any:
        """Restrict the value to the samples ``rows`` (R,), int64."""


class Frame(Protocol):
    """The geometric augmentation of a batch: a linear map of each image's pixels."""

    def __call__(self, x: Tensor) -> Tensor:
        """Apply the map to images, or to perturbations of them, (B, C, H, W)."""

    def back(self, delta: Tensor) -> Tensor:
        """Apply the adjoint: a perturbation of the augmented images in the original frame, 0 where pixels were cut off."""

    def of_rows(self, rows: Tensor | slice) -> "Frame":
        """Restrict the map to some of the images."""


class MissingModelError(MmardError):
    """The run does not have a network that the method needs."""

    def __init__(self, name: str, have: Iterable[str], who: str = "the method") -> None:
        key = "teacher" if name == "teacher" else f"teachers.{name}"
        names = ", ".join(sorted(have))
        super().__init__(f"{who} asks for a {name!r} model (have: {names}); give one: {key}=RUN_FOLDER_OR_CARD")
        self.name = name


@dataclass(frozen=True)
class Models:
    """The networks of a run by name: ``student``, ``teacher``, and any other that a method needs."""

    by_name: Mapping[str, Predict]

    def __getitem__(self, name: str) -> Predict:
        if name not in self.by_name:
            raise MissingModelError(name, self.by_name)
        return self.by_name[name]

    def replaced(self, **models: Predict) -> "Models":
        return Models({**self.by_name, **models})


@dataclass(frozen=True, eq=False)
class Point:
    """A batch of images and the logits of each network there, computed once when they are first needed.

    A teacher is constant because its weights are frozen; its graph with respect to ``x`` is kept only
    when ``x`` requires gradients, as it does inside an attack.

    Attributes:
        teacher_tau: what the teacher's logits are divided by.
    """

    x: Tensor
    models: Models
    _known: dict[str, Any] = field(default_factory=dict)
    teacher_tau: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.models, Models):
            raise MmardError(f"models: got {shortened(self.models)}, expected Models of names and networks")

    def other(self, name: str) -> Tensor:
        """Compute the logits (B, K) of the network of that name, once; the teacher's at its temperature."""
        logits: Tensor = self._keep(f"logits of {name}", lambda: self._look(name))
        return logits / self.teacher_tau if name == "teacher" and self.teacher_tau != 1 else logits

    @property
    def student(self) -> Tensor:
        """Compute the student's logits (B, K), once."""
        return self.other("student")

    @property
    def teacher(self) -> Tensor:
        """Compute the teacher's logits (B, K), once."""
        return self.other("teacher")

    def features(self, name: str) -> tuple[Tensor, ...]:
        """Return the outputs of a network's blocks (`mmard.core.features.blocks_of`) in the pass that gave its logits.

        Only for a term that says so: ``@term("...", features=True)``.

        Raises:
            MmardError: for a network in which no blocks are found, or whose features are not recorded.
        """
        if (key := f"features of {name}") not in self._known:
            self._known.setdefault(f"logits of {name}", self._look(name))
        if key not in self._known:
            raise MmardError(
                f"no features of the {name} are recorded; expected a network of blocks, activations or convolutions that are "
                "modules, and a term that says so: @term(..., features=True)"
            )
        found: Features = self._known[key]
        return found.maps

    def _look(self, name: str) -> Tensor:
        with recorded() as maps:
            logits = predict_logits(self.models[name], self.x, f"the {name}")
        if maps:
            self._known[f"features of {name}"] = Features(tuple(maps))
        return logits

    def once(self, key: str, compute: Callable[[], Any]) -> Any:
        """Compute a value once at this point and cache it under ``key``; terms share it."""
        at = "" if self.teacher_tau == 1 else f", teacher at {self.teacher_tau}"
        return self._keep(f"once: {key}{at}", compute)

    def at_temperature(self, tau: float) -> "Point":
        """Divide the teacher's logits by ``tau``; what is known of the networks is shared."""
        return replace(self, teacher_tau=tau)

    def _keep(self, key: str, compute: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]

    def of_rows(self, rows: Tensor) -> "Point":
        """Restrict the point to some images. Logits, and values that are `ByRow`, are kept; others are computed anew."""
        known = {key: value[rows] for key, value in self._known.items() if key.startswith("logits of ")}
        known |= {key: value.of_rows(rows) for key, value in self._known.items() if isinstance(value, ByRow)}
        return replace(self, x=self.x[rows], _known=known)

    def seen_by(self, models: Models) -> "Point":
        """Replace the networks and keep the images; logits of networks that stay the same are kept."""
        same = [name for name, model in models.by_name.items() if self.models.by_name.get(name) is model]
        keys = [f"{what} of {name}" for name in same for what in ("logits", "features")]
        return replace(self, models=models, _known={key: self._known[key] for key in keys if key in self._known})


@dataclass(frozen=True, eq=False)
class Views:
    """A batch as terms see it: the natural and the adversarial point, labels, and the progress of training.

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

    def __post_init__(self) -> None:
        must_lie_within(0, math.inf, progress=self.progress)
        must_be_whole_number(epochs=self.epochs)

    @staticmethod
    def of(
        x: Tensor, y: Tensor, index: Tensor, models: Models, progress: float = 0.0, epochs: int = 1,
        frame: Frame | None = None, known: Known | None = None,
    ) -> "Views":  # fmt: skip
        """Make the views before there is any example: both points are the natural one.

        Args:
            known: logits at x of networks that are constant.
        """
        nat = Point(x, models, {f"logits of {name}": logits for name, logits in (known or {}).items()})
        return Views(nat, nat, y, index, progress, models, epochs, frame)

    @property
    def epoch(self) -> int:
        """Return the epoch that this step belongs to, from 0."""
        return int(self.progress * self.epochs + 1e-6)  # a share of steps; the first step of an epoch may round down

    def point(self, x: Tensor) -> Point:
        """Make a further point: new images under the same networks."""
        return Point(x, self.models, teacher_tau=self.nat.teacher_tau)

    def moved_to(self, x_adv: Tensor) -> "Views":
        """Replace the adversarial point; cached values of the natural one are kept."""
        return self._changed(adv=self.point(x_adv))

    def at_temperature(self, tau: float) -> "Views":
        """Divide the teacher's logits by ``tau`` at every point; cached values of the networks are shared."""
        nat = self.nat.at_temperature(tau)
        return self._changed(nat=nat, adv=nat if self.adv is self.nat else self.adv.at_temperature(tau))

    def of_rows(self, rows: Tensor) -> "Views":
        """Restrict the views to the samples ``rows`` (R,); cached values are kept."""
        nat = self.nat.of_rows(rows)
        adv = nat if self.adv is self.nat else self.adv.of_rows(rows)
        frame = None if self.frame is None else self.frame.of_rows(rows)
        return self._changed(nat=nat, adv=adv, y=self.y[rows], index=self.index[rows], frame=frame)

    def seen_by(self, student: Predict, **others: Predict) -> "Views":
        """Replace the student, by another or by the same one in another mode; its cached logits are dropped.

        ``others``: further networks that are replaced, by name.
        """
        named = {"student": student, **others}
        models = self.models.replaced(
            **{name: _fresh(net) if net is self.models.by_name.get(name) else net for name, net in named.items()}
        )
        nat = self.nat.seen_by(models)
        return self._changed(nat=nat, adv=nat if self.adv is self.nat else self.adv.seen_by(models), models=models)

    def _changed(self, **parts: Any) -> "Views":
        return type(self)(**{**vars(self), **parts})


def _fresh(predict: Predict) -> Predict:
    return lambda x: predict(x)


def set_mode(network: nn.Module, train: bool) -> None:
    """Put a network in training or evaluation mode.

    Raises:
        MmardError: for a module of ``torch.export``, which has one.
    """
    try:
        network.train(train)
    except NotImplementedError as e:
        raise MmardError(
            "a network made by torch.export has one mode for good, and attacks and training need both; give the module that it "
            "was exported from, with its weights"
        ) from e


@contextmanager
def held_still(*networks: nn.Module, train: bool | None = False) -> Iterator[None]:
    """Put networks in evaluation mode without gradients to their weights for an attack; undo both after, also on error.

    Args:
        train: put the networks in training mode instead (some released scripts attack so; BatchNorm then moves); None:
            each stays in its mode.
    """
    modes = [(m, m.training) for net in networks for m in net.modules()]
    trainable = [p for net in networks for p in net.parameters() if p.requires_grad]
    try:
        for net in networks:
            if train is not None:
                set_mode(net, train)
        for p in trainable:
            p.requires_grad_(False)
        yield
    finally:
        for m, mode in modes:
            m.training = mode
        for p in trainable:
            p.requires_grad_(True)
