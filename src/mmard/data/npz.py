"""Arrays in .npz files: read without running code, from a stored file as they lie on disk."""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmard.utils.errors import MmardError, first_line
from mmard.utils.safe_open import must_be_itself


class NpzFile(Mapping[str, NDArray[Any]]):
    """The arrays of an .npz file by name, each read when it is asked for.

    Arrays that are stored without compression, as `numpy.savez` does, are mapped from the file: a million images cost no memory
    but that of the rows in use.

    Args:
        path: the file.

    Raises:
        MmardError: for what is no such file, also from reading an array that is damaged or holds pickled objects.
    """

    def __init__(self, path: Path) -> None:
        must_be_itself(path)
        self.path = path
        if not path.exists():
            raise MmardError(f"there is no file {path}; expected an .npz file, as numpy.savez writes it")
        try:
            with zipfile.ZipFile(path) as file:
                self._members = {info.filename.removesuffix(".npy"): info for info in file.infolist()}
        except (zipfile.BadZipFile, OSError, NotImplementedError) as e:
            raise MmardError(
                f"{path} is no .npz file ({first_line(e)}); write one by numpy.savez(path, x=..., y=...)"
            ) from e

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)

    def __getitem__(self, name: str) -> NDArray[Any]:
        info = self._members[name]
        try:
            with zipfile.ZipFile(self.path) as file, file.open(info) as member:
                version = np.lib.format.read_magic(member)
                header = (
                    np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                )
                shape, fortran, kind = header(member)
                begin = member.tell()
                if kind.hasobject:
                    raise MmardError(
                        f"{self.path}: {name!r} holds pickled Python objects, whose reading may run code; save numbers or text: "
                        f"numpy.savez(path, {name}=numpy.array(list({name})))"
                    )
                if info.compress_type == zipfile.ZIP_STORED and int(np.prod(shape)):
                    return self._mapped(file, info, begin, shape, fortran, kind)
            with np.load(self.path, allow_pickle=False) as whole:
                found: NDArray[Any] = whole[name]
                return found
        except MmardError:
            raise
        except (
            Exception
        ) as e:  # zipfile, zlib and numpy have their own kinds of failure; all mean that the file is damaged
            raise MmardError(f"{self.path}: {name!r} cannot be read ({first_line(e)}); write the file again") from e

    def _mapped(
        self, file: zipfile.ZipFile, info: zipfile.ZipInfo, begin: int, shape: tuple[int, ...], fortran: bool, kind: Any
    ) -> NDArray[Any]:
        """Map a stored array: it begins so many bytes after the local header of its member, which has a length of its own."""
        with self.path.open("rb") as raw:
            raw.seek(info.header_offset)
            local = raw.read(30)
        lengths = int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")
        at = info.header_offset + 30 + lengths + begin
        if at + int(np.prod(shape)) * kind.itemsize > self.path.stat().st_size:
            raise MmardError(f"{self.path} is cut off within {info.filename!r}; write or download it again")
        order: Any = "F" if fortran else "C"
        return np.memmap(self.path, kind, "r", at, shape, order)
