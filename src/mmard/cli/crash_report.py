"""Reports of unexpected errors: one line for the user, and a file for whoever mends it."""

import os
import platform
import shlex
import sys
import tempfile
import time
import traceback
from importlib import metadata
from pathlib import Path

PACKAGES = ("mmard", "torch", "lightning-fabric", "numpy", "pydantic", "pyautoattack", "safetensors", "typer", "rich")


def describe_fault(e: BaseException) -> str:
    """Describe in one line what happened, where the details are, and where to report it."""
    words = " ".join(str(e).split())[:200]
    what = f"{type(e).__name__}: {words}" if words else type(e).__name__
    file = keep_details(e)
    details = "its details could not be written" if file is None else f"details: {file}"
    return f"unexpected {what}; this is a fault of mmard, {details}; please report it {where_to_report()}"


def keep_details(e: BaseException) -> Path | None:
    """Write traceback, versions and the command line to a new file, here or in the temporary folder. No environment."""
    text = details_of(e)
    name = f"mmard-error-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.txt"
    for folder in (Path(), Path(tempfile.gettempdir())):
        try:
            with (folder / name).open("x", encoding="utf-8", errors="backslashreplace") as f:
                f.write(text)
        except OSError:
            continue
        return folder / name
    return None


def details_of(e: BaseException) -> str:
    """Collect what helps to find the fault."""
    versions = [f"Python {platform.python_version()}, {platform.platform()}"]
    for name in PACKAGES:
        try:
            versions.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{name} is not installed")
    command = shlex.join(["mmard", *sys.argv[1:]])
    return "\n".join([command, "", *versions, "", *traceback.format_exception(e)])


def where_to_report() -> str:
    """Name the address in the package's metadata; the maintainers, where they give none."""
    try:
        links = metadata.metadata("mmard").get_all("Project-URL") or []
    except metadata.PackageNotFoundError:
        links = []
    known = dict(link.split(", ", 1) for link in links if ", " in link)
    address = known.get("Issues") or known.get("Repository")
    return f"with that file at {address}" if address else "with that file to the mmard maintainers"
