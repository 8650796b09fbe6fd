"""Trust: what may run code, be fetched or be read, by whether the user's own command names it."""

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmard.utils.errors import MmardError
from mmard.utils.files import sha256
from mmard.utils.text_files import read_text

_KNOWN: set[str] = set()
"""Places that this process has used; their files in `state_folder` may be impossible to write."""
_CODE: dict[str, Path] = {}
"""SHA-256 → where a file of code lies that this process has run functions of."""


class UntrustedError(MmardError):
    """The settings of others name something for which the user has not vouched."""


@dataclass(frozen=True)
class Trust:
    """The user's trust in what settings name: code, files, data sets, teachers.

    Attributes:
        everything: ``--trust``: all of it.
        own: words of the user's own command: methods, files, data sets, teachers.
        folder: of the run folder or the weights that the settings were found in: what they name outside of it, on this machine or
            on the network, has to be vouched for. None: a recipe or a command of the user, who names data by naming it.
    """

    everything: bool = False
    own: frozenset[str] = frozenset()
    folder: Path | None = None

    def also(self, own: Iterable[str] = (), *, everything: bool = False) -> "Trust":
        """Add words of the user's own command, or trust everything."""
        return replace(self, own=self.own | frozenset(own), everything=self.everything or everything)

    def must_allow_code(self, name: str, what: str = "method") -> None:
        """Raise MmardError unless ``name``, a method, a network or data from outside this package, may be imported.

        Raises:
            MmardError: where it comes from a file, and neither the command nor ``--trust`` vouches for it.
        """
        if not self.everything and name not in self.own:
            word = f"--method {name}" if what == "method" else f"{what}={name}"
            raise UntrustedError(
                f"the settings name the {what} {name}, which is not of this package: to build it runs its code; if you know "
                f"that code, give --trust (Python: trust=True), or name it yourself: {word}"
            )

    def must_allow_builder(self, name: str, what: str, parameters: Mapping[str, Any], kept: Path | None = None) -> str:
        """Raise MmardError unless the function ``name`` may build a network or data; remember it, that it may run again.

        To have run one function of a file vouches for no other, nor for other files and addresses in its parameters.

        Args:
            name: ``file.py:build`` or ``package.module:build``.
            what: ``student``, ``teacher``, ``data.name``, for the error.
            parameters: those that the settings give it.
            kept: a run's copy of the file, for where there is none at its place any more.

        Returns:
            The SHA-256 of the file; empty for a module.
        """
        place, _, _ = name.rpartition(":")
        self.must_allow_places_in(parameters, "data.parameters" if what == "data.name" else what)
        if not place.endswith(".py"):
            if not is_vouched(name):
                self.must_allow_code(name, what)
            _remember(_call(name, ""))
            return ""
        file = Path(place).expanduser()
        named = file.is_file() or kept is None or not kept.is_file()
        if not named and kept is not None:
            file = kept
        if not file.is_file():
            raise MmardError(f"there is no file {file}")
        digest = sha256(file)
        if not is_vouched(name, digest):
            (self if named else replace(self, own=frozenset())).must_allow_code(name, what)
        vouch_for_code(name, digest, file)
        return digest

    def must_allow_places_in(self, value: Any, what: str) -> None:
        """Raise MmardError where a parameter is an address, or a file or folder that is there, which may not be read."""
        if isinstance(value, str) and ("://" in value or os.path.lexists(Path(value).expanduser())):
            self.must_allow_place(value, what)
        elif isinstance(value, Mapping):
            for key, part in value.items():
                self.must_allow_places_in(part, f"{what}.{key}")
        elif isinstance(value, list | tuple):
            for part in value:
                self.must_allow_places_in(part, what)

    def must_allow_place(self, place: str, what: str, *, leads_on: bool = False) -> None:
        """Raise MmardError unless a place (a path, an address, or ``hub://owner/name``) may be read; remember an allowed one.

        A place that settings of foreign weights name may be read where it lies in their folder, where the command names it,
        and where this user has used it before, in any run.

        Args:
            leads_on: it may name other places, by paths or links in it, so that to lie in the folder is not enough.

        Raises:
            MmardError: for any other, before anything is read or fetched.
        """
        if self.folder is not None and not leads_on and _lies_in(place, self.folder):
            return
        word = place.removeprefix("hub://").removeprefix("network://")
        where = "which may lead out of that folder" if leads_on else "outside of that folder"
        if self.folder is not None and not self.everything and word not in self.own and not _is_known(place):
            raise UntrustedError(
                f"the settings in {self.folder} name {what}={word}, {where}, and which you have not used "
                f"before; if it is what you want, name it yourself: {what}={word}, or give --trust (Python: trust=True)"
            )
        _remember(place)


def state_folder() -> Path:
    """Return the folder that remembers this user's places: ``$XDG_STATE_HOME/mmard``, else ``~/.local/state/mmard``."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path("~/.local/state").expanduser()) / "mmard" / "places"


def remember_file(digest: str, path: Path) -> None:
    """Remember where a file with this SHA-256 lies, for this user's later commands."""
    with suppress(OSError):
        (state_folder() / digest).unlink(missing_ok=True)  # it may lie elsewhere by now
    _keep(state_folder() / digest, str(path.resolve()))


def known_file(digest: str) -> Path | None:
    """Find the file with this SHA-256 that the user exported from, which may have changed since; None where not known."""
    kept = state_folder() / digest
    try:
        return Path(read_text(kept).strip()) if re.fullmatch("[0-9a-f]{64}", digest) and kept.is_file() else None
    except MmardError:
        return None


def vouch_for_code(name: str, digest: str, file: Path) -> None:
    """Remember that the user runs ``name``, a function of this file: it may run again, wherever the same code lies."""
    _remember(_call(name, digest))
    _CODE[digest] = file.resolve()
    with suppress(OSError):
        (state_folder() / f"code-{digest}").unlink(missing_ok=True)  # it may lie elsewhere by now
    _keep(state_folder() / f"code-{digest}", str(file.resolve()))


def is_vouched(name: str, digest: str = "") -> bool:
    """Tell whether the user has run this function before: ``package.module:build``, or one of a file with this SHA-256."""
    return _is_known(_call(name, digest))


def vouched_code(name: str, digest: str) -> Path | None:
    """Find the file of a function that the user has run; None where it is gone, or its contents are others by now."""
    if not is_vouched(name, digest):
        return None
    try:
        found = _CODE.get(digest) or Path(read_text(state_folder() / f"code-{digest}").strip())
        return found if found.is_file() and sha256(found) == digest else None
    except (MmardError, OSError):
        return None


def inside(folder: Path, name: str) -> Path:
    """Find the file ``name`` in ``folder``.

    Raises:
        MmardError: for an absolute path, and one that leads out of the folder.
    """
    path = Path(name)
    if path.is_absolute() or ".." in path.parts or name.startswith("~"):
        raise MmardError(f"{name!r} leads out of {folder}; expected a file in it")
    return folder / path


def _call(name: str, digest: str) -> str:
    """Name a function for `_remember`: one of a file by the file's contents, wherever they lie."""
    return f"code://{digest}:{name.rpartition(':')[2]}" if digest else f"code://{name}"


def _key(place: str) -> str:
    """Normalise a place: addresses as they stand, paths from the root."""
    return place if "://" in place else os.path.abspath(Path(place).expanduser())  # noqa: PTH100, links stay as named


def _lies_in(place: str, folder: Path) -> bool:
    if "://" in place or any(letter in place for letter in "*?[{"):  # a pattern may match a link that leads elsewhere
        return False
    return Path(place).expanduser().resolve().is_relative_to(folder.resolve())


def _file(place: str) -> Path:
    return state_folder() / hashlib.sha256(_key(place).encode()).hexdigest()


def _is_known(place: str) -> bool:
    return _key(place) in _KNOWN or _file(place).is_file()


def _remember(place: str) -> None:
    """Remember the place for this user's later commands; on a disk that cannot be written, for this process."""
    _KNOWN.add(_key(place))
    _keep(_file(place), _key(place))


def _keep(file: Path, text: str) -> None:
    with suppress(OSError):
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            file.write_text(text + "\n", encoding="utf-8")
