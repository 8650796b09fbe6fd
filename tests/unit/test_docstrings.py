"""Docstrings say what is done: the first line is a sentence, a function's begins with a verb; and the names in them exist."""

import ast
import builtins
import importlib
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest

import mmard

SRC = Path(mmard.__file__).parent
FILES = sorted(SRC.rglob("*.py"))
QUESTIONS = {"What", "Who", "Whose", "Where", "When", "Which", "Why", "How", "Whether", "Is", "Are", "Was", "Do", "Does", "Did",
             "Has", "Have", "Can"}  # fmt: skip
NO_VERBS = QUESTIONS | {
    "The", "A", "An", "This", "That", "These", "Its", "Their", "Itself", "Of", "For", "From", "To", "At", "By", "In", "On", "With",
    "Without", "As", "If", "Up", "So", "And", "Or", "All", "Both", "Each", "Every", "Everything", "Some", "Any", "One", "No",
    "None", "Not", "Nothing", "Only", "Same", "There", "Then",
}  # fmt: skip
Documented = tuple[str, ast.FunctionDef | ast.ClassDef]


def public(node: ast.AST, within: str = "") -> Iterator[Documented]:
    """Yield the public functions, methods and classes of a module or class, nested classes too."""
    for child in getattr(node, "body", []):
        if isinstance(child, ast.FunctionDef | ast.ClassDef) and (child.name[0] != "_" or child.name == "__call__"):
            yield f"{within}{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from public(child, f"{within}{child.name}.")


def fault(first_line: str, is_function: bool) -> str | None:
    """Describe what is wrong with a first line; None: nothing."""
    word = first_line.split()[0].strip("`,:;.")
    if not first_line.endswith((".", "…", ":")) or first_line.endswith("?."):
        return "is no sentence"
    if word in (NO_VERBS if is_function else QUESTIONS):
        return f"begins with {word!r}"
    return None if first_line[0].isupper() or not is_function else "begins with no word"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_first_lines_say_what_is_done(path: Path) -> None:
    wrong = []
    for name, node in public(ast.parse(path.read_text(encoding="utf-8"))):
        lines = (ast.get_docstring(node) or "").splitlines()
        if lines and (found := fault(lines[0], isinstance(node, ast.FunctionDef))):
            wrong.append(f"{name} {found}: {lines[0]}")
    assert wrong == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("What the attack found.", "begins with 'What'"),
        ("The same with another student.", "begins with 'The'"),
        ("``'8/255'`` where that is meant.", "begins with no word"),
        ("Return the radius", "is no sentence"),
        ("Return the radius.", None),
    ],
)
def test_a_fragment_is_found(line: str, said: str | None) -> None:
    assert fault(line, is_function=True) == said


def test_a_class_may_be_a_noun_but_no_question() -> None:
    assert fault("A network that is trained beside the student.", is_function=False) is None
    assert fault("How a model is evaluated.", is_function=False) == "begins with 'How'"


def listed(docstring: str) -> list[str]:
    """Names that a docstring explains under ``Args:`` and ``Attributes:``."""
    parts = re.findall(r"^(?:Args|Attributes):\n((?: +.*\n?|\n)+)", docstring, re.MULTILINE)
    heads = [head for part in parts for head in re.findall(r"^ {4}([*\w]+(?:, [*\w]+)*):", part, re.MULTILINE)]
    return [name.strip("*") for head in heads for name in head.split(", ")]


def names_in(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """Parameters of a function; of a class its fields, methods, attributes and the parameters of its methods."""
    parts = list(ast.walk(node))
    names = {part.arg for part in parts if isinstance(part, ast.arg)}
    if isinstance(node, ast.ClassDef):
        names |= {part.id for part in parts if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
        names |= {part.attr for part in parts if isinstance(part, ast.Attribute)}
        names |= {part.name for part in parts if isinstance(part, ast.FunctionDef)}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SRC).as_posix())
def test_what_is_explained_exists(path: Path) -> None:
    nodes = public(ast.parse(path.read_text(encoding="utf-8")))
    strange = {name: set(listed(ast.get_docstring(node) or "")) - names_in(node) for name, node in nodes}
    assert {name: found for name, found in strange.items() if found} == {}


def test_a_parameter_that_was_renamed_is_found() -> None:
    node = ast.parse("def f(cache, rows): pass").body[0]
    assert isinstance(node, ast.FunctionDef)
    docstring = "Read it.\n\nArgs:\n    kept: where verdicts are:\n        in a file.\n    rows: (N,).\n\nReturns: it."
    assert listed(docstring) == ["kept", "rows"]
    assert set(listed(docstring)) - names_in(node) == {"kept"}


NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


@cache
def words_of_the_source() -> set[str]:
    """All names in the code of the package, and words that stand alone in strings: no comments, no sentences."""
    text = "".join(path.read_text(encoding="utf-8") for path in FILES)
    tokens = list(tokenize.generate_tokens(io.StringIO(text).readline))
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    return names | {token.string.strip("\"'") for token in tokens if token.type == tokenize.STRING}


def exists(name: str, module: ModuleType) -> bool:
    """Tell whether a name in a docstring of a module is one: of the module, the package, Python or a library."""
    head, *rest = name.split(".")
    if head == "mmard" or hasattr(module, head):
        return has(mmard if head == "mmard" else getattr(module, head), rest)
    if rest:
        return head in words_of_the_source() or find_spec(head) is not None
    return hasattr(builtins, head) or head in words_of_the_source()


def has(thing: object, names: list[str]) -> bool:
    """Tell whether a module or a class has a name, that one the next, and so on; of an object's own nothing is known."""
    if not names:
        return True
    if isinstance(thing, ModuleType) and not hasattr(thing, names[0]):
        path = f"{thing.__name__}.{names[0]}"
        return find_spec(path) is not None and has(importlib.import_module(path), names[1:])
    if not hasattr(thing, names[0]):
        return names[0] in vars(thing).get("__annotations__", {})
    return has(getattr(thing, names[0]), names[1:])


@pytest.mark.parametrize(
    "path", [path for path in FILES if path.stem != "__main__"], ids=lambda path: path.relative_to(SRC).as_posix()
)
def test_names_in_docstrings_are_names(path: Path) -> None:
    parts = path.relative_to(SRC).with_suffix("").parts
    module = importlib.import_module(".".join(("mmard", *parts)).removesuffix(".__init__"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, documented)]
    said = {name for node in nodes for name in NAME.findall(ast.get_docstring(node) or "")}
    assert sorted(name for name in said if not exists(name, module)) == []


@pytest.mark.parametrize(
    "name", ["mmard.nothing", "mmard.core.nothing", "Nothing", "nothing_at_all", "Path.nothing", "Lost.a"]
)
def test_a_name_that_is_none_is_found(name: str) -> None:
    assert not exists(name, importlib.import_module("mmard.api.build"))
