"""Weights of this package on disk, which describe themselves; others' are read by `mmard.models.checkpoints`."""

import json
import os
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from mmard.models.architectures import Architecture, Classifier, build
from mmard.models.checkpoints import fit, read_checkpoint
from mmard.models.tensor_files import load_tensors, save_tensors
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import state_of
from mmard.utils.portable_paths import portable
from mmard.utils.text_files import parse_json


def save_weights(
    path: Path, model: Classifier, metadata: dict[str, Any] | None = None, *, make_folder: bool = True
) -> None:
    """Write a safetensors file with the architecture, ``metadata`` (class names, threat ...) and a digest of all in its header.

    Weights are shared, so the settings in the metadata name no folder of this machine.
    """
    told = {key: portable(fact) if key in ("settings", "teachers") else fact for key, fact in (metadata or {}).items()}
    header = {"architecture": json.dumps(asdict(model.architecture)), "facts": json.dumps(told)}
    save_tensors(path, model.state_dict(), header, make_folder=make_folder)


def load_weights(path: Path) -> Classifier:
    """Load the classifier that `save_weights` wrote.

    Raises:
        MmardError: for a truncated or damaged file, or one from elsewhere (those need a card).
    """
    if not describes_itself(path):
        raise MmardError(f"{path} does not say its architecture; write a card for it (docs/teachers.md)")
    try:
        given = parse_json(_header(path)["architecture"], f"the header of {path}")
        model = build(Architecture(**{**given, "mean": tuple(given["mean"]), "std": tuple(given["std"])}))
    except (ValueError, TypeError, KeyError) as e:
        raise MmardError(f"{path} was not written by this package ({first_line(e)}); write a card for it") from e
    fit(model, read_state(path), path)
    return model


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file by name, or those of a PyTorch file that holds a state dict and nothing else."""
    raw = read_checkpoint(path)
    if not isinstance(raw, dict) or not all(isinstance(t, Tensor) for t in raw.values()):
        raise MmardError(f"{path} holds more than names with tensors; load it by a card (docs/teachers.md)")
    return raw


def metadata_of(path: Path) -> dict[str, Any]:
    """Read the metadata that `save_weights` was given; empty for a file from elsewhere."""
    return _in_header(path, "facts")


def architecture_facts(path: Path) -> dict[str, Any]:
    """Read the architecture from the header, unchecked; empty for a file from elsewhere."""
    return _in_header(path, "architecture")


def _in_header(path: Path, key: str) -> dict[str, Any]:
    """Read an object of the header; an empty one where there is none, or where it is no JSON object."""
    text = _header(path).get(key, "{}") if path.suffix == ".safetensors" else "{}"
    try:
        found = parse_json(text, f"the header of {path}")
    except MmardError:
        return {}
    return found if isinstance(found, dict) else {}


def describes_itself(path: Path) -> bool:
    """Tell whether the file was written by `save_weights`."""
    return path.suffix == ".safetensors" and "architecture" in _header(path)


def _header(path: Path) -> dict[str, str]:
    try:
        return _checked_header(path, state_of(path))
    except (SafetensorError, OSError) as e:
        if path.exists() and not os.access(path, os.R_OK):
            raise MmardError(f"{path} may not be read; change its permissions") from e
        raise MmardError(f"{path} is no whole safetensors file ({first_line(e)}); is it truncated?") from e


@lru_cache(maxsize=64)
def _checked_header(path: Path, _: tuple[int, ...]) -> dict[str, str]:
    """Read the metadata, which the digest covers together with the tensors: once, as long as the file stays what it is."""
    return load_tensors(path)[1]
