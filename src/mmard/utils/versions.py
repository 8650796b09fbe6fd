"""Versions of packages, for records and pages; a package that runs from its source has none, and says so."""

from importlib import metadata

FROM_SOURCE = "from source"


def version_of(package: str) -> str:
    """Return the installed version of a package, such as ``"0.2.0"``; ``"from source"`` for one that is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return FROM_SOURCE
