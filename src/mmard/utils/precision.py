"""Floating-point precisions that a device has and computes in, and TensorFloat-32.

TensorFloat-32 is float32 whose convolutions and matrix products NVIDIA's GPUs round to ten bits; nothing elsewhere.
"""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

PRECISIONS = ("32-true", "tf32", "bf16-mixed")
AUTO = "auto"
BF16_ON_CPUS = ("avx512_bf16", "amx_bf16", "bf16")
"""Instruction sets with bf16 arithmetic, as `torch.cpu.get_capabilities` names them; the last is Arm's."""


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """Name those of `PRECISIONS` that a device has; a CPU without bf16 arithmetic emulates bf16."""
    if device.type != "cuda":
        return "32-true", "bf16-mixed"
    return PRECISIONS if computes_in_bf16(device) else ("32-true",)


def computes_in_bf16(device: torch.device) -> bool:
    """Tell whether a device has bf16 arithmetic that PyTorch uses.

    GPUs have it from Ampere on; CPUs with AVX-512 BF16, AMX or Arm's BF16. On CPUs it is oneDNN that uses it: builds of PyTorch
    without oneDNN, as for macOS, emulate bf16 whatever the CPU has.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    # Not in every PyTorch; without it nothing is known of the CPU.
    has: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(bool(has.get(name)) for name in BF16_ON_CPUS)


def choose_precision(asked: str, begun: str | None, native: bool, device: torch.device) -> tuple[str, str]:
    """Choose the precision of a run.

    Args:
        asked: the requested precision, one of `PRECISIONS`, or ``auto``.
        begun: the precision in which the run trained until now; None for a new run. ``auto`` keeps it where it can, and warns
            where it cannot.
        native: whether the device computes in bf16.

    Returns the precision, and for ``auto`` a line that says which it is and why (else empty).
    """
    if asked != AUTO:
        return asked, ""
    here = "bf16-mixed" if native else "32-true"
    why = f"{device.type} {'computes in bf16' if native else 'has no bf16 arithmetic that PyTorch uses'}"
    if begun in (None, AUTO, here):
        return here, f"engine.precision=auto: {here} ({why})"
    if begun == "32-true" or (begun != "bf16-mixed" and begun in precisions_of(device)):
        return begun, f"engine.precision=auto: {begun}, in which the run began"
    warnings.warn(f"the run began in {begun}, and {why}: it goes on in {here}", stacklevel=3)
    return here, f"engine.precision=auto: {here} ({why}; the run began in {begun})"


@cache
def slowdown_of_bf16() -> float:
    """Measure how many times as long as in float32 a small convolution and its gradient take in bf16 on this CPU.

    Takes a tenth of a second or two, once a process. No random number is drawn.
    """
    x = torch.full((8, 32, 16, 16), 0.5).to(memory_format=torch.channels_last).requires_grad_()
    weight = torch.full((32, 32, 3, 3), 0.01)
    return _seconds(x, weight, bf16=True) / _seconds(x, weight, bf16=False)


def _seconds(x: Tensor, weight: Tensor, bf16: bool) -> float:
    """Time a convolution and its gradient: the shortest of three, so that other work counts little."""
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        with torch.enable_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            y = F.conv2d(x, weight, padding=1)
        torch.autograd.grad(y.float().sum(), x)
        taken.append(time.perf_counter() - start)
    return min(taken)


def warn_of_emulation() -> None:
    """Warn that this CPU emulates bf16, with the measured ratio."""
    warnings.warn(
        f"this CPU has no bf16 arithmetic and emulates it: a convolution and its gradient just took "
        f"{slowdown_of_bf16():.1f} times as long in bf16 as in float32; engine.precision=auto trains in float32 here",
        stacklevel=2,
    )


def allow_tf32(convolutions: bool, products: bool) -> None:
    """Turn TensorFloat-32 on or off. PyTorch's default: on for convolutions, off for matrix products.

    Through PyTorch's older settings, which move the newer ``fp32_precision`` along; where only the newer are moved, whoever reads
    the older, as ``torch.backends.cudnn.flags`` does, meets a RuntimeError.
    """
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.set_float32_matmul_precision("high" if products else "highest")
    for place, on in zip(_places(), (convolutions, convolutions, products), strict=True):
        if (place.fp32_precision == "tf32") != on:  # it follows a setting of all backends
            place.fp32_precision = "tf32" if on else "ieee"


def _places() -> tuple[Any, Any, Any]:
    """Return where PyTorch keeps the precision of float32 convolutions, recurrent layers and matrix products."""
    cudnn: Any = torch.backends.cudnn
    return cudnn.conv, cudnn.rnn, torch.backends.cuda.matmul


@contextmanager
def kept_tf32() -> Iterator[None]:
    """Give the caller's TensorFloat-32 back after this context, of the older settings what can be read."""
    convolutions = products = None
    with suppress(RuntimeError):  # older and newer settings do not agree
        convolutions = torch.backends.cudnn.allow_tf32
    with suppress(RuntimeError):
        products = torch.get_float32_matmul_precision()
    on_cpus: Any = torch.backends.mkldnn  # whose products move with the older setting
    places = (*_places(), on_cpus.matmul)
    newer = [place.fp32_precision for place in places]
    try:
        yield
    finally:
        if convolutions is not None:
            torch.backends.cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for place, precision in zip(places, newer, strict=True):
            if place.fp32_precision != precision:
                place.fp32_precision = precision


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Turn TensorFloat-32 on or off inside this context."""
    with kept_tf32():
        allow_tf32(convolutions, products)
        yield


def full_precision() -> AbstractContextManager[None]:
    """Turn TensorFloat-32 off inside this context, for evaluations."""
    return tf32(convolutions=False, products=False)
