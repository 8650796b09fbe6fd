"""Validation of plain values by pydantic models: the first fault as one line."""

import numbers
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from mmard.utils.errors import MmardError, unknown
from mmard.utils.numbers import parse_number, shortened
from mmard.utils.text_files import DEEPEST

S = TypeVar("S", bound="Section")
T = TypeVar("T")
EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "expected keys and values"),
    **dict.fromkeys(("list_type", "tuple_type"), "expected a list"),
    "string_type": "expected a word",
    "path_type": "expected a path",
    "callable_type": "expected a function",
    "greater_than": "expected a number above {gt:g}",
    "less_than": "expected a number below {lt:g}",
    "greater_than_equal": "expected a number not below {ge:g}",
    "less_than_equal": "expected a number not above {le:g}",
}  # pydantic's kinds of fault


AsWritten = BeforeValidator(parse_number)
"""Behind a number's limits, so that they stand in the JSON schema, too."""
Number = Annotated[float, AsWritten]
"""A number as people write it: 8/255, 1e-3."""
Positive = Annotated[float, Field(gt=0), AsWritten]
NotNegative = Annotated[float, Field(ge=0), AsWritten]
Share = Annotated[float, Field(ge=0, lt=1), AsWritten]
"""From 0, and below 1."""
Fraction = Annotated[float, Field(gt=0, lt=1), AsWritten]
"""Above 0, and below 1."""
ZeroToOne = Annotated[float, Field(ge=0, le=1), AsWritten]
"""Both ends are in it."""
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class Section(BaseModel):
    """A section of settings: unknown keys are errors, and values are frozen after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    def __init__(self, /, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as e:
            raise _mistake(type(self), e, "setting") from e

    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]  # within another section pydantic collects the faults

    def changed(self: S, **given: Any) -> S:
        """Copy the section with some values changed, validated anew."""
        return type(self)(**{**dict(self), **given})

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse true and false where numbers are wanted: pydantic reads them as 1 and 0."""
        given = value if isinstance(value, list | tuple) else [value]
        if not any(isinstance(each, bool) for each in given):
            return value
        kinds = set(_kinds(cls.model_fields[str(info.field_name)].annotation))
        words = any(isinstance(kind, str) for kind in kinds)  # such fields say themselves what they take
        if kinds & {int, float} and not kinds & {bool, Any} and not words:
            raise ValueError("expected a number")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield all types that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        yield from _kinds(part)


def validated(section: type[S], raw: Any, where: str) -> S:
    """Validate plain values and return an instance of the section.

    Raises:
        MmardError: the first fault, with the nearest names for an unknown key; ``where`` says what was read.
    """
    try:
        return section.model_validate(plain(raw, where))
    except ValidationError as e:
        raise _mistake(section, e, where) from e


def _mistake(section: type[BaseModel], found: ValidationError, where: str) -> MmardError:
    """Describe the first of pydantic's faults in a line; of missing keys all."""
    fault, known = found.errors()[0], keys_of(section)
    key = _key_of(fault, known)
    if fault["type"] == "extra_forbidden":
        return unknown(where, key, known)
    if missing := [repr(_key_of(one, known)) for one in found.errors() if one["type"] == fault["type"] == "missing"]:
        return MmardError(f"{where} {' and '.join(missing)} {'are' if len(missing) > 1 else 'is'} missing")
    return MmardError(f"{where} {key!r} is {shortened(fault['input'])}: {expectation(fault)}")


def _key_of(fault: Mapping[str, Any], known: Collection[str]) -> str:
    """Name the setting of a fault: pydantic adds the names of types that it tried."""
    key = str(fault["loc"][0]) if fault["loc"] else ""
    for part in fault["loc"][1:]:
        key += f".{part}" if f"{key}.{part}" in known or fault["type"] == "extra_forbidden" else ""
    return key


def plain(value: Any, where: str, key: str = "") -> Any:
    """Convert a value to words, numbers, true and false, None, lists and mappings, as YAML and JSON have; paths to words.

    Raises:
        MmardError: for a value of another kind, a word that is no text (a null byte, half a character), or deep nesting.
    """
    if isinstance(value, BaseModel):
        return plain(value.model_dump(mode="json"), where, key)
    if isinstance(value, Mapping):
        return {str(k): plain(v, where, f"{key}.{k}".lstrip(".")) for k, v in _not_deep(value, where, key).items()}
    if isinstance(value, list | tuple):
        return [plain(one, where, f"{key}[]") for one in _not_deep(value, where, key)]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Number):  # numpy's, too
        if isinstance(value, numbers.Integral):
            return int(value)
        return float(value) if isinstance(value, numbers.Real) else _odd(value, where, key)
    if not isinstance(value, str | Path):
        return _odd(value, where, key)
    word = str(value)
    if "\0" in word or (not word.isascii() and word != word.encode(errors="replace").decode()):
        raise MmardError(
            f"{where} {key!r} is {shortened(word)}: expected text, without a null byte or half a character"
        )
    return word


def _not_deep(value: T, where: str, key: str) -> T:
    if key.count(".") + key.count("[]") >= DEEPEST:
        raise MmardError(f"{where} {key.split('.')[0]!r} is nested too deeply; expected {DEEPEST} levels at most")
    return value


def _odd(value: Any, where: str, key: str) -> NoReturn:
    raise MmardError(f"{where} {key!r} is a {type(value).__name__}: expected words, numbers, lists, or keys and values")


def expectation(fault: Mapping[str, Any]) -> str:
    """Describe what was expected where pydantic found a fault."""
    words = EXPECTED.get(fault["type"])
    if words is None:
        return str(fault["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    return words.format(**fault.get("ctx", {}))


def keys_of(section: type[BaseModel], prefix: str = "") -> list[str]:
    """List all keys, nested ones with dots."""
    keys = []
    for name, info in section.model_fields.items():
        kinds = (info.annotation, *get_args(info.annotation))  # the second of a section that may be None
        keys.append(prefix + name)
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += keys_of(inner, f"{prefix}{name}.")
    return keys
