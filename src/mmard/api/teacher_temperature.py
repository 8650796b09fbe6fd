"""The temperature ``auto`` of a method's teacher: measured where a run begins, written into its settings, read where it goes on."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmard import losses
from mmard.api.build import Resolved, method_of
from mmard.api.networks import load_teachers
from mmard.api.registry import spec_of
from mmard.api.settings import Settings
from mmard.data.images import DataSet, some
from mmard.diagnostics.teaching import SOFT, temperature
from mmard.models.architectures import Classifier
from mmard.terms.temperature import AUTO, is_unknown
from mmard.training.engine import Engine
from mmard.training.validation import validation_batch
from mmard.utils.errors import MmardError
from mmard.utils.precision import full_precision

IMAGES = 2000
"""Training images on which a temperature is measured, at most: classes in proportion, without augmentation."""
NAMES = ("tau", "teacher_tau")


def with_temperature(
    resolved: Resolved, data: DataSet, engine: Engine, early: Mapping[str, Classifier]
) -> tuple[Resolved, str]:
    """Replace ``tau=auto`` in a run's settings by ``{auto: 0.47}``, what it gives for this teacher and data, and build the method.

    Args:
        early: the teachers that are loaded already.

    Returns:
        The run, and a line about what was measured; empty where nothing was.

    Raises:
        MmardError: for a teacher without such a temperature, and for an ``auto`` that is no parameter of the settings.
    """
    settings, told = resolved.settings, ""
    if not is_unknown(resolved.method):
        return resolved, told
    if leaves_open(settings.method):
        shape = len(data.train.classes), data.train.shape
        teacher = load_teachers(settings, resolved.given, early, shape)["teacher"]
        tau, told = _measured(teacher, data, engine, validation_batch(resolved.plan.batch_size))
        settings = settings.model_copy(update={"method": filled(settings.method, tau)})
    method = method_of(settings, resolved.threat)
    if is_unknown(method):
        raise MmardError(
            "tau=auto stands in the method's own code, where its value could not be kept; make it a parameter, "
            "build(tau: Tau = 1), and give it: method.tau=auto"
        )
    return replace(resolved, settings=settings, method=method), told


@torch.no_grad()
def _measured(teacher: Classifier, data: DataSet, engine: Engine, part: int) -> tuple[float, str]:
    teacher = teacher.to(engine.device).eval()
    few = some(data.train, IMAGES, seed=0).in_memory().to(engine.device)
    with full_precision():
        logits = torch.cat([teacher(few.batch(slice(i, i + part))[0]) for i in range(0, len(few), part)])
    tau = engine.greatest(temperature_for(logits))  # hosts may round otherwise
    at_tau, at_one = (float(losses.entropy(logits / t).mean()) for t in (tau, 1.0))
    seen = f"mean entropy on {len(few):,} training images is"
    if tau == 1:
        return tau, f"tau: auto is 1: the teacher's {seen} {at_one:.2f} nats, which is sharp enough"
    return tau, f"tau: auto is {tau:g}: the teacher's {seen} {at_tau:.2f} nats there, and {at_one:.2f} at 1"


def temperature_for(logits: Tensor) -> float:
    """Find the τ of ``auto`` from a teacher's logits on natural images (N, K): that of `mmard.diagnostics.teaching.advice`.

    Returns:
        The τ ≤ 1 at which the mean entropy is .35·log K nats, to four digits, which settings keep as they are; 1 where it is no
        higher as it is.

    Raises:
        MmardError: for a teacher whose entropy no τ from 0.01 on brings so low.
    """
    logits, aim = logits.double().cpu(), SOFT * math.log(logits.shape[1])
    tau = float(f"{temperature(logits, aim):.4g}")
    if (reached := float(losses.entropy(logits / tau).mean())) > aim * 1.01:
        raise MmardError(
            f"tau=auto: the teacher's mean entropy is {reached:.3g} nats even at tau {tau:g}, and {aim:.3g} is aimed at: it has no "
            "range to choose from; give a number, such as tau=1, or another teacher"
        )
    return tau


def filled(method: Any, tau: float) -> Any:
    """Replace each temperature ``auto`` in a method's spec by ``{auto: tau}``.

    >>> filled("mmard(rslad(tau=auto))", 0.5)
    {'name': 'mmard', 'base': {'name': 'rslad', 'tau': {'auto': 0.5}}}
    """
    if not isinstance(method, str | dict) or not leaves_open(method):
        return method
    spec = spec_of(method)
    changed = {key: {AUTO: tau} for key in NAMES if spec.get(key) == AUTO}
    return {**spec, **changed, **({"base": filled(spec["base"], tau)} if "base" in spec else {})}


def leaves_open(method: Any) -> bool:
    """Tell whether a method's spec has a temperature ``auto``."""
    return AUTO in _temperatures(method)


def as_measured(settings: Settings, begun: Settings) -> Settings:
    """Return the settings with the temperature that a run was begun with, where they say ``auto`` and are else the same."""
    for value in _temperatures(begun.method):
        if isinstance(value, dict) and filled(settings.method, value.get(AUTO, 1.0)) == begun.method:
            return settings.model_copy(update={"method": begun.method})
    return settings


def _temperatures(method: Any) -> Iterator[Any]:
    """Yield the temperatures in a method's spec, those of its bases too."""
    if isinstance(method, str | dict):
        spec = spec_of(method)
        yield from (spec[key] for key in NAMES if key in spec)
        yield from _temperatures(spec.get("base"))
