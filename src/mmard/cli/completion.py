"""Completion of words by the shell: recipes, settings, methods, models; read from the sources, as importing torch takes seconds."""

import ast
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import typer

PACKAGE = Path(__file__).resolve().parents[1]
TRUTH = ["true", "false"]
LISTS = {
    "method": ("mmard.methods", "METHODS"),
    "student": ("mmard.models.architectures", "FAMILIES"),
    "data.name": ("mmard.data.sources", "SOURCES"),
    "format": ("mmard.models.formats", "FORMATS"),
}
"""Settings and options whose values are the keys of a dictionary: its module and name."""


def complete_recipe(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the words of ``mmard train``: a recipe, a file or a run folder, then settings."""
    from mmard.api.recipe_files import recipes

    return _value(context, incomplete) or [*_starting(recipes(), incomplete), *complete_run(context, incomplete)]


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the words of ``mmard eval``: files and folders, then settings ``key=value``."""
    keys = [f"{key}=" for key in _starting(settings(), incomplete)] if incomplete else []
    return _value(context, incomplete) or [*keys, *_paths(incomplete)]


def complete_method(incomplete: str) -> list[str]:
    """Complete a method's name, or the file of one's own."""
    return _starting(values_of("method"), incomplete) or _paths(incomplete)


def complete_student(incomplete: str) -> list[str]:
    """Complete an architecture."""
    return _starting(values_of("student"), incomplete)


def complete_teacher(incomplete: str) -> list[str]:
    """Complete a run folder, weights or a card; or a teacher of the package."""
    return [*_starting(values_of("teacher"), incomplete), *_paths(incomplete)]


def complete_format(incomplete: str) -> list[str]:
    """Complete a format of exported files."""
    return _starting(values_of("format"), incomplete)


def _value(context: typer.Context, incomplete: str) -> list[str]:
    """Complete a setting's value; bash takes ``key=va`` for three words, and ``key=`` for one with nothing behind it."""
    before = context.params.get("words") or []
    key = before[-2] if len(before) > 1 and before[-1] == "=" else before[-1] if before else ""
    if key in settings():
        return _starting(values_of(key), incomplete)
    key, equals, value = incomplete.partition("=")
    return [f"{key}={each}" for each in _starting(values_of(key), value)] if equals else []


def values_of(key: str) -> list[str]:
    """List the values that a setting or an option can have, as far as they are words."""
    if key in LISTS:
        return [name for name in _keys(*LISTS[key]) if name == name.lower()]  # capitals stand for numbers
    if key == "teacher":
        folders = (PACKAGE.parents[1] / "zoo", PACKAGE / "zoo")
        return sorted({f"zoo:{card.stem}" for folder in folders for card in folder.glob("*.json")})
    if key == "tracking":
        return ["tensorboard", *_keys("mmard.training.tracking", "TRACKERS")]
    return list(settings().get(key, ()))


@lru_cache
def settings() -> dict[str, list[str]]:
    """Read all settings, by dotted key, with the words that each can be."""
    return _fields("mmard.api.settings", "Settings")


def _fields(module: str, name: str) -> dict[str, list[str]]:
    """Read the fields of a class and its bases, with those of sections in it below their names."""
    node = _classes(module).get(name)
    found: dict[str, list[str]] = {}
    for base in node.bases if node else ():
        if isinstance(base, ast.Name) and (home := _home(module, base.id)):
            found |= _fields(home, base.id)
    for line in node.body if node else ():
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.target.id[0] != "_":
            key, inside = line.target.id, _section(module, line.annotation)
            found |= {f"{key}.{k}": v for k, v in inside.items()} if inside else {key: [*_words(line.annotation)]}
    return found


def _section(module: str, annotation: ast.expr) -> dict[str, list[str]]:
    """Read the fields of the section that an annotation names; none where it names none."""
    for part in ast.walk(annotation):
        if isinstance(part, ast.Name) and (home := _home(module, part.id)):
            return _fields(home, part.id)
    return {}


def _words(annotation: ast.expr) -> Iterator[str]:
    """List the words that an annotation allows: those of ``Literal``, and true and false."""
    for part in ast.walk(annotation):
        if isinstance(part, ast.Name) and part.id == "bool":
            yield from TRUTH
        if isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name) and part.value.id == "Literal":
            inside = part.slice.elts if isinstance(part.slice, ast.Tuple) else [part.slice]
            yield from (str(one.value) for one in inside if isinstance(one, ast.Constant))


def _home(module: str, name: str) -> str | None:
    """Find the module of this package that defines a class by which ``module`` knows the name; None where there is none."""
    if name in _classes(module):
        return module
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and name in (alias.name for alias in node.names):
            place = str(node.module)
            return place if place.startswith("mmard.") and name in _classes(place) else None
    return None


def _classes(module: str) -> dict[str, ast.ClassDef]:
    return {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}


@lru_cache
def _tree(module: str) -> ast.Module:
    """Parse a module of this package; an empty one where there is no such file."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    file = next((f for f in (place.with_suffix(".py"), place / "__init__.py") if f.is_file()), None)
    return ast.parse(file.read_text(encoding="utf-8") if file else "")


def _keys(module: str, name: str) -> list[str]:
    """List the words that are keys of a dictionary, as a module writes it down."""
    for node in _tree(module).body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return []


def _paths(incomplete: str) -> list[str]:
    """List files and folders that begin so, folders with a slash; hidden ones only where they are asked for."""
    folder, _, start = incomplete.rpartition("/")
    place = Path(f"{folder}/" if folder or incomplete.startswith("/") else ".").expanduser()
    shown = f"{folder}/" if "/" in incomplete else ""
    try:
        found = sorted(path for path in place.iterdir() if path.name.startswith(start or ""))
    except OSError:
        return []
    return [f"{shown}{p.name}{'/' if p.is_dir() else ''}" for p in found if start or not p.name.startswith(".")]


def _starting(names: Iterable[str], start: str) -> list[str]:
    return [name for name in names if name.startswith(start)]
