"""Recipes on disk: those of the package by name, others by their path."""

from pathlib import Path

from mmard.utils.errors import MmardError, unknown
from mmard.utils.layout import must_be_readable


def recipe_folders() -> list[Path]:
    """Where recipes live: in the installed package, or in the repository's ``recipes/``."""
    here = Path(__file__).resolve()
    return [p for p in (here.parents[1] / "recipes", here.parents[3] / "recipes") if p.is_dir()]


def recipes() -> dict[str, Path]:
    """All the built-in recipes by name: our own, then the published settings."""
    return {
        p.stem: p for at in recipe_folders() for each in ("", "published/") for p in sorted(at.glob(f"{each}*.yaml"))
    }


def recipe_file(name: str) -> Path:
    """The file of a recipe: a path, or the name of a built-in one."""
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_dir():
        if path.is_dir():
            must_be_readable(path)
            path = path / "settings.yaml"
            if not path.is_file():
                raise MmardError(f"there is no recipe at {name}: it is no run folder, for it has no settings.yaml")
        if not path.is_file():
            raise MmardError(f"there is no recipe at {name}; see mmard ls recipes")
        return path
    if name not in recipes() and (path.exists() or path.suffix or "/" in name):
        kind = "is no recipe" if path.exists() else "is no recipe, and there is no such file"
        raise MmardError(
            f"{name} {kind}; expected settings in a .yaml file, a run folder, or a name that mmard ls recipes shows"
        )
    if name not in recipes():
        raise unknown("recipe", name, recipes(), "or give a .yaml file or a run folder")
    return recipes()[name]


def is_package_file(path: Path) -> bool:
    """Tell whether the file comes with this package, as its recipes and studies do."""
    return any(path.resolve().is_relative_to(folder) for folder in recipe_folders())
