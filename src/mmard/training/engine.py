"""Device, precision and processes of a run; the only file that imports Lightning Fabric."""

import atexit
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from mmard.core.views import Predict
from mmard.utils.errors import MmardError, first_line
from mmard.utils.precision import (
    AUTO,
    PRECISIONS,
    allow_tf32,
    choose_precision,
    computes_in_bf16,
    precisions_of,
    warn_of_emulation,
)

LOST = ("gloo", "NCCL", "ProcessGroup", "Connection closed", "Connection reset")  # in what torch says of a lost peer
UNUSED = "Expected to have finished reduction"  # and of weights without a gradient


class Engine:
    """The device, the precision and the processes of a run.

    Args:
        accelerator: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        devices, nodes: processes are devices × nodes; each has a copy of every network.
        precision: of training and its attack: ``32-true`` float32; ``tf32`` the same with convolutions and matrix
            products in TensorFloat-32; ``bf16-mixed`` under autocast; ``auto`` bf16-mixed where all the processes'
            devices compute in bf16, else float32. Evaluation is always in float32.

    Attributes:
        precision: the one in use, by name.
        choice: what ``auto`` chose and why, in a line; empty where a precision was requested by name.

    A CPU that emulates ``bf16-mixed`` is named in a warning, with how much slower it is.

    Raises:
        MmardError: when the machine does not have the requested devices or precision.
    """

    def __init__(self, accelerator: str = "auto", devices: int = 1, nodes: int = 1, precision: str = "32-true") -> None:
        from lightning_fabric import Fabric  # here, because it takes a second to import and `mmard ls` needs none of it
        from lightning_fabric.strategies.ddp import DDPStrategy

        if precision not in (known := (*PRECISIONS, AUTO)):
            raise MmardError(f"precision {precision!r} is not known; expected one of {', '.join(known)}")
        # Several forwards come before one backward: buffers must not be broadcast in between.
        strategy: Any = DDPStrategy(broadcast_buffers=False) if devices * nodes > 1 else "auto"
        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its greetings, one from each process
        _announce_lost_processes()
        places: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "num_nodes": nodes}
        try:
            self.neighbours = devices
            self.fabric = Fabric(**places, strategy=strategy, precision="32-true")
            self.fabric.launch()
        except Exception as e:  # Fabric has kinds of its own
            raise MmardError(f"this machine cannot run that: {first_line(e)}") from e
        if self.world > 1 and self.device.type == "cpu":
            atexit.register(_leave)
        if precision not in (AUTO, *(had := precisions_of(self.device))):
            raise MmardError(f"precision {precision!r} is not to be had on {self.device}; it has {', '.join(had)}")
        self.requested = precision
        native = torch.tensor(computes_in_bf16(self.device), dtype=torch.float32, device=self.device)
        self.computes_in_bf16 = bool(self.all_reduce_min(native).item())  # one precision in all processes
        self.choose_precision()
        emulated = precision == "bf16-mixed" and self.device.type == "cpu" and not self.computes_in_bf16
        if emulated and self.is_global_zero:
            warn_of_emulation()

    def choose_precision(self, begun: str | None = None) -> None:
        """Set `precision`: the one requested for or, for ``auto``, what the devices compute in.

        Args:
            begun: the precision in which the run trained until now; ``auto`` keeps it where the devices compute in it, and
                warns where they do not.
        """
        from lightning_fabric.plugins import MixedPrecision, Precision

        self.precision, self.choice = choose_precision(self.requested, begun, self.computes_in_bf16, self.device)
        bf16 = self.precision == "bf16-mixed"
        self.fabric.strategy.precision = MixedPrecision("bf16-mixed", self.device.type) if bf16 else Precision()
        allow_tf32(convolutions=self.precision == "tf32", products=self.precision == "tf32")

    @property
    def device(self) -> torch.device:
        """Return this process's device."""
        return self.fabric.device

    @property
    def device_name(self) -> str:
        """Name the kind of device, such as ``NVIDIA H100 80GB HBM3``; ``cpu`` for any CPU."""
        return torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type

    @property
    def rank(self) -> int:
        """Return this process's number; 0 writes the files."""
        return self.fabric.global_rank

    @property
    def world(self) -> int:
        """Return the number of processes."""
        return self.fabric.world_size

    @property
    def is_global_zero(self) -> bool:
        """Tell whether this is the process that writes and prints."""
        return self.rank == 0

    @contextmanager
    def together(self, cure: str) -> Iterator[None]:
        """Report in one line that another process of the run died; torch reports it in a page, from anywhere."""
        try:
            yield
        except (RuntimeError, MmardError) as e:  # a term says in an error of its own what happened in it
            if UNUSED in str(e):
                raise MmardError(
                    "some of the student's weights take no part in the loss, such as those of a further head, and several "
                    "processes wait for the gradients of all; freeze them or leave them out, or train in one: engine.devices=1"
                ) from e
            if self.world == 1 or not any(word in str(e) for word in LOST):
                raise
            raise MmardError(
                f"another of the run's {self.world} processes died; its own error stands beside this one, unless it was "
                f"killed from outside; {cure}"
            ) from e

    def synchronize(self) -> None:
        """Wait until the device has done all the work that it was given, so that a clock can be read."""
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)

    def setup(self, model: nn.Module, optimizer: Optimizer) -> tuple[nn.Module, Optimizer]:
        """Wrap a model for training (precision, gradient averaging); returns it and its optimiser."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*broadcast_buffers.*")
            if (
                self.world > 1
                and self.device.type == "cpu"
                and any(isinstance(m, nn.SyncBatchNorm) for m in model.modules())
            ):
                raise MmardError(
                    "SyncBatchNorm joins processes on GPUs alone, and these are on CPUs; give engine.devices=1"
                )
            wrapped, optimizer = self.fabric.setup(model, optimizer)
        return cast(nn.Module, wrapped), optimizer

    def predictor(self, model: Predict) -> Predict:
        """Run a bare model, or any function of images, in the run's precision with float32 logits, for attacks and teachers."""

        def predict(x: Tensor) -> Tensor:
            with self._autocast():
                return model(x).float()

        return predict

    def _autocast(self) -> AbstractContextManager[None]:
        return cast(AbstractContextManager[None], self.fabric.strategy.precision.forward_context())

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of the loss, averaged over processes."""
        self.fabric.backward(loss)

    def gradients_kept(self, model: nn.Module, kept: bool) -> AbstractContextManager[None]:
        """Accumulate gradients in this process inside the context if ``kept``; they are averaged when it is false."""
        return cast(AbstractContextManager[None], self.fabric.no_backward_sync(cast(Any, model), enabled=kept))

    def clip(self, model: nn.Module, optimizer: Optimizer, norm: float) -> None:
        """Clip the gradient to this L2 norm; one that is not finite is left to the checks of the loss."""
        self.fabric.clip_gradients(cast(Any, model), cast(Any, optimizer), max_norm=norm, error_if_nonfinite=False)

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Sum a tensor over processes."""
        return self._all_reduce(value, "sum")

    def all_reduce_min(self, value: Tensor) -> Tensor:
        """Take the minimum of a tensor over processes."""
        return self._all_reduce(value, "min")

    def gather(self, value: Tensor) -> Tensor:
        """Concatenate the tensors (n, ...) of all processes in their order, (processes·n, ...)."""
        if self.world == 1:
            return value
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*all_gather is deprecated.*")  # Fabric calls it
            return cast(Tensor, self.fabric.all_gather(value)).flatten(0, 1)

    def least(self, value: float | None) -> float | None:
        """Take the smallest of the processes' numbers; None where they have none."""
        return None if value is None else -self.greatest(-value)

    def greatest(self, value: float) -> float:
        """Take the largest of the processes' numbers."""
        return self._all_reduce(torch.tensor(value, dtype=torch.float64, device=self.device), "max").item()

    def _all_reduce(self, value: Tensor, how: str) -> Tensor:
        return value if self.world == 1 else cast(Tensor, self.fabric.all_reduce(value.clone(), reduce_op=how))

    def average_buffers(self, *modules: nn.Module) -> None:
        """Average the floating-point buffers over processes (BatchNorm's statistics, terms' state)."""
        if self.world > 1:
            for buffer in _floats(modules):
                buffer.copy_(self.all_reduce_sum(buffer) / self.world)

    def gather_buffers(self, *modules: nn.Module) -> list[Tensor] | None:
        """Return each of these buffers as every process has it, (processes, ...), for a checkpoint; None of one process."""
        return None if self.world == 1 else [self.gather(buffer[None]) for buffer in _floats(modules)]

    def take_buffers(self, gathered: list[Tensor] | None, *modules: nn.Module) -> None:
        """Load this process's own of `gather_buffers`; where there were more or fewer processes, their mean."""
        for buffer, of_each in zip(_floats(modules), gathered, strict=True) if gathered else ():
            buffer.copy_(of_each[self.rank] if len(of_each) == self.world else of_each.mean(0))

    def on_global_zero(self, work: Callable[[], object]) -> None:
        """Run ``work`` in process 0 while the others wait; its failure is an error in every process.

        Raises:
            MmardError: the one that ``work`` raised.
        """
        fault: Exception | None = None
        if self.is_global_zero:
            try:
                work()
            except Exception as e:  # of whatever kind: the others must not wait for ever
                fault = e
        message = self.fabric.broadcast(None if fault is None else first_line(fault))
        if fault is not None:
            raise fault
        if message is not None:
            raise MmardError(message)


def _floats(modules: Iterable[nn.Module]) -> list[Tensor]:
    return [buffer for module in modules for buffer in module.buffers() if buffer.is_floating_point()]


class LostProcessHandler(logging.Handler):
    """A logging handler that reports a dead process: Fabric then kills the one that started it, silently."""

    def emit(self, record: logging.LogRecord) -> None:
        if found := re.search(r"terminated with code (-?\d+)", record.getMessage()):
            line = f"error: a process of the run ended with code {found[1]}, and the run with it; its own error, if any, is above"
            print(line, file=sys.stderr, flush=True)


def _announce_lost_processes() -> None:
    launcher = logging.getLogger("lightning_fabric.strategies.launchers.subprocess_script")
    launcher.setLevel(logging.INFO)
    launcher.propagate = False
    launcher.handlers = [LostProcessHandler()]


def _leave() -> None:
    """Close the connections before the interpreter exits: gloo's threads else abort some runs at their very end."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
