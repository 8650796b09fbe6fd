"""Kinds of settings that are written in several ways: networks, trackers, parts of a batch."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from mmard.models.foreign import NetworkSpec
from mmard.training.tracking import TRACKERS


def _parts(value: Any) -> Any:
    if value is None or value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("expected a number of images from 1, or auto")


def _trackers(value: Any) -> Any:
    """Read trackers: a list, one word, or words with commas between."""
    words = [word.strip() for word in value.split(",")] if isinstance(value, str) else value or []
    if wrong := [word for word in words if word not in ("tensorboard", *TRACKERS)]:
        raise ValueError(f"expected some of tensorboard, {', '.join(TRACKERS)}, got {wrong[0]}")
    return list(dict.fromkeys(words))


def _network(value: Any) -> Any:
    """Write a network given as keys and values as one text: ``{name: net.py:build, width: 8}`` → ``net.py:build(width=8)``."""
    return str(NetworkSpec.of(value)) if isinstance(value, Mapping) else value


def _teacher(value: Any) -> Any:
    """Read ``none`` as no teacher: it is no folder of that name."""
    return None if isinstance(value, str) and value.lower() == "none" else value


def _teachers(value: Any) -> Any:
    """Read ``none`` as no teachers, and none of a name as no such teacher."""
    if not isinstance(value, Mapping):
        return {} if _teacher(value) is None else value
    return {name: each for name, each in value.items() if _teacher(each) is not None}


Parts = Annotated[int | Literal["auto"] | None, BeforeValidator(_parts)]
Network = Annotated[str, BeforeValidator(_network)]
Teacher = Annotated[Network | None, BeforeValidator(_teacher)]
Teachers = Annotated[dict[str, Network], BeforeValidator(_teachers)]
Trackers = Annotated[list[str], BeforeValidator(_trackers)]
