"""Numbers as people write them: 8/255, 1e-3, 0.5."""

from typing import Any

from mmard.core.errors import MmardError


def parse_number(value: Any, name: str = "value") -> float:
    """``"8/255"`` → 0.0313…

    Raises:
        MmardError: when it is no number.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    try:
        above, slash, below = str(value).partition("/")
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError) as e:
        raise MmardError(f"{name} is {value!r}, expected a number such as 8/255 or 0.03") from e
