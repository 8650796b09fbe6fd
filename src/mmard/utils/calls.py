"""Calls as people write them, ``mmard(rslad, inner=entropy)``: parsed into a name with parameters, and these typed."""

import ast
import functools
import inspect
import re
from collections.abc import Callable, Mapping
from types import GenericAlias, UnionType
from typing import Annotated, Any, ParamSpec, TypeVar, get_args, get_origin

from pydantic import StrictBool, StrictStr, TypeAdapter, ValidationError

from mmard.utils.errors import MmardError
from mmard.utils.numbers import shortened
from mmard.utils.text_files import parse_yaml
from mmard.utils.validation import Number, expectation

P = ParamSpec("P")
R = TypeVar("R")
WORD = re.compile(r"[^\s()\[\]{},=](?:[^()\[\]{},=]*[^\s()\[\]{},=])?")  # all between brackets, commas and equals signs
KINDS: dict[type, Any] = {float: Number, int: Number, tuple: Number, bool: StrictBool, str: StrictStr}


def parse_call(text: str) -> str | dict[str, Any]:
    """Parse one name, with or without parameters: ``{"name": ..., parameter: value}`` in the second case.

    Raises:
        MmardError: for brackets that do not match, or a part that is no key=value.
    """
    text = one_line(text)
    return _spec(_parsed(text), text)


def parse_calls(text: str) -> dict[str, str | dict[str, Any]]:
    """Parse names with commas between them: what stands there → what `parse_call` makes of it."""
    text = one_line(text)
    whole = _parsed(text or "()")
    parts = whole.elts if isinstance(whole, ast.Tuple) else [whole]
    return {_at(part, text): _spec(part, text) for part in parts}


def one_line(text: str) -> str:
    """Replace line breaks and other blanks of a text by spaces, and remove those around it."""
    return re.sub(r"\s", " ", text).strip()


def typed(value: Any, parameter: inspect.Parameter, key: str) -> Any:
    """Convert a value to the type of its parameter's default, ``"5/6"`` to a float, within the range of its annotation."""
    kind, annotation = type(parameter.default), parameter.annotation
    if parameter.default is None and value is not None:
        annotation = next((one for one in get_args(annotation) if getattr(one, "__origin__", one) is float), annotation)
        kind = kind if annotation is parameter.annotation else float
    if kind not in KINDS or (isinstance(annotation, UnionType) and parameter.default is not None):
        return value  # of several types, which the function itself tells apart
    parts = get_args(annotation) if kind is tuple else ()
    each = next(iter(parts), None) if kind is tuple else annotation
    within: Any = Annotated[KINDS[kind], None, *getattr(each, "__metadata__", ())]
    if kind is tuple:
        fixed = get_origin(annotation) is tuple and ... not in parts
        within = GenericAlias(tuple, (within,) * len(parts) if fixed else (within, ...))
    try:
        found = TypeAdapter(within).validate_python(value)
    except ValidationError as e:
        fault = e.errors()[0]
        if fault["type"] in ("missing", "too_long"):
            raise MmardError(f"{key} is {value!r}, expected a list of {len(parts)} numbers") from e
        usual = [f"{each:g}" for each in parameter.default] if kind is tuple else []
        example = f" of numbers such as [{', '.join(usual) or '215, 260'}]" if fault["type"] == "tuple_type" else ""
        raise MmardError(f"{key} is {shortened(fault['input'])}, {expectation(fault)}{example}") from e
    return int(found) if kind is int and found == int(found) else found


def checked(build: Callable[P, R]) -> Callable[P, R]:
    """Decorate a builder: its arguments get the types and ranges of its parameters in Python, too, as `typed` says."""
    signature = inspect.signature(build)

    @functools.wraps(build)
    def call(*args: P.args, **given: P.kwargs) -> R:
        bound = signature.bind(*args, **given)
        for name, given_value in bound.arguments.items():
            value = given_value.item() if getattr(given_value, "ndim", None) == 0 else given_value  # of torch and numpy
            bound.arguments[name] = typed(value, signature.parameters[name], f"{build.__name__}: {name}")
        return build(*bound.args, **bound.kwargs)

    return call


def must_bind(function: Any, given: Mapping[str, Any], what: str) -> None:
    """Raise MmardError where a function lacks a parameter without default, or does not take one of these."""
    try:
        inspect.signature(function).bind(**given)
    except TypeError as e:
        raise MmardError(f"{what}: {e}") from e


def _parsed(text: str) -> ast.expr:
    """Parse an expression's commas, brackets and equals signs as Python does.

    An x stands for each letter between them, for names may be paths (``my-file.py:build``) and values are YAML.
    """
    try:
        return ast.parse(WORD.sub(lambda word: "x" * len(word[0]), text), mode="eval").body
    except (SyntaxError, MemoryError, RecursionError) as e:
        raise MmardError(
            f"{text!r} is no method: expected brackets that match, with a base first and then key=value, such as "
            "mmard(rslad, inner=entropy)"
        ) from e


def _at(node: ast.expr, text: str) -> str:
    return text[node.col_offset : node.end_col_offset]


def _spec(node: ast.expr, text: str) -> str | dict[str, Any]:
    if not isinstance(node, ast.Call):
        return _at(node, text)
    for more in node.args[1:]:
        raise MmardError(f"{_at(more, text)!r} in {text!r} is no parameter; expected key=value, such as inner=entropy")
    spec: dict[str, Any] = {"name": _at(node.func, text)}
    given = [("base", base) for base in node.args]  # a base without its key
    given += [(text[one.col_offset :][: len(one.arg or "")], one.value) for one in node.keywords]
    for key, value in given:
        if key in spec:
            raise MmardError(f"{key} stands twice in {text!r}; give it once")
        inside = _at(value, text)
        spec[key] = _spec(value, text) if key == "base" else parse_yaml(inside, f"'{key}={inside}' in {text!r}")
    return spec
