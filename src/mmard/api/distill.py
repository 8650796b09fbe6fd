"""Distillation in one call: networks, images and a method in, a run folder out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import InstanceOf
from torch import nn

from mmard.api.train import train
from mmard.core.threat import Threat
from mmard.data.given import has_test, is_images
from mmard.runs.folder import RunFolder
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError
from mmard.utils.numbers import shortened

Network = InstanceOf[nn.Module] | str | Path
TEST_SPLIT = 0.1


@public
def distill(
    student: Network | dict[str, Any],
    teacher: Network | InstanceOf[RunFolder] | None,
    data: Any,
    method: str | dict[str, Any] = "mmard",
    threat: InstanceOf[Threat] | None = None,
    epochs: int | None = None,
    out: str | Path = "runs/run",
    **settings: Any,
) -> RunFolder:
    """Distil a student from a robust teacher; returns the run folder, which `mmard.evaluate`, `mmard.load_model` and reports take.

    Args:
        student: a name such as ``"resnet18"``, ``"timm:resnet10t"`` or ``"net.py:build"``, or a module, which is trained in place:
            images (B, C, H, W) in [0, 1] → logits (B, K), the first of a tuple, or ``.logits``.
        teacher: a run folder, weights or a card, a name as of the student with its weights after an @, or a module; None where the
            method needs none.
        data: the name or the settings of a data set (``mmard ls data``); or the images: arrays ``(x, y)``, a `torch` Dataset, a
            ``datasets.Dataset``, a pair ``(train, test)`` of these (`mmard.data.given.parts_of`). A tenth is cut off as test images
            where images come without (``data__test_split=0.1``).
        method: a name such as ``"rslad"`` or ``"awp(igdm(rslad))"``, or ``{name: ..., parameter: value}``.
        threat: the ball in which examples are made; None: L∞, 8/255.
        epochs: passes over the training images; None: 30.
        **settings: as `mmard.train` takes them: ``train__lr=0.05``, ``data__augment="crop+flip"``, ``teachers={"natural": net}``,
            ``resume=True``.

    Raises:
        MmardError: for any mistake in the input, before anything heavy runs where possible.
    """
    named: dict[str, Any] = {"student": student, "method": method, "out": out}
    named["teacher"] = teacher.path if isinstance(teacher, RunFolder) else teacher
    named |= ({} if epochs is None else {"train__epochs": epochs}) | _data(data, settings) | _threat(threat)
    if twice := sorted(named.keys() & {key.replace(".", "__") for key in settings}):
        raise MmardError(
            f"distill: {twice[0].replace('__', '.')} is given by an argument and as a setting; give it once"
        )
    return train(**named, **settings)


def _data(data: object, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `mmard.train` takes for the data.

    Raises:
        MmardError: for what is neither a name, nor settings, nor images.
    """
    if is_images(data):
        cut = {} if has_test(data) or "data__test_split" in settings else {"data__test_split": TEST_SPLIT}
        return {"data": data, **cut}
    if isinstance(data, Mapping):
        return {f"data__{key}": value for key, value in data.items()}
    if isinstance(data, str | Path):
        return {"data__name": str(data)}
    raise MmardError(f"distill: data is {shortened(data)}, expected a name, settings, or images such as (x, y)")


def _threat(threat: Threat | None) -> dict[str, Any]:
    """Return what `mmard.train` takes for the threat."""
    if threat is None:
        return {}
    if (threat.lower, threat.upper) != (0.0, 1.0):
        raise MmardError(f"distill: the threat's pixels are in [{threat.lower:g}, {threat.upper:g}], expected [0, 1]")
    return {"threat__eps": threat.eps, "threat__norm": threat.norm}
