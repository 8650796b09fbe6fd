"""WebDataset shards: tar files in which a picture and its label share a name, such as 0001.jpg and 0001.cls."""

import json
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from mmard.data.columns import LABEL_COLUMNS, text_labels
from mmard.data.parts import Table
from mmard.utils.errors import MmardError, first_line

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "ppm", "pgm", "gif")
LABELS = ("cls", "label", "index", "txt")
IN_JSON = (*LABEL_COLUMNS, "cls", "class", "class_id", "target", "y")
LARGEST = 1 << 28  # bytes of a picture
MOST_SHARDS = 100_000


def expanded(pattern: str) -> list[str]:
    """Write out the numbers in braces as WebDataset has them.

    >>> expanded("a-{008..010}.tar")
    ['a-008.tar', 'a-009.tar', 'a-010.tar']
    """
    if not (found := re.search(r"\{(\d+)\.\.(\d+)\}", pattern)):
        return [pattern]
    first, last = found.groups()
    if not 0 <= int(last) - int(first) < MOST_SHARDS:
        raise MmardError(
            f"{pattern} names {int(last) - int(first) + 1:,} shards, expected 1 to {MOST_SHARDS:,}; write it anew"
        )
    numbers = (str(k).zfill(len(first)) for k in range(int(first), int(last) + 1))
    return [one for k in numbers for one in expanded(pattern[: found.start()] + k + pattern[found.end() :])]


def sharded(files: list[str], label: str | None, split: str) -> Table:
    """Read shards: the pictures go to the cache of the ``datasets`` library, once, and are decoded when they are used.

    Nothing is unpacked beside that cache, and only pictures, and labels as text or JSON, are read.

    Args:
        label: the ending of the file that holds the label (``cls``), or the key in the .json; None: a usual one.
        split: its name in messages.

    Raises:
        MmardError: for a file that is no tar file, and a picture without a label.
    """
    import datasets

    stamps = [(str(Path(f).absolute()), Path(f).stat().st_size, Path(f).stat().st_mtime_ns) for f in files]
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    try:
        rows = datasets.Dataset.from_generator(
            _samples, features, gen_kwargs={"stamps": stamps, "label": label}, split=datasets.NamedSplit(split)
        )
    except Exception as e:  # the library wraps whatever the generator raises
        cause: BaseException | None = e
        while cause is not None and not isinstance(cause, MmardError):
            cause = cause.__cause__ or cause.__context__
        raise cause or MmardError(f"the shards {files[0]} ... cannot be read: {first_line(e)}") from e
    y, names = text_labels(rows["label"][:], f"labels of {files[0]}")
    return Table(rows.select_columns(["image"]), "image", y, names, not names, torch.arange(len(y)))


def _samples(stamps: list[tuple[str, int, int]], label: str | None) -> Iterator[dict[str, Any]]:
    """Yield the picture and the label of each sample of the shards; the stamps name their state for the library's cache."""
    count = 0
    for path, _, _ in stamps:
        for key, members in groupby(_members(path), key=lambda member: member[0]):
            found = {ending: content for _, ending, content in members}
            pictures = [ending for ending in found if ending in PICTURES]
            _must_lose_no_picture(found, bool(pictures), f"{path}: {key}")
            if not pictures:
                continue
            name = f"{key}.{pictures[0]}"
            count += 1
            yield {
                "image": {"path": name, "bytes": found[pictures[0]]},
                "label": _label(found, label, f"{path}: {key}"),
            }
    if not count:
        raise MmardError(f"there are no pictures in {stamps[0][0]} ...; expected pairs such as 0001.jpg and 0001.cls")


def _must_lose_no_picture(found: dict[str, bytes], has_own: bool, where: str) -> None:
    """Raise MmardError for a picture with a dot in its name that has a label of its own, or is the sample's only one.

    Others, such as a mask, are no samples and are passed over.
    """
    for ending in found:
        name, _, kind = ending.rpartition(".")
        labelled = any(f"{name}.{label}" in found for label in (*LABELS, "json"))
        if name and kind in PICTURES and (labelled or not has_own):
            raise MmardError(
                f"{where} has the picture {ending!r}, and in a shard the name of a sample ends at its first dot; write names "
                "without dots"
            )


def _members(path: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield the key, the ending and the content of each plain file in a tar file that is a picture or a label."""
    try:
        with tarfile.open(path, "r|*") as shard:
            for member in shard:
                folder, _, name = member.name.rpartition("/")
                stem, _, ending = name.partition(".")
                if not stem or not member.isreg() or member.issparse():
                    continue
                if member.size > LARGEST:
                    raise MmardError(f"{path}: {member.name} has {member.size:,} bytes, expected a picture or a label")
                content = shard.extractfile(member)
                assert content is not None  # a plain file has contents
                yield f"{folder}/{stem}".lstrip("/"), ending.lower(), content.read()
    except (tarfile.TarError, EOFError, OSError, ValueError) as e:
        raise MmardError(f"{path} is no whole tar file ({first_line(e)}); write or download it again") from e


def _label(found: dict[str, bytes], asked: str | None, where: str) -> str:
    """Find a sample's label, by the ending of its file or by its key in the .json."""
    ending = asked if asked in found else next((e for e in LABELS if e in found and asked is None), None)
    if ending is not None:
        return found[ending].decode("utf-8", "replace").strip()
    if "json" in found:
        try:
            told = json.loads(found["json"])
        except ValueError as e:
            raise MmardError(f"{where}.json is no JSON ({first_line(e)})") from e
        keys = [asked] if asked else IN_JSON
        value = next((told[key] for key in keys if isinstance(told, dict) and key in told), None)
        if isinstance(value, str | int | float):
            return str(value)
    raise MmardError(
        f"{where} has the files {', '.join(sorted(found))} and no label; expected .cls, or .json with a label, or name it: "
        "data.label=ENDING_OR_KEY"
    )
