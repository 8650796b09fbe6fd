"""Readers of text, YAML and JSON from outside: one each, with clear errors and bounded work.

Keys are words, as they are written; each stands once. A file is UTF-8, with or without a byte order mark.
"""

import json
import math
import re
from pathlib import Path
from typing import Any, NoReturn

import yaml
from yaml.nodes import CollectionNode, MappingNode, Node, ScalarNode

from mmard.utils.errors import MmardError, first_line
from mmard.utils.safe_open import must_be_plain

LONGEST = {"YAML": 1 << 20, "JSON": 1 << 26}
"""Bytes of a file. A recipe has a few hundred, and this YAML reader takes seconds for a million."""
DEEPEST = 50
MOST_VALUES = 100_000
"""With every alias written out: a few lines of aliases of aliases can stand for billions of values."""


class NoYamlError(MmardError):
    """A text is no YAML at all."""


class NoJsonError(MmardError):
    """A text is no JSON at all."""


class _Fault(yaml.YAMLError):
    """A fault of a text, with its line."""


def read_text(path: Path, most: int = LONGEST["JSON"]) -> str:
    """Read a text file.

    Raises:
        MmardError: when it is not there, is no plain file, may not be read, is larger than ``most`` bytes, or is no UTF-8 text.
    """
    must_be_plain(path)
    try:
        with path.open("rb") as f:
            content = f.read(most + 1)
    except (OSError, ValueError) as e:
        raise MmardError(f"cannot read {path}: {first_line(e)}") from e
    if len(content) > most:
        raise MmardError(f"{path} has more than {most:,} bytes; is it the right file?")
    return decoded(content, str(path))


def decoded(content: bytes, where: str) -> str:
    """Decode UTF-8; a byte order mark is left out."""
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise MmardError(f"{where} is no UTF-8 text (line {line}); save it as UTF-8") from e


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of keys and values; an empty one has none.

    Raises:
        MmardError: with the file, the line and the fault.
    """
    value = parse_yaml(read_text(path, LONGEST["YAML"]), str(path))
    if not isinstance(value, dict | None):
        raise MmardError(f"{path} holds a {type(value).__name__}, expected keys and values")
    return value or {}


def parse_yaml(text: str, where: str) -> Any:
    """Parse YAML of plain values: words, numbers, true and false, lists, and keys with values.

    Dates and times of day (``2026-02-03``, ``1:30``) are words.

    Raises:
        MmardError: for what is no YAML, a key twice, a circular alias, aliases that stand for too much, deep nesting, or a
            kind of value that settings are not made of; ``where`` says what was read.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # a SafeLoader
    except _Fault as e:
        raise MmardError(f"{where}: {e}") from e
    except (yaml.YAMLError, ValueError, LookupError, RecursionError) as e:  # the reader's own, and its conversions'
        fault = " ".join(str(e).replace('in "<unicode string>", ', "in ").split())
        raise NoYamlError(f"{where} is no YAML: {fault}") from e


def parse_json(text: str | bytes, where: str) -> Any:
    """Parse JSON; NaN and Infinity are none of it.

    Raises:
        MmardError: for what is no JSON, a key twice, a number that is not finite, or deep nesting.
    """
    text = decoded(text, where) if isinstance(text, bytes) else text
    try:
        return json.loads(
            text, object_pairs_hook=lambda pairs: _once(pairs, text), parse_constant=_not_finite, parse_float=_finite
        )
    except _Fault as e:
        raise MmardError(f"{where}: {e}") from e
    except RecursionError as e:
        raise MmardError(f"{where} is nested too deeply; expected {DEEPEST} levels at most") from e
    except ValueError as e:
        raise NoJsonError(f"{where} is no JSON: {first_line(e)}") from e


def _once(pairs: list[tuple[str, Any]], text: str) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        key = next(key for key in keys if keys.count(key) > 1)
        places = re.finditer(rf"{re.escape(json.dumps(key, ensure_ascii=False))}\s*:", text)
        lines = sorted({text.count("\n", 0, place.start()) + 1 for place in places})
        raise _Fault(_twice(key, lines))
    return found


def _twice(key: str, lines: list[int]) -> str:
    again = f", again in line {lines[-1]} (first in line {lines[0]})" if lines else ""
    return f"{key!r} stands twice{again}; expected it once"


def _not_finite(name: str) -> NoReturn:
    raise _Fault(f"{name} is no number in JSON; expected a finite one")


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _not_finite(digits)


class _Loader(yaml.SafeLoader):
    """The package's YAML loader. Faults are found when nodes are composed: before aliases and merges are written out."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self.depth = 0
        self.values: dict[Node, int] = {}  # how many each stands for

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """Return the type of a value; unexpected ones are words: 2026-02-03, 1:30 (90 in YAML 1.1), 010 (8), =."""
        tag = super().resolve(kind, value, implicit)  # type: ignore[no-untyped-call]
        number = tag in (_tag("int"), _tag("float")) and kind is ScalarNode
        odd = tag in (_tag("timestamp"), _tag("value")) or (number and re.fullmatch(r".*:.*|[-+]?0[0-9_]+", value))
        return _tag("str") if odd else tag

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if self.depth >= DEEPEST:
            raise _Fault(f"{_line(event)} is the {DEEPEST + 1}st level of nesting; expected {DEEPEST} at most")
        self.depth += 1
        node: Node | None = super().compose_node(parent, index)
        self.depth -= 1
        if isinstance(node, CollectionNode) and node.end_mark is None:  # it is not whole yet, and stands within itself
            raise _Fault(f"the alias in {_line(event)} stands for something that it is a part of")
        if node is not None and node not in self.values:
            self.values[node] = self._count(node)
        return node

    def compose_mapping_node(self, anchor: Any) -> MappingNode:
        node: MappingNode = super().compose_mapping_node(anchor)
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise _Fault(f"a key in {_line(key)} is a list or a mapping; expected a word")
            line = key.start_mark.line + 1
            if key.value in seen:
                raise _Fault(_twice(key.value, sorted({seen[key.value], line})))
            seen[key.value] = line
        node.value = [(_as_word(key), value) for key, value in node.value]
        return node

    def _count(self, node: Node) -> int:
        parts = node.value if isinstance(node, CollectionNode) else ()
        inside = [one[1] if isinstance(one, tuple) else one for one in parts]
        count = 1 + sum(self.values[one] for one in inside)
        if count > MOST_VALUES:
            raise _Fault(f"{_line(node)} and what follows stands for more than {MOST_VALUES:,} values; is that meant?")
        return count


def _tag(kind: str) -> str:
    return f"tag:yaml.org,2002:{kind}"


def _as_word(key: ScalarNode) -> ScalarNode:
    """Turn a key into a word as it is written: 1, on and 2026-02-03 are names here. ``<<`` stays what it is."""
    return key if key.tag == _tag("merge") else ScalarNode(_tag("str"), key.value, key.start_mark, key.end_mark)


def _line(at: Any) -> str:
    return f"line {at.start_mark.line + 1}"


def _foreign(loader: _Loader, tag: str, node: Node) -> NoReturn:
    raise yaml.YAMLError(f"the value in {_line(node)} is marked {node.tag!r}; expected a plain one")


_Loader.yaml_constructors = {
    _tag(kind): yaml.SafeLoader.yaml_constructors[_tag(kind)]
    for kind in ("null", "bool", "int", "float", "str", "seq", "map")
}
_Loader.add_multi_constructor("", _foreign)
