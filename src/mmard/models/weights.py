"""Weights on disk: our own describe themselves; others' are read without running any code."""

import json
import os
import pickle
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor, nn

from mmard.core.errors import MmardError, first_line
from mmard.core.files import load_safely
from mmard.core.reading import parse_json
from mmard.models.students import Architecture, Classifier, build
from mmard.models.tensors import load_tensors, save_tensors

UNUSED = ("sub_block1.",)  # a block that the TRADES code builds and never calls
WRAPPERS = ("state_dict", "model_state_dict", "model", "net")


def save_weights(path: Path, model: Classifier, facts: dict[str, Any] | None = None) -> None:
    """Write a safetensors file with the architecture, ``facts`` (class names, threat ...) and a digest of all in its header."""
    header = {"architecture": json.dumps(asdict(model.architecture)), "facts": json.dumps(facts or {})}
    save_tensors(path, model.state_dict(), header)


def load_weights(path: Path) -> Classifier:
    """The classifier that `save_weights` wrote.

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


def facts_of(path: Path) -> dict[str, Any]:
    """What `save_weights` was told of these weights; nothing, for a file from elsewhere."""
    header = _header(path).get("facts", "{}") if path.suffix == ".safetensors" else "{}"
    try:
        facts = parse_json(header, f"the header of {path}")
    except MmardError:
        return {}
    return facts if isinstance(facts, dict) else {}


def describes_itself(path: Path) -> bool:
    """Was this file written by `save_weights`?"""
    return path.suffix == ".safetensors" and "architecture" in _header(path)


def _header(path: Path) -> dict[str, str]:
    try:
        stat = path.stat()
        return _checked_header(path, (stat.st_mtime_ns, stat.st_size, stat.st_ino))
    except (SafetensorError, OSError) as e:
        if path.exists() and not os.access(path, os.R_OK):
            raise MmardError(f"{path} may not be read; change its permissions") from e
        raise MmardError(f"{path} is no whole safetensors file ({first_line(e)}); is it truncated?") from e


@lru_cache(maxsize=64)
def _checked_header(path: Path, _: tuple[int, ...]) -> dict[str, str]:
    """Read the metadata, which the digest covers together with the tensors: once, as long as the file stays what it is."""
    return load_tensors(path)[1]


def read_state(path: Path) -> dict[str, Tensor]:
    """A state dict from safetensors or from a PyTorch file, which is read with ``weights_only``: it can run no code."""
    try:
        if path.suffix == ".safetensors":
            return load_tensors(path)[0]
        raw = load_safely(path)
    except MmardError:  # it is damaged
        raise
    except pickle.UnpicklingError as e:
        raise MmardError(
            f"{path} refused: it is no file of weights, or holds more than weights and could run code when loaded"
        ) from e
    except Exception as e:  # whatever a file that is no weights makes the readers say
        raise MmardError(f"{path} cannot be read as weights; is it truncated? ({first_line(e)})") from e
    for key in WRAPPERS:
        if isinstance(raw, dict) and isinstance(raw.get(key), dict):
            raw = raw[key]
            break
    if (
        not isinstance(raw, dict)
        or not raw
        or not all(isinstance(k, str) and isinstance(t, Tensor) for k, t in raw.items())
    ):
        raise MmardError(f"{path} holds no weights; expected names with tensors")
    return {name.removeprefix("module."): t for name, t in raw.items()}


def fit(model: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load ``state`` into ``model``; whatever does not fit is one line naming the first misfit."""
    own = model.state_dict()
    state = {k: t for k, t in state.items() if not k.startswith(UNUSED)}
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    foreign = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    for fault, names in (("lacks", missing), ("has the unknown", foreign)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise MmardError(f"{source} {fault} {names[0]}{more}; is it another architecture?")
    if shapes:
        k = shapes[0]
        raise MmardError(
            f"{source}: {k} has shape {tuple(state[k].shape)}, expected {tuple(own[k].shape)}; "
            "another width, or another number of classes?"
        )
    model.load_state_dict(state, strict=False)
