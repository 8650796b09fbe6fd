"""Lookup of methods by name: built-in name | package.module:function | file.py:function."""

import inspect
from collections.abc import Callable
from typing import Any

from mmard.core.method import Method
from mmard.methods import METHODS
from mmard.terms.temperature import AUTO
from mmard.utils.calls import must_bind, one_line, parse_call, parse_calls, typed
from mmard.utils.errors import MmardError, unknown
from mmard.utils.foreign_code import function_at, run_foreign
from mmard.utils.trust import Trust


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
        try:
            spec[key] = build_method(value, trust) if key == "base" else typed(value, known[key], f"method.{key}")
        except MmardError as e:
            if value == AUTO and "teacher_tau" in known:
                raise MmardError(f"{e}; what can be auto is teacher_tau") from e
            raise
    must_bind(builder, spec, f"method {name}")
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
    if not (specs := parse_calls(text)):
        raise MmardError("no methods given; expected names such as rslad,adaad,mmard(inner=entropy)")
    return specs


def label_of(spec: str | dict[str, Any]) -> str:
    """Write a spec as `method_specs` reads it: ``{"name": "mmard", "inner": "entropy"}`` → ``"mmard(inner=entropy)"``."""
    if isinstance(spec, str):
        return spec
    given = ", ".join(f"{k}={label_of(v) if k == 'base' else v}" for k, v in spec.items() if k != "name")
    return f"{spec['name']}({given})" if given else str(spec["name"])


def spec_of(method: str | dict[str, Any]) -> dict[str, Any]:
    """Return a method's name and parameters; its name may hold some, as ``mmard(igdm(rslad), beta=2)`` does."""
    spec = {"name": method} if isinstance(method, str) else dict(method)
    name = one_line(spec["name"]) if isinstance(spec.get("name"), str) else ""
    if not name.endswith(")") or ":" in name.partition("(")[0]:  # the path of a file may have brackets of its own
        return spec
    inside = parse_call(name)
    return {**inside, **{k: v for k, v in spec.items() if k != "name"}} if isinstance(inside, dict) else spec
