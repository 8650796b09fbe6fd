"""Weights of this package on disk, which describe themselves; others' are read by `mmard.models.checkpoints`."""

import json
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from mmard.models.architectures import Architecture, Classifier, build
from mmard.models.checkpoints import fit, read_checkpoint
from mmard.models.tensor_files import load_tensors, save_tensors
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import sha256, state_of, write_whole
from mmard.utils.portable_paths import portable
from mmard.utils.text_files import parse_json
from mmard.utils.trust import Trust, is_vouched, vouch_for_code, vouched_code

CODE = "network.py"
"""The file in a run folder with the user's own code that builds the network."""


def save_weights(
    path: Path, model: Classifier, metadata: dict[str, Any] | None = None, *, make_folder: bool = True
) -> None:
    """Write a safetensors file with the architecture, ``metadata`` (class names, threat ...) and a digest of all in its header.

    Weights are shared, so the settings in the metadata name no folder of this machine.
    """
    told = {key: portable(fact) if key in ("settings", "teachers") else fact for key, fact in (metadata or {}).items()}
    header = {"architecture": json.dumps(model.architecture.facts()), "facts": json.dumps(told)}
    save_tensors(path, model.state_dict(), header, make_folder=make_folder)
    keep_code(path.parent, model.architecture)


def load_weights(path: Path, *, trust: bool = False) -> Classifier:
    """Load the classifier that `save_weights` wrote.

    Args:
        trust: run the code of the network beside the weights, though this user has never run it.

    Raises:
        MmardError: for a truncated or damaged file, or one from elsewhere (those need a card).
    """
    if not describes_itself(path):
        raise MmardError(f"{path} does not say its architecture; write a card for it (docs/teachers.md)")
    try:
        given = parse_json(_header(path)["architecture"], f"the header of {path}")
        architecture = Architecture.from_facts(given)
        _may_run(architecture, path, trust)
        model = build(architecture, fresh=False)
    except (ValueError, TypeError, KeyError) as e:
        raise MmardError(f"{path} was not written by this package ({first_line(e)}); write a card for it") from e
    fit(model, read_state(path), path)
    return model


def keep_code(folder: Path, architecture: Architecture) -> None:
    """Copy the user's code that builds a network to its weights: as ``network.py``, or under a further name where that is taken."""
    code = architecture.code
    if not code or code_beside(folder, code):
        return
    if (source := vouched_code(architecture.name, code)) is None:
        raise MmardError(f"{architecture.name} is not the code any more that this run began with; put it back")
    target = folder / CODE if not (folder / CODE).exists() else folder / f"network-{code[:8]}.py"
    write_whole(target, lambda part: part.write_bytes(source.read_bytes()), make_folder=False)


def code_beside(folder: Path, digest: str) -> Path | None:
    """Find the code of this SHA-256 in a folder of weights; None where it is not there."""
    return next(
        (file for file in sorted(folder.glob("network*.py")) if file.is_file() and sha256(file) == digest), None
    )


def _may_run(architecture: Architecture, path: Path, trust: bool) -> None:
    """Raise MmardError unless this user has run before, or trusts now, the code that builds the network, and what it fetches."""
    spec, code = architecture.spec, architecture.code
    vouched = Trust(everything=trust, folder=path.parent)
    if spec.fetches:
        vouched.must_allow_place(f"network://{spec.name}", "student")
    if not spec.is_code:
        return
    if spec.kind == "module":
        vouched.must_allow_builder(spec.name, "student", spec.parameters)
        return
    file, known = code_beside(path.parent, code), vouched_code(spec.name, code)
    if file is None and known is None:
        raise MmardError(
            f"{path} is of the network {spec.name}, whose code is not beside it; put that file there, as {CODE}, unchanged"
        )
    if file is not None and not (trust or is_vouched(spec.name, code)):
        raise MmardError(
            f"{path} is of a network that {file} builds, and you have not run {spec.name} of that code before; if you know "
            "it, give --trust (Python: trust=True)"
        )
    vouched.must_allow_places_in(spec.parameters, "student")
    if file is not None:
        vouch_for_code(spec.name, code, file)


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
