"""Which paper a method is of, as the docstring of its file says it."""

import inspect
import re
from collections.abc import Callable

from mmard.core.method import Method

PAPER = re.compile(
    r'[^:]+: (?P<who>[^"]+), "(?P<title>[^"]+)"[.,]\s+(?P<where>(?:\w+ )?\d{4})\b(?:[.,]\s+(?P<arxiv>arXiv \d{4}\.\d{4,5}))?'
)


def paper_of(builder: Callable[..., Method]) -> str:
    """Authors, venue and year, arXiv number where there is one; empty for what is of no paper.

    >>> from mmard.methods import rslad
    >>> paper_of(rslad)
    'Zi et al., ICCV 2021, arXiv 2108.07969'
    """
    module = inspect.getmodule(builder)
    found = PAPER.match((module.__doc__ if module else None) or "")
    return ", ".join(filter(None, found.group("who", "where", "arxiv"))) if found else ""
