"""Recipe files: built-in ones by name, others by path, and the bases that they change."""

from pathlib import Path
from typing import Any

from mmard.utils.errors import MmardError, first_line, unknown
from mmard.utils.layout import must_be_readable
from mmard.utils.numbers import shortened
from mmard.utils.text_files import read_yaml

YAML = (".yaml", ".yml")


def recipe_folders() -> list[Path]:
    """Return the folders of recipes: in the installed package, or the repository's ``recipes/``."""
    here = Path(__file__).resolve()
    return [p for p in (here.parents[1] / "recipes", here.parents[3] / "recipes") if p.is_dir()]


def recipes() -> dict[str, Path]:
    """List the built-in recipes by name: our own, then the published settings. Those in ``bases/`` are no recipes by themselves."""
    return {
        p.stem: p for at in recipe_folders() for each in ("", "published/") for p in sorted(at.glob(f"{each}*.yaml"))
    }


def recipe_file(name: str) -> Path:
    """Find the file of a recipe: a path, or the name of a built-in one."""
    try:
        path = Path(name).expanduser()
    except (RuntimeError, TypeError) as e:  # nobody's home; no path at all
        raise MmardError(f"there is no recipe at {shortened(name)} ({first_line(e)}); see mmard ls recipes") from e
    if path.suffix in YAML or path.is_dir():
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


def with_bases(
    recipe: Path, settings: dict[str, Any] | None = None, *, anywhere: bool = False
) -> list[tuple[Path, dict[str, Any]]]:
    """Read a recipe and the chain of its bases: each file with its settings, the last base first.

    Args:
        settings: what the recipe holds; None: it is read.
        anywhere: the user vouches for what it names: a base may also lie outside of the folder of the recipe that names it.

    Raises:
        MmardError: for a base that is not there or may not be read, and for bases that lead back to a recipe.
    """
    chain: list[tuple[Path, dict[str, Any]]] = []
    seen: list[Path] = []
    while True:
        seen.append(recipe.resolve())
        if seen[-1] in seen[:-1]:
            names = " → ".join(file.name for file in seen[seen.index(seen[-1]) :])
            raise MmardError(f"{recipe}: its bases lead back to it: {names}; one of them has to stand without a base")
        given = dict(settings) if settings is not None else _settings_in(recipe)
        base, settings = given.pop("base", ""), None
        chain.insert(0, (recipe, given))
        if base == "":
            return chain
        recipe = _base_file(recipe, base, anywhere)


def _settings_in(recipe: Path) -> dict[str, Any]:
    if not (settings := read_yaml(recipe)):
        raise MmardError(f"{recipe} is empty; expected settings in it, such as method: rslad")
    return settings


def _base_file(recipe: Path, base: Any, anywhere: bool) -> Path:
    """Find a base: a file seen from the folder of the recipe that names it, or a built-in recipe by name."""
    if not isinstance(base, str):
        raise MmardError(f"{recipe}: base is {base!r}, expected a .yaml file in its folder, or the name of a recipe")
    if Path(base).suffix not in YAML:
        if base not in recipes():
            raise unknown(f"base in {recipe}", base, recipes(), "or a .yaml file in its folder")
        return recipes()[base]
    try:
        path = recipe.parent / Path(base).expanduser()
        inside, there = path.resolve().is_relative_to(recipe.parent.resolve()), path.is_file()
    except (OSError, RuntimeError, ValueError) as e:  # a link to itself; nobody's home; a name that cannot be
        raise MmardError(f"{recipe}: its base {base!r} cannot be found ({first_line(e)}); expected a .yaml file") from e
    if not (anywhere or inside):
        raise MmardError(
            f"{recipe}: its base {base} lies outside of its folder; put it there, or give --trust (Python: trust=True)"
        )
    if not there:
        raise MmardError(f"{recipe}: there is no base at {path}; expected a .yaml file, or the name of a recipe")
    return path
