"""Plain values against a pydantic model: the first fault as one line."""

from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from mmard.core.errors import MmardError, unknown

S = TypeVar("S", bound="Section")
EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "expected a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "expected a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "expected true or false"),
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type"), "expected keys and values"),
    **dict.fromkeys(("list_type", "tuple_type"), "expected a list"),
    "string_type": "expected a word",
}  # pydantic's kinds of fault


class Section(BaseModel):
    """Settings from outside: unknown keys are errors, and nothing changes after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


def validated(section: type[S], raw: Any, where: str) -> S:
    """An instance from plain values.

    Raises:
        MmardError: the first fault, with the nearest names for an unknown key; ``where`` says what was read.
    """
    try:
        return section.model_validate(raw)
    except ValidationError as e:
        fault = e.errors()[0]
        known, key = keys_of(section), str(fault["loc"][0]) if fault["loc"] else ""
        for part in fault["loc"][1:]:  # pydantic adds the names of types that it tried
            key += f".{part}" if f"{key}.{part}" in known or fault["type"] == "extra_forbidden" else ""
        if fault["type"] == "extra_forbidden":
            raise unknown(where, key, known) from e
        if fault["type"] == "missing":
            raise MmardError(f"{where} {key!r} is missing") from e
        message = EXPECTED.get(fault["type"]) or _in_our_words(fault["msg"])
        raise MmardError(f"{where} {key!r} is {fault['input']!r}: {message}") from e


def _in_our_words(message: str) -> str:
    return message.removeprefix("Value error, ").replace("Input should be", "expected")


def keys_of(section: type[BaseModel], prefix: str = "") -> list[str]:
    """All keys, nested ones with dots."""
    keys = []
    for name, info in section.model_fields.items():
        kinds = (info.annotation, *get_args(info.annotation))  # the second of a section that may be None
        keys.append(prefix + name)
        for inner in kinds:
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += keys_of(inner, f"{prefix}{name}.")
    return keys
