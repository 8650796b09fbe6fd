"""How figures were judged: under which threat, on which test images; and where that differs, whose is which."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mmard.evaluation.scores import Scores
from mmard.runs.record import data_name_of, threat_of

MOST_NAMED = 20


@dataclass(frozen=True)
class Judged:
    """The threat and the test images of an evaluation.

    Attributes:
        threat: such as ``L∞ 8/255``.
        samples: how many images.
        data: name of the data set, or of the file.
        images: digest of pixels and labels; empty in files from before it was recorded.
    """

    threat: str
    samples: int
    data: str
    images: str = ""

    def alike(self, other: "Judged") -> bool:
        """Tell whether a difference of the two says something of the models alone: one threat, the same test images."""
        return self.threat == other.threat and self.same_images(other)

    def same_images(self, other: "Judged") -> bool:
        """Tell whether the test images are the same: by their digest, where both have one, else by name and number."""
        if self.images and other.images:
            return self.images == other.images
        return (self.data, self.samples) == (other.data, other.samples)


def judged_of(metadata: Mapping[str, Any], samples: int, settings: Mapping[str, Any]) -> Judged:
    """Read from a scores.json how it was judged; ``settings`` are those of the run, for what an old file does not say."""
    own = metadata.get("settings")
    data = data_name_of(own if isinstance(own, dict) and own.get("data") else settings, "test")
    named = metadata.get("threat", threat_of(settings))
    return Judged(str(named) if named else "no attack", samples, data, str(metadata.get("test_images") or ""))


def judged_by(scores: Scores) -> Judged:
    """Read from scores how they were judged."""
    return judged_of(scores.metadata, len(scores.correct), {})


def how_judged(found: Iterable[tuple[str, Judged]]) -> str:
    """Describe how figures were judged; where that differs, whose is which.

    >>> how_judged([("a", Judged("L∞ 0.1", 9, "digits")), ("b", Judged("L∞ 0.1", 9, "digits"))])
    '9 test images, L∞ 0.1'
    >>> how_judged([("a", Judged("L∞ 0.1", 9, "digits")), ("b", Judged("L∞ 0.2", 9, "svhn"))])
    '9 test images of digits, L∞ 0.1 (a) or 9 test images of svhn, L∞ 0.2 (b)'
    """
    every = list(found)
    several = any(not one.same_images(every[0][1]) for _, one in every)
    many = {data for data in (one.data for _, one in every) if len({o.images for _, o in every if o.data == data}) > 1}

    def said(one: Judged) -> str:
        of = f" of {one.data}" if several else ""
        digest = f" ({one.images[:8] or 'not recorded'})" if several and one.data in many else ""
        return f"{one.samples:,} test images{of}{digest}, {one.threat}"

    return whose((name, said(one)) for name, one in every)


def whose(found: Iterable[tuple[str, str]]) -> str:
    """Join what is said of each name; where that differs, with the names.

    >>> whose([("a", "8/255"), ("b", "4/255"), ("c", "8/255")])
    '8/255 (a, c) or 4/255 (b)'
    """
    names: dict[str, dict[str, None]] = {}
    for name, text in found:
        names.setdefault(text, {})[name] = None
    if len(names) < 2:
        return next(iter(names), "")
    return " or ".join(f"{text} ({_few(list(of))})" for text, of in names.items())


def _few(names: list[str]) -> str:
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
