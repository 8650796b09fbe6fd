"""What there is, by name, with one line each."""

from collections.abc import Callable
from typing import Any

import yaml

from mmard.attacks.inner import PARTS
from mmard.config import recipes
from mmard.core.method import Method
from mmard.costs import cost_of, in_words
from mmard.data.sources import SOURCES
from mmard.methods import METHODS
from mmard.models.students import FAMILIES
from mmard.papers import paper_of
from mmard.terms import BOUNDARIES, OTHERS, SCENARIOS, TRIANGLES


def catalogue() -> dict[str, dict[str, str]]:
    """title → name → line."""
    terms = {
        **SCENARIOS,
        **OTHERS,
        **{f"{n} (inner)": t for n, t in BOUNDARIES.items()},
        **{f"{n} (outer)": t for n, t in TRIANGLES.items()},
    }
    return {
        "methods": {name: _method(builder) for name, builder in METHODS.items()},
        "models": {name: line for name, (line, _) in FAMILIES.items()},
        "data": dict(SOURCES),
        "terms": {name: f"{o}   {_first_line(o.terms[0][1].function)}" for name, o in terms.items()},
        "inner": {f"attack.{name}": line for name, line in PARTS.items()},
        "recipes": {
            name: yaml.safe_load(path.read_text(encoding="utf-8")).get("about", "") for name, path in recipes().items()
        },
    }


def _method(builder: Callable[..., Method]) -> str:
    method = builder()
    paper = f"paper: {paper_of(builder)}\n" if paper_of(builder) else ""
    return f"{_first_line(builder)}\n{paper}{method}\ncost:  {in_words(cost_of(method))}\n"


def _first_line(thing: Callable[..., Any]) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
