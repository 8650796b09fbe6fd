"""Folders of pictures, one a class, in train/ and test/: finding the files and their classes."""

import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmard.data.labels import in_order
from mmard.utils.errors import MmardError, first_line

PARTS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Words by which a folder's name says its part, as in ``seg_train``."""
NEVER_MEANT = ("thumbs.db", "desktop.ini")


@dataclass
class Files:
    """The pictures of one part, in the order of their paths, and other files among them.

    Attributes:
        pictures: (path, class) of each.
        classes: the names of all the class folders, with the empty ones.
        others: files that are no pictures by their names.
    """

    pictures: list[tuple[str, str]] = field(default_factory=list)
    classes: set[str] = field(default_factory=set)
    others: list[Path] = field(default_factory=list)


def folder_splits(root: str, *, whole: bool = False) -> dict[str, Any]:
    """Read the parts of an image folder, as Hugging Face data sets with the columns image and label.

    Args:
        root: the folder with train/ and test/ in it.
        whole: there is a training part alone, in train/, or the class folders lie in ``root`` itself.

    A picture's class is the name of the folder it lies in. Classes are those of the training folders, in order of their
    names, or of their numbers where all are whole numbers.

    Raises:
        MmardError: where there are no such folders, and for a class without training pictures.
    """
    import datasets

    parts = _parts(root, whole)
    try:
        found = {part: _files(at) for part, at in parts.items()}
    except OSError as e:
        raise MmardError(f"{e.filename or root} cannot be read: {first_line(e)}") from e
    _must_agree(found, parts)
    place = {name: k for k, name in enumerate(in_order(found["train"].classes))}
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=list(place)))
    splits = {}
    for part, files in found.items():
        _tell(files)
        rows = {"image": [p for p, _ in files.pictures], "label": [place[c] for _, c in files.pictures]}
        splits[part] = datasets.Dataset.from_dict(rows, features=features, split=part)
    return splits


def _parts(root: str, whole: bool) -> dict[str, list[Path]]:
    """Find the folders of each part in ``root`` or in the only folder in it: the training part and the one to test on.

    Of a ``whole`` set, which has one part, the folder itself where none in it is named as a part.
    """
    at = Path(root).expanduser()
    if not at.is_dir():
        raise MmardError(
            f"cannot load data set 'imagefolder': there is no folder {root}; expected train/ and test/ in it"
        )
    while True:
        inside = _folders(at)
        found: dict[str, list[Path]] = {}
        for each in inside:
            words = set(re.split(r"[-._ 0-9]+", each.name.lower()))
            part = next((part for part, names in PARTS.items() if words & set(names)), None)
            if part is not None and not _holds_pictures(each):
                found.setdefault(part, []).append(each)
        if found or len(inside) != 1:
            break
        at = inside[0]
    if whole and (not found or set(found) == {"train"}):
        return {"train": _one_part(at, "train", found["train"]) if found else [at]}
    if "train" not in found or len(found) < 2:
        have = ", ".join(each.name for each in inside[:5]) or "no folders"
        raise MmardError(
            f"{root} holds {have}; expected train/ and test/ (or validation/) with one folder a class in each; where these "
            "are the classes, cut the test images off: data.test_split=0.2"
        )
    tested = "test" if "test" in found else "validation"
    return {part: _one_part(at, part, found[part]) for part in ("train", tested)}


def _one_part(at: Path, part: str, folders: list[Path]) -> list[Path]:
    """Choose the folders of a part: the one named as it and nothing more; else all, if they differ in their numbers alone."""
    plain = {each: re.sub(r"([-._ ]+[a-z]?)?\d+$", "", each.name.lower()) for each in folders}
    chosen = [each for each in folders if each.name.lower() in PARTS[part]] or folders
    if len({plain[each] for each in chosen}) > 1:
        raise MmardError(
            f"{at} has several folders for the {part} part: {', '.join(each.name for each in chosen[:5])}; expected one: move "
            "the others away, or put their pictures into it"
        )
    if left := [each.name for each in folders if each not in chosen]:
        named = ", ".join(each.name for each in chosen[:5])
        warnings.warn(f"{', '.join(left[:5])} in {at} are left out: the {part} part is {named}", stacklevel=2)
    return chosen


def _holds_pictures(at: Path) -> bool:
    """Tell whether a folder holds files alone, as that of a class does; a part holds classes."""
    return not _folders(at) and any(at.iterdir())


def _folders(at: Path) -> list[Path]:
    return sorted(each for each in at.iterdir() if each.is_dir() and not each.name.startswith((".", "__")))


def _files(roots: list[Path]) -> Files:
    import PIL.Image

    endings, files, lies_in = set(PIL.Image.registered_extensions()), Files(), dict[str, str]()
    for root in roots:
        for folder, inside, names in _walk(root):
            pictures = [name for name in names if Path(name).suffix.lower() in endings]
            if pictures and folder == root:
                raise MmardError(f"{root / pictures[0]} lies in no class folder; expected {root}/CLASS/{pictures[0]}")
            around = folder.parent.relative_to(root).as_posix() if pictures else ""
            if pictures and (other := lies_in.setdefault(folder.name, around)) != around:
                raise MmardError(
                    f"{root} has folders {folder.name!r} in {other}/ and in {around}/, and the innermost folder is the class: they "
                    "would be one; expected one folder a class: put both into one, or rename one"
                )
            if folder != root and (pictures or not inside):
                files.classes.add(folder.name)
            files.pictures += [(str(folder.absolute() / name), folder.name) for name in pictures]
            files.others += [folder / name for name in names if name not in pictures]
    files.pictures.sort()
    return files


def _walk(root: Path) -> Iterator[tuple[Path, list[Path], list[str]]]:
    """Yield each folder with its folders and file names, without hidden ones; a folder reached twice by links, once."""
    waiting, seen = [root], set()
    while waiting:
        folder = waiting.pop()
        if (real := folder.resolve()) in seen:
            continue
        seen.add(real)
        inside = _folders(folder)
        waiting += inside
        files = [each.name for each in folder.iterdir() if not each.is_dir()]
        yield folder, inside, [n for n in files if not n.startswith(".") and n.lower() not in NEVER_MEANT]


def _must_agree(found: dict[str, Files], parts: dict[str, list[Path]]) -> None:
    for part, files in found.items():
        if not files.pictures:
            raise MmardError(
                f"cannot load data set 'imagefolder': there are no pictures in class folders of {parts[part][0]}, the {part} part"
            )
    train = found["train"]
    learnt = {name for _, name in train.pictures}
    for part, files in found.items():
        if empty := sorted(files.classes - learnt):
            raise MmardError(
                f"the training set has no image of class {empty[0]!r}, which is a folder of the {part} part; "
                f"put pictures into {parts['train'][0]}/{empty[0]}, or remove the folder {empty[0]!r}"
            )


def _tell(files: Files) -> None:
    """Warn of files that are left out, and of pictures that may be there twice."""
    if files.others:
        warnings.warn(
            f"{len(files.others):,} files that are no pictures by their names are left out, such as {files.others[0]}",
            stacklevel=2,
        )
    stems: dict[str, str] = {}
    twice = [(stems[s], p) for p, _ in files.pictures if stems.setdefault(s := str(Path(p).with_suffix("")), p) != p]
    if twice:
        pair = " and ".join(Path(p).name for p in twice[0])
        warnings.warn(
            f"{len(twice):,} pictures have the name of another with another ending, such as {pair} in {Path(twice[0][0]).parent}: "
            "is one a copy of the other?",
            stacklevel=2,
        )
