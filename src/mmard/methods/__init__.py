"""Reading this folder is reading the field: one file per paper."""

from collections.abc import Callable

from mmard.core.method import Method
from mmard.methods.adaad import adaad
from mmard.methods.ard import ard
from mmard.methods.iad import iad, iad_2
from mmard.methods.mmard import mmard
from mmard.methods.mtard import mtard
from mmard.methods.pgd_at import pgd_at
from mmard.methods.rslad import rslad
from mmard.methods.standard import standard
from mmard.methods.trades import trades

METHODS: dict[str, Callable[..., Method]] = {
    "standard": standard,
    "pgd_at": pgd_at,
    "trades": trades,
    "ard": ard,
    "rslad": rslad,
    "adaad": adaad,
    "iad": iad,
    "iad_2": iad_2,
    "mtard": mtard,
    "mmard": mmard,
}
