"""Settings as people write them: words of a command, and keys of a file that may stand only once."""

from collections.abc import Mapping
from typing import Any

from mmard.utils.errors import MmardError
from mmard.utils.text_files import NoYamlError, parse_yaml


def parse_overrides(words: list[str]) -> dict[str, Any]:
    """Parse overrides: ``["train.lr=0.05", "method=adaad"]`` → a dict; values are read as YAML, but ``zoo:`` as the word it is.

    Of a setting that stands twice the last word counts, so that words can be added to those of a script.
    """
    pairs: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise MmardError(f"{word!r} is no setting; expected key=value, such as train.epochs=10")
        if value.endswith(":"):  # YAML reads a mapping
            pairs[key] = value
            continue
        try:
            pairs[key] = parse_yaml(value, f"the value of {key}")
        except NoYamlError:
            pairs[key] = value
    return pairs


def stand_once(flat: Mapping[str, Any], where: str) -> None:
    """Raise MmardError where a setting stands twice, such as ``train.lr`` and ``lr`` within ``train``."""
    seen: set[str] = set()
    for key, value in flat.items():
        inside = [f"{key}.{part}" for part in value] if isinstance(value, Mapping) else [key]
        twice = [at for at in inside if at in seen] + [at for at in seen if at.startswith(f"{key}.")]
        if twice:
            raise MmardError(
                f"{where}: {twice[0]} and {key} stand apart, and the first would be lost; give it once, in {key}"
            )
        seen |= set(inside)
    if {"teacher", "teachers.robust"} <= seen:
        raise MmardError(f"{where}: teacher and teachers.robust are two names of one network; give one")
