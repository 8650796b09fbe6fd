"""The paper of each method, as data that stands beside it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from mmard.core.method import Method


@dataclass(frozen=True, kw_only=True)
class Citation:
    """Cite a paper.

    Args:
        authors: in short.
        venue: of its publication; empty for one that stands on arXiv alone.
        year: of its publication.
        arxiv: its number there; empty where it has none or we know of none.
    """

    authors: str
    title: str
    year: int
    venue: str = ""
    arxiv: str = ""

    def __str__(self) -> str:
        published = f"{self.venue} {self.year}".lstrip()
        return ", ".join(filter(None, (self.authors, published, f"arXiv {self.arxiv}" if self.arxiv else "")))


def paper_of(builder: Callable[..., Method]) -> str:
    """Cite the paper of a method in short, from ``CITATION`` in its file; empty where there is none.

    >>> from mmard.methods import rslad
    >>> paper_of(rslad)
    'Zi et al., ICCV 2021, arXiv 2108.07969'
    """
    return str(getattr(inspect.getmodule(builder), "CITATION", ""))
