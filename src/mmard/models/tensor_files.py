"""Safetensors files with a digest of all they hold, so that a damaged file is never taken for a whole one."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, uint8

from mmard.utils.errors import MmardError
from mmard.utils.files import write_whole
from mmard.utils.safe_open import must_be_plain

DIGEST = "sha256"
"""Its key in the header's metadata."""


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None, *, make_folder: bool = True
) -> None:
    """Write a safetensors file in one step, with the digest of the tensors and of ``metadata`` in its header; see `write_whole`.

    Raises:
        MmardError: when the disk is full or not writable; the old file is untouched.
    """
    flat, seen = dict[str, Tensor](), set[int]()
    for name, t in tensors.items():
        plain = t.detach().cpu().contiguous()
        place = plain.untyped_storage().data_ptr()
        flat[name] = plain.clone() if place in seen else plain  # weights that two layers share stand under both names
        seen.add(place)
    header = {**(metadata or {}), DIGEST: digest_of(flat, metadata or {})}
    write_whole(path, lambda part: save_file(flat, part, metadata=header), make_folder=make_folder)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read the tensors and the metadata of a safetensors file, whose digest is checked where it carries one.

    Raises:
        MmardError: when the contents are not those that were written.
        SafetensorError, OSError: when the file is not there, or is no whole safetensors file.
    """
    must_be_plain(path)
    with safe_open(path, "pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118, it is no mapping
        metadata: dict[str, str] = f.metadata() or {}
    told = metadata.pop(DIGEST, None)
    if told is not None and told != digest_of(tensors, metadata):
        raise MmardError(
            f"{path} is damaged: its contents do not match the digest in its header; copy it again from where it came, "
            "or remove it and make it anew"
        )
    return tensors, metadata


def digest_of(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Compute the SHA-256 (hex) over the metadata and over name, type, shape and bytes of each tensor, in the order of names."""
    digest = hashlib.sha256(json.dumps(sorted(metadata.items())).encode())
    for name, t in (part for item in sorted(tensors.items()) for part in _unpacked(*item)):
        if not isinstance(t, Tensor):
            digest.update(json.dumps([name, str(t)]).encode())
            continue
        digest.update(json.dumps([name, str(t.dtype), list(t.shape)]).encode())
        digest.update(t.detach().cpu().contiguous().reshape(-1).view(uint8).numpy().data)
    return digest.hexdigest()


def _unpacked(name: str, value: object) -> Iterator[tuple[str, object]]:
    """Yield the parts of an entry, which a quantised module packs into tuples."""
    if isinstance(value, tuple):
        for number, part in enumerate(value):
            yield from _unpacked(f"{name}.{number}", part)
    else:
        yield name, value.dequantize() if isinstance(value, Tensor) and value.is_quantized else value
