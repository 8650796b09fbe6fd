"""Upload of a run to the Hugging Face hub: what `mmard push` does, for Python."""

import os
import re
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mmard.api.artifacts import keep_card
from mmard.models.formats import open_exported, suffixes
from mmard.runs.exports import EXPORTS, read_exports
from mmard.runs.folder import RunFolder
from mmard.utils.argument_types import public
from mmard.utils.errors import MmardError, first_line
from mmard.utils.files import sha256
from mmard.utils.packages import optional
from mmard.utils.portable_paths import portable
from mmard.utils.safe_open import must_be_itself
from mmard.utils.text_files import read_text

CARD = "README.md"
SECRET = re.compile(rb"\bhf_[A-Za-z0-9]{30,}|\b[a-z]{2,8}://[\w.-]+:[^\s/@:\x00-\x1f\x7f-\xff]+@[\w-]")
REPO = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")


@dataclass(frozen=True)
class Upload:
    """The files of a run for the hub.

    Attributes:
        repo: ``owner/name``.
        files: name in the repository → contents.
        url: where they are; empty while they are not.
    """

    repo: str
    files: Mapping[str, bytes]
    url: str = ""

    @property
    def card(self) -> str:
        """Return the text of the model card."""
        return self.files[CARD].decode()


@public
def push(run: str | Path, repo: str, *, private: bool = True, dry_run: bool = False) -> Upload:
    """Upload a run's card, best weights, settings and exported files to a model repository of the Hugging Face hub.

    It is made where there is none yet. No file names a folder of this machine. The token is that of the hub's own client
    (``hf auth login``, or ``HF_TOKEN``).

    Args:
        run: run folder.
        repo: ``OWNER/NAME``.
        private: whether a new repository is; one that is there stays what it is.
        dry_run: collect the files and upload nothing.

    Raises:
        MmardError: for a folder without weights, a name that is none, no token, and whatever the hub answers.
    """
    folder = RunFolder(run)
    if not REPO.fullmatch(repo):
        raise MmardError(f"{repo!r} is no repository of the hub; expected OWNER/NAME")
    upload = Upload(repo, _files(folder))
    return upload if dry_run else Upload(repo, upload.files, _sent(upload, private))


def _files(folder: RunFolder) -> dict[str, bytes]:
    """Collect the files, with relative paths inside."""
    settings = folder.settings()
    if not folder.best_file.is_file():
        raise MmardError(f"{folder.path} has no weights yet (best.safetensors); train it to its first validation")
    keep_card(folder.path)
    found = {CARD: read_text(folder.path / CARD).encode()}
    found["settings.yaml"] = yaml.safe_dump(portable(settings), sort_keys=False, allow_unicode=True).encode()
    named = [folder.best_file, folder.formula_file, *sorted(folder.path.glob("network*.py"))]
    old = _of_other_weights(folder)
    named += [] if old else [folder.path / EXPORTS]
    for path in (*named, *(path for path in _exported(folder.path) if path.name not in old)):
        if path.is_file():
            must_be_itself(path)
            if not path.resolve().is_relative_to(folder.path.resolve()):
                raise MmardError(
                    f"{path} is a link out of the run's folder; put the file itself there, or remove the link"
                )
            found[path.name] = path.read_bytes()
    for name, content in found.items():
        _must_name_no_folder(name, content, folder.path)
        _must_hold_no_secret(name, content)
    return found


def _of_other_weights(folder: RunFolder) -> set[str]:
    """Name the exported files that were made from other weights than the folder has now, with a warning of each."""
    record, best = read_exports(folder.path), sha256(folder.best_file)
    known = {row.file: row.weights for row in record.rows if row.file} if record else {}
    old = set[str]()
    for path in _exported(folder.path):
        made_from = known.get(path.name) or _made_from(path)
        if path.suffix != ".bin" and made_from not in (None, best):
            warnings.warn(
                f"{path.name} was exported from other weights than best.safetensors and is left out; mmard export writes it "
                "anew",
                stacklevel=2,
            )
            old |= {path.name, path.with_suffix(".bin").name}
    return old


def _made_from(path: Path) -> str | None:
    """Read the digest of the weights that an exported file was made from; None where it does not say, or cannot be opened."""
    with suppress(Exception):  # of a file that is none, or a package that is not here
        metadata: Any = open_exported(path, path.name).metadata
        return str(metadata["sha256"])
    return None


def _exported(folder: Path) -> list[Path]:
    """Find the exported files of a run; of .bin those alone that belong to an .xml of OpenVINO."""
    shown = [path for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
    return [p for p in shown if p.suffix in suffixes() or (p.suffix == ".bin" and p.with_suffix(".xml").is_file())]


def _must_hold_no_secret(name: str, content: bytes) -> None:
    """Raise MmardError where a file holds a token of the hub, or an address with a password in it."""
    if SECRET.search(content):
        raise MmardError(
            f"{name} holds a token or a password (hf_..., or NAME:PASSWORD@ in an address); take it out first"
        )


def _must_name_no_folder(name: str, content: bytes, run: Path) -> None:
    """Raise MmardError where a file names a folder of this machine."""
    for place in {Path.home(), Path.cwd(), run.resolve().parent} - {Path("/")}:
        if re.search(re.escape(os.fsencode(place)) + rb"[/\\]", content):
            raise MmardError(
                f"{name} names the folder {place} of this machine; export or write it anew before it is shared"
            )


def _sent(upload: Upload, private: bool) -> str:
    """Upload the files in one commit; returns the address of the repository."""
    hub = optional("huggingface_hub", "hub", "mmard push")
    if not hub.get_token():
        raise MmardError(
            "there is no token for the hub; make one with write access and run: hf auth login (or set HF_TOKEN)"
        )
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    adds = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in upload.files.items()
    ]
    try:
        made: Any = api.create_repo(upload.repo, private=private, exist_ok=True)
        api.create_commit(upload.repo, adds, commit_message="Upload a run of mmard")
    except Exception as e:  # the hub's client has a dozen kinds of failure
        raise MmardError(f"{upload.repo} was not uploaded to the hub: {_why(e)}") from e
    return str(made)


def _why(e: Exception) -> str:
    """Say why the hub refused, with the cure."""
    code = getattr(getattr(e, "response", None), "status_code", None)
    cures = {
        401: "the token is not valid; hf auth login makes another",
        403: "the token may not write there; expected a token with write access, and your name or organisation as OWNER",
        404: "there is no such owner or repository, or the token may not see it",
    }
    return cures.get(code or 0, f"{type(e).__name__}: {first_line(e)}")
