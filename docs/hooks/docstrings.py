"""Show docstrings as they are meant: an example is code, and `Name` leads to what the reference says of that name."""

import re
from typing import Any

from griffe import AliasResolutionError, Extension, NameResolutionError, Object

EXAMPLE = re.compile(r"^>>> .*(?:\n.+)*", re.MULTILINE)
NAME = re.compile(r"(?<!`)`([A-Za-z_][\w.]*)`(?!`)")


class Docstrings(Extension):
    """Rewrite each docstring on its way to the page."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        if obj.docstring:
            value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0]}\n```", obj.docstring.value)
            obj.docstring.value = NAME.sub(lambda found: _linked(found, obj), value)


def _linked(found: re.Match[str], obj: Object) -> str:
    try:
        path = obj.resolve(found[1].split(".")[0])
    except (NameResolutionError, AliasResolutionError):
        path = found[1]
    return f'<autoref identifier="{path}" optional>`{found[1]}`</autoref>' if path.startswith("mmard.") else found[0]
