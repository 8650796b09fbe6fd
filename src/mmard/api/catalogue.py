"""The catalogue of methods, models, data, terms and recipes, with one line each."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mmard.api.recipe_files import recipes
from mmard.attacks.inner.compose import PARTS
from mmard.core.method import Method
from mmard.data.sources import SOURCES
from mmard.methods import METHODS
from mmard.methods.papers import paper_of
from mmard.models.architectures import FAMILIES
from mmard.models.foreign import ELSEWHERE
from mmard.terms import BOUNDARIES, OTHERS, SCENARIOS, TRIANGLES
from mmard.training.passes import cost_of, in_words
from mmard.utils.text_files import read_yaml


def catalogue() -> dict[str, Callable[[], dict[str, str]]]:
    """Return title → a function that makes that list, name → line; that of methods counts passes for a second."""
    terms = {
        **SCENARIOS,
        **OTHERS,
        **{f"{n} (inner)": t for n, t in BOUNDARIES.items()},
        **{f"{n} (outer)": t for n, t in TRIANGLES.items()},
    }
    return {
        "methods": lambda: {name: _method(builder) for name, builder in METHODS.items()},
        "models": lambda: {**{name: line for name, (line, _) in FAMILIES.items()}, **ELSEWHERE},
        "data": lambda: {name: source.line for name, source in SOURCES.items()},
        "terms": lambda: {name: f"{o}   {_first_line(o.terms[0][1].function)}" for name, o in terms.items()},
        "inner": lambda: {f"attack.{name}": line for name, line in PARTS.items()},
        "recipes": lambda: {name: _about(path) for name, path in recipes().items()},
    }


def _about(recipe: Path) -> str:
    return str(read_yaml(recipe).get("about", ""))


def _method(builder: Callable[..., Method]) -> str:
    method = builder()
    paper = f"paper: {paper_of(builder)}\n" if paper_of(builder) else ""
    return f"{_first_line(builder)}\n{paper}{method}\ncost:  {in_words(cost_of(method))}\n"


def _first_line(thing: Callable[..., Any]) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
