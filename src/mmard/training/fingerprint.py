"""The identity of a run: whatever changes a result, in the checkpoint, so that no other run resumes from it."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from mmard.core.method import Method
from mmard.core.threat import Threat
from mmard.data.images import Images, ImageSet
from mmard.models.architectures import Classifier
from mmard.models.tensor_files import digest_of
from mmard.runs.folder import changes, listed
from mmard.utils.errors import MmardError

SAID_SINCE = (
    (r", the student in training mode", ""),
    (r"(?<=before they descend) from .* on", ""),
    (r"(, learning rate \S+) from .* on(?=\n|$)", r"\1"),
    (r", learning rate \S+(?=\n|$)", ""),
    (r"( from \S+) of the run on", r"\1 on"),
    (r" from epoch (\S+) on", r" from \1 on"),
    (r"5·\((H\S*\(T\(x'\)\)) − min\)", r"\1"),
    (r"w/max w", "w/log K"),
    (r"(T\u0303\(x'?\))\^[\d.→()]+", r"\1"),
)
"""What formulas say since 0.3, and what stood there before."""
MARKED = r"(InfoNCE\(S\(x\),S\(x'\),T(?:\(x\))?; τ=[\d.]+\)|way\(x'\)) \[T\^[^]]*\]"
"""Terms that no temperature changes, with the mark of one that they had before."""


def identity_of(
    *,
    student: nn.Module,
    teachers: Mapping[str, nn.Module],
    method: Method,
    threat: Threat,
    images: ImageSet,
    **others: Any,
) -> dict[str, Any]:
    """Describe a run that has not begun, in plain values by the names of the settings.

    Args:
        student, teachers, method, images: the networks, the method and the training set.
        **others: further settings, in plain values; what is None in ``data`` is left out.
    """
    labels = hashlib.sha256(images.labels.cpu().contiguous().numpy().tobytes())
    given = {name: value for name, value in others.get("data", {}).items() if value is not None}
    seen = {"images": len(images), "shape": list(images.shape), "classes": list(images.classes)}
    found = {
        **others,
        "method": re.sub(r" at 0x[0-9a-f]+", "", str(method)),
        "threat": asdict(threat),
        "student": student.architecture.facts() if isinstance(student, Classifier) else type(student).__name__,
        "teachers": {name: digest_of(net.state_dict(), {})[:16] for name, net in teachers.items()},
        "data": {**seen, "labels": labels.hexdigest()[:16], **given},
    }
    plain: dict[str, Any] = json.loads(json.dumps(found))  # as it comes back from a checkpoint
    return plain


def digest_of_pixels(images: ImageSet) -> str | None:
    """Hash images in memory, which no name stands for; None for a stream."""
    if not isinstance(images, Images):
        return None
    return hashlib.sha256(images.pixels.cpu().contiguous().numpy().tobytes()).hexdigest()[:16]


def _as_said_then(identity: dict[str, Any], told: dict[str, Any]) -> dict[str, Any]:
    """Write a method's formula as an earlier version did, where the other one has nothing of what is said since."""
    formula, theirs = str(identity.get("method", "")), str(told.get("method", ""))
    for said, before in SAID_SINCE if formula != theirs else ():
        formula = formula if re.search(said, theirs) else re.sub(said, before, formula)
    return {**identity, "method": formula}


def must_be_of(identity: dict[str, Any], told: dict[str, Any] | None, file: Path, allowed: Collection[str]) -> None:
    """Raise MmardError for the checkpoint of another run, naming what differs.

    Args:
        told: the identity in the checkpoint; None: an old one without it.
        allowed: keys that may differ.
    """
    told = told or identity
    told = {**told, "method": re.sub(MARKED, r"\1", str(told.get("method", "")))}
    if "pixels" not in told.get("data", {}):  # an older version's checkpoint
        identity = {**identity, "data": {k: v for k, v in identity.get("data", {}).items() if k != "pixels"}}
    changed = changes(told, _as_said_then(identity, told))
    if other := {key: pair for key, pair in changed.items() if key not in allowed}:
        raise MmardError(
            f"{file} is of a run with other settings: {listed(other)}; choose another out=, or remove it to start anew"
        )
