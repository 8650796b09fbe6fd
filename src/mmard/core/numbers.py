"""Numbers as people write them, 8/255, 1e-3, 0.5; and seeds."""

import hashlib
from typing import Any


def parse_number(value: Any) -> float:
    """``"8/255"`` → 0.0313…

    Raises:
        ValueError: when it is no number.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        above, slash, below = str(value).partition("/")
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError) as e:
        raise ValueError("expected a number such as 8/255 or 0.03") from e


def seed_of(*parts: int | str) -> int:
    """A seed that depends on all the parts and on nothing else."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=7).digest())
