"""Lookup of methods and functions by name: built-in name | package.module:function | file.py:function."""

import ast
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import GenericAlias
from typing import Annotated, Any, get_args

from pydantic import StrictBool, StrictStr, TypeAdapter, ValidationError

from mmard.core.method import Method
from mmard.methods import METHODS
from mmard.utils.errors import MmardError, first_line, unknown
from mmard.utils.text_files import parse_yaml
from mmard.utils.trust import Trust
from mmard.utils.validation import Number, expectation

WORD = re.compile(r"[^\s()\[\]{},=](?:[^()\[\]{},=]*[^\s()\[\]{},=])?")  # all between brackets, commas and equals signs
KINDS: dict[type, Any] = {float: Number, int: Number, tuple: Number, bool: StrictBool, str: StrictStr}


def method_builder(name: str, trust: Trust) -> Callable[..., Method]:
    """Find the function that builds the method of this name; `function_at` alone imports what a name says.

    Raises:
        MmardError: when there is none, with the nearest names; or where ``trust`` does not cover it.
    """
    if ":" not in name:
        if name not in METHODS:
            raise unknown("method", name, METHODS, "or give your own as file.py:function")
        return METHODS[name]
    trust.must_allow_code(name)
    return function_at(name)


def function_at(name: str) -> Callable[..., Any]:
    """Import ``file.py:function`` or ``module:function``, which runs its code: only for what the caller has typed or trusts.

    Raises:
        MmardError: when there is none, with the nearest names; or where its file or module cannot be imported.
    """
    place, _, function = name.rpartition(":")
    module = _from_file(Path(place)) if place.endswith(".py") else _imported(place)
    found = getattr(module, function, None)
    if not callable(found):
        have = [n for n, f in vars(module).items() if inspect.isfunction(f) and f.__module__ == module.__name__]
        raise unknown(f"function in {place}", function, have)
    return found  # type: ignore[no-any-return]


def build_method(spec: str | dict[str, Any], trust: Trust = Trust()) -> Method:
    """Build a method from its name, or from ``{"name": ..., parameter: value, "base": another spec}``.

    Args:
        trust: whose code may run; by default that of `mmard.methods` alone.

    Raises:
        MmardError: for an unknown name or parameter, or a builder that gives no `Method`.
    """
    if not isinstance(spec, str | dict):
        raise MmardError(f"a method is {spec!r}, expected a name or {{name: ..., parameter: value}}")
    spec = spec_of(spec)
    name = spec.pop("name", None)
    if not isinstance(name, str):
        raise MmardError(
            f"got {spec or 'nothing'} and no method's name; expected one, such as method=rslad, or method.base.name=rslad"
        )
    builder = method_builder(name, trust)
    try:
        known = inspect.signature(builder).parameters
    except (TypeError, ValueError) as e:
        raise MmardError(f"{name} is no function that builds a method") from e
    for key, value in spec.items():
        if key not in known:
            raise unknown(f"parameter of method {name}", key, known)
        spec[key] = build_method(value, trust) if key == "base" else _typed(value, known[key], f"method.{key}")
    try:
        inspect.signature(builder).bind(**spec)
    except TypeError as e:
        raise MmardError(f"method {name}: {e}") from e
    method = run_foreign(lambda: builder(**spec), f"method {name}", "fails")
    if not isinstance(method, Method):
        raise MmardError(f"{name} gave a {type(method).__name__}, expected a mmard.Method")
    return method


def names_of(spec: Any) -> set[str]:
    """Collect the names of all methods in a spec, those of its bases too.

    >>> sorted(names_of("awp(mmard(mine.py:build))"))
    ['awp', 'mine.py:build', 'mmard']
    """
    if not isinstance(spec, str | dict):
        return set()
    whole = spec_of(spec)
    name = whole.get("name")
    return ({name} if isinstance(name, str) else set()) | names_of(whole.get("base"))


def method_specs(text: str) -> dict[str, str | dict[str, Any]]:
    """Parse ``"ard, mmard(base=adaad, inner=entropy)"``: label → what `build_method` takes.

    Raises:
        MmardError: for brackets that do not match, or a part that is no key=value.
    """
    text = _one_line(text)
    whole = _parsed(text or "()")
    parts = whole.elts if isinstance(whole, ast.Tuple) else [whole]
    if not parts:
        raise MmardError("no methods given; expected names such as rslad,adaad,mmard(inner=entropy)")
    return {_at(part, text): _spec(part, text) for part in parts}


def label_of(spec: str | dict[str, Any]) -> str:
    """Write a spec as `method_specs` reads it: ``{"name": "mmard", "inner": "entropy"}`` → ``"mmard(inner=entropy)"``."""
    if isinstance(spec, str):
        return spec
    given = ", ".join(f"{k}={label_of(v) if k == 'base' else v}" for k, v in spec.items() if k != "name")
    return f"{spec['name']}({given})" if given else str(spec["name"])


def spec_of(method: str | dict[str, Any]) -> dict[str, Any]:
    """Return a method's name and parameters; its name may hold some, as ``mmard(igdm(rslad), beta=2)`` does."""
    spec = {"name": method} if isinstance(method, str) else dict(method)
    name = _one_line(spec["name"]) if isinstance(spec.get("name"), str) else ""
    if not name.endswith(")") or ":" in name.partition("(")[0]:  # the path of a file may have brackets of its own
        return spec
    inside = _spec(_parsed(name), name)
    return {**inside, **{k: v for k, v in spec.items() if k != "name"}} if isinstance(inside, dict) else spec


def _one_line(text: str) -> str:
    return re.sub(r"\s", " ", text).strip()


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


def _typed(value: Any, parameter: inspect.Parameter, key: str) -> Any:
    """Convert a value to the type of its parameter's default, ``"5/6"`` to a float, within the range of its annotation."""
    kind = type(parameter.default)
    if parameter.default is None and float in get_args(parameter.annotation) and value is not None:
        kind = float
    if kind not in KINDS:
        return value
    each = next(iter(get_args(parameter.annotation)), None) if kind is tuple else parameter.annotation
    within: Any = Annotated[KINDS[kind], None, *getattr(each, "__metadata__", ())]
    if kind is tuple:
        within = GenericAlias(tuple, (within, ...))
    try:
        found = TypeAdapter(within).validate_python(value)
    except ValidationError as e:
        fault = e.errors()[0]
        example = " of numbers such as [215, 260]" if fault["type"] == "tuple_type" else ""
        raise MmardError(f"{key} is {fault['input']!r}, {expectation(fault)}{example}") from e
    return int(found) if kind is int and found == int(found) else found


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise MmardError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(f"user_{path.stem}", path)
    assert spec is not None  # a .py file has a spec and a loader
    assert spec.loader is not None
    module, loader = importlib.util.module_from_spec(spec), spec.loader
    sys.modules[spec.name] = module
    run_foreign(lambda: loader.exec_module(module), str(path))
    return module


def _imported(place: str) -> Any:
    return run_foreign(lambda: importlib.import_module(place), place)


def run_foreign(call: Callable[[], Any], place: str, what: str = "cannot be imported") -> Any:
    """Call foreign code; whatever it raises becomes a MmardError that names the ``place`` and ``what`` failed."""
    try:
        return call()
    except MmardError:
        raise
    except Exception as e:
        raise MmardError(f"{place} {what}: {type(e).__name__}: {first_line(e)}") from e
