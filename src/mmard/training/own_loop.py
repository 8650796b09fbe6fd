"""Networks, precision and time of a step in a training loop of one's own, where no engine has set them up."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from mmard.core.logits import (
    PredictionError,
    freeze,
    kind_of_weights,
    logits_in,
    must_be_apart,
    predict_logits,
    says_no_logits,
)
from mmard.core.method import Method
from mmard.core.views import Predict, Views, held_still, set_mode
from mmard.models.architectures import adopt
from mmard.models.cards import load_model
from mmard.models.folding import Folded, folded_alike
from mmard.models.foreign import is_foreign
from mmard.runs.folder import RunFolder
from mmard.training.descent import LearningCompanion
from mmard.utils.distributed import over_processes
from mmard.utils.errors import MmardError, first_line, is_out_of_memory
from mmard.utils.numbers import shortened

Network = nn.Module | RunFolder | str | Path
"""A module, or what `mmard.load_model` takes."""
TRIED = 2  # images on which each network is run before the first step


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside of DistributedDataParallel, DataParallel and ``torch.compile``, whose weights it shares."""
    while True:
        if isinstance(network, nn.parallel.DistributedDataParallel | nn.DataParallel):
            network = network.module
        elif isinstance(inner := getattr(network, "_orig_mod", None), nn.Module):
            network = inner
        else:
            return network


@dataclass(frozen=True)
class Autocast:
    """The caller's autocast: the networks run in it, and nothing else of a step does."""

    device: str
    enabled: bool
    dtype: torch.dtype

    @staticmethod
    def here(device: str) -> "Autocast":
        """Read what is in force for this kind of device."""
        return Autocast(device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device))

    def inside(self) -> AbstractContextManager[Any]:
        """Run a network in it. Nothing is cached: a cast of held weights is of another kind than one of weights that learn."""
        return torch.autocast(self.device, dtype=self.dtype, enabled=self.enabled, cache_enabled=False)

    def outside(self) -> AbstractContextManager[Any]:
        """Run the rest of a step in float32."""
        return torch.autocast(self.device, enabled=False)


COUNTS_EPOCHS = (
    "the method counts epochs (a ramp, a later beginning, or state that moves after each of them); give "
    "Distiller(..., epochs=) the number of all epochs that the steps are"
)


class UntimedViews(Views):
    """Views in a loop that does not say how long it is: a term that asks how far training is raises MmardError."""

    def _never(self) -> float:
        raise MmardError(
            "the method asks how far training is (a ramp, a later beginning, or state that moves in each step); give "
            "Distiller(..., steps=) the number of all steps that are to come, and epochs="
        )

    progress = property(_never, lambda self, value: vars(self).update(progress=value))

    def __post_init__(self) -> None:
        """Check nothing: there is no progress."""


class UncountedViews(Views):
    """Views in a loop that does not say how many epochs it has: a term that asks for them raises MmardError."""

    def _never(self) -> int:
        raise MmardError(COUNTS_EPOCHS)

    epochs = property(_never, lambda self, value: vars(self).update(epochs=value))

    def __post_init__(self) -> None:
        """Check nothing: there are no epochs."""


@dataclass(eq=False)
class OwnNetworks:
    """The networks of a loop of one's own, as functions of images in the caller's precision.

    They give logits, a tuple that begins with them, or an output with ``.logits``.

    Args:
        student: as the caller has it, perhaps wrapped.
        teachers: frozen, in evaluation mode; by name.
        in_training: attack the student in training mode, as `Method.attack_in_train_mode` says: BatchNorm is not folded then.
        autocast: what is in force in this step.
    """

    student: nn.Module
    teachers: Mapping[str, nn.Module]
    in_training: bool = False
    autocast: Autocast = Autocast("cpu", False, torch.bfloat16)
    classes: int = 0
    _device: torch.device | None = field(default=None, init=False)
    _folded: dict[str, nn.Module] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.bare = unwrapped(self.student)
        for name, teacher in self.teachers.items():
            must_be_apart(self.bare, teacher, name)
            set_mode(teacher, train=False)
            freeze(teacher, f"the {name}")

    def predictor(self, network: Predict) -> Predict:
        """Return a network, or any function of images, as a function in the caller's precision."""

        def predict(x: Tensor) -> Tensor:
            with self.autocast.inside():
                return forward_logits(network, x)

        return predict

    def moved(self, moves: Mapping[str, Tensor]) -> Predict:
        """Return the student with each named weight moved by so much; gradients reach the weights themselves."""
        own = {p: name for name, p in self.student.named_parameters()}
        weights = {own[p]: p.clone().add_(moves[name]) for name, p in self.bare.named_parameters() if name in moves}
        return lambda x: functional_call(self.student, weights, (x,))

    def attacked(self) -> dict[str, Predict]:
        """Return each network as attacks use it: BatchNorm folded where that can be done, but of a student in training mode.

        Teachers are folded anew in each step, too: nothing tells whether the loop has changed one.
        """
        for shadow in self._folded.values():
            if isinstance(shadow, Folded):
                shadow.refresh()
        return {name: self.predictor(shadow) for name, shadow in self._folded.items()}

    def place_and_check(self, x: Tensor) -> bool:
        """Move the teachers to the device of images (B, C, H, W) and check every network's logits, where the device is new.

        Returns:
            Whether the device was new.

        Raises:
            MmardError: for a student elsewhere, and a network that fails on the images or gives no logits of the same classes.
        """
        for teacher in self.teachers.values():
            if any(
                module.training for module in teacher.modules()
            ):  # Lightning puts all that it knows in training mode
                teacher.eval()
        if self._device == x.device:
            return False
        if (weights := next(self.bare.parameters(), None)) is not None and weights.device != x.device:
            raise MmardError(f"images are on {x.device} and the student on {weights.device}; expected one device")
        classes = dict[str, int]()
        for name, network in {"student": self.bare, **self.teachers}.items():
            network.to(x.device)
            plain = checked_logits(network, x[:TRIED], f"the {name}")
            if fault := says_no_logits(plain):
                raise MmardError(f"the {name} {fault}")
            classes[name] = plain.shape[1]
            as_it_is = network is self.bare and self.in_training
            self._folded[name] = network if as_it_is else _folded(network, x[:TRIED], classes[name])
        if len(set(classes.values())) > 1:
            counts = ", ".join(f"the {name} {count}" for name, count in classes.items())
            raise MmardError(
                f"the networks give logits of different numbers of classes: {counts}; expected the same of all"
            )
        self.classes, self._device = classes["student"], x.device
        return True


def forward_logits(network: Predict, x: Tensor) -> Tensor:
    """Return the network's logits: what it gives, the first of a tuple, or ``.logits``."""
    output: object = network(x)
    return output if isinstance(output, Tensor) else logits_in(output)


def checked_logits(network: nn.Module, x: Tensor, who: str) -> Tensor:
    """Compute logits in evaluation mode without gradient; a failure of the network is one line.

    Raises:
        MmardError: for a network that fails on the images, or gives anything but logits.
    """
    try:
        with held_still(network), torch.no_grad():
            return predict_logits(partial(forward_logits, network), x, who)
    except PredictionError:
        raise
    except Exception as e:  # a network may fail in any way on images that it was not made for
        if is_out_of_memory(e):
            raise
        fault = f"{type(e).__name__}: {first_line(e)}{kind_of_weights(network)}"
        raise MmardError(f"{who} fails on images {tuple(x.shape)}: {fault}") from e


def _folded(network: nn.Module, x: Tensor, classes: int) -> nn.Module:
    """Fold a network's BatchNorm, where what comes out gives the same logits of images x; else return the network itself."""
    shadow = folded_alike(adopt(network, classes, x.shape[1]), x)
    return shadow if isinstance(shadow, Folded) else network


@dataclass(eq=False)
class Collected:
    """The losses of a step, kept for the caller's own backward pass."""

    networks: OwnNetworks
    losses: list[Tensor] = field(default_factory=list)

    @contextmanager
    def around(self, companion: LearningCompanion | None) -> Iterator[None]:
        """Leave it to whoever wraps the networks when gradients are averaged."""
        yield

    def take(self, loss: Tensor) -> None:
        """Keep a network's loss."""
        self.losses.append(loss)

    @contextmanager
    def moved(self, moves: Mapping[str, Tensor] | None) -> Iterator[Predict]:
        """Give the student at moved weights, which are a copy: its own must be whole until the caller's backward pass."""
        yield self.networks.predictor(self.networks.student if moves is None else self.networks.moved(moves))

    def over_all(self, gradient: Tensor) -> Tensor:
        """Average a gradient over the processes."""
        return over_processes(gradient)

    def total(self) -> Tensor:
        """Return the sum of the losses; each reaches the weights of its own network alone."""
        return self.losses[0] if len(self.losses) == 1 else torch.stack(self.losses).sum()


def by_name(teachers: Mapping[str, Any], teacher: Any) -> dict[str, Any]:
    """Join the networks by name; ``robust`` is another name of the teacher, as in settings."""
    if not isinstance(teachers, Mapping):
        raise MmardError(f'teachers is {shortened(teachers)}, expected networks by name, such as {{"natural": net}}')
    found = {"teacher" if name == "robust" else name: net for name, net in teachers.items()}
    if "student" in found or len(found) < len(teachers) or (teacher is not None and "teacher" in found):
        raise MmardError(
            f"teachers names {', '.join(teachers)}; the student and the teacher are given once, by themselves"
        )
    return found if teacher is None else {**found, "teacher": teacher}


def must_be_alone(what: str) -> None:
    """Raise MmardError in one of several processes: a loop of one's own trains ``what`` in one only."""
    spread = torch.distributed.is_available() and torch.distributed.is_initialized()
    if spread and torch.distributed.get_world_size() > 1:
        raise MmardError(
            f"the method trains {what} beside the student, and a loop of one's own has it in one process only; "
            "mmard.distill and mmard.train take several: engine__devices="
        )


def as_batch(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Check the kinds of a batch; return float images without gradient, and int64 labels on their device.

    Raises:
        MmardError: for anything but images (B, C, H, W) and labels (B,).
    """
    if not isinstance(x, Tensor) or x.dim() != 4 or len(x) == 0:
        shape = tuple(x.shape) if isinstance(x, Tensor) else shortened(x)
        raise MmardError(f"x is {shape}, expected a tensor of images (B, C, H, W)")
    if not x.is_floating_point():
        raise MmardError(f"x is {x.dtype}, expected floats in [0, 1]; x.float() / 255")
    if not isinstance(y, Tensor) or y.shape != (len(x),) or y.is_floating_point() or y.is_complex():
        got = f"{y.dtype} {tuple(y.shape)}" if isinstance(y, Tensor) else shortened(y)
        raise MmardError(f"y is {got}, expected a tensor of labels ({len(x)},), whole numbers from 0")
    x, y = (t.clone() if t.is_inference() else t.detach() for t in (x, y))
    return x.float(), y.to(x.device, torch.int64)


def must_be_labels(y: Tensor, classes: int) -> None:
    """Raise MmardError unless labels (B,) are in [0, ``classes``)."""
    low, high = (int(end) for end in y.aminmax())
    if low < 0 or high >= classes:
        raise MmardError(
            f"labels are from {low} to {high}, and the networks have {classes} classes, 0 to {classes - 1}"
        )


def network_given(source: Network, name: str) -> nn.Module:
    """Take a module as it is, and load anything else."""
    if isinstance(source, nn.Module):
        return unwrapped(source)
    if is_foreign(source):
        raise MmardError(
            f"the {name} is {source}, which is built for a data set; in a loop of one's own give the module itself"
        )
    if isinstance(source, RunFolder | str | Path):
        return load_model(source.path if isinstance(source, RunFolder) else source)
    raise MmardError(f"the {name} is {shortened(source)}, expected a torch.nn.Module, a run folder, weights or a card")


def must_be_of_method(state: Mapping[str, Any], method: Method) -> None:
    """Raise MmardError for the state of a `mmard.Distiller` of other terms, or of a negative number of steps."""
    own = method.term_names()
    if (names := state.get("names", own)) != own:
        told, expected = (", ".join(which) or "none" for which in (names, own))
        raise MmardError(f"the state is no Distiller's of this method: its terms are {told}, expected {expected}")
    if isinstance(step := state.get("step"), int) and step < 0:
        raise MmardError(f"the state is no Distiller's: it is at step {step}, expected a number not below 0")
