"""Reading this folder is reading the field: one file per paper."""

from collections.abc import Callable

from mmard.core.method import Method
from mmard.methods.adaad import adaad
from mmard.methods.ard import ard
from mmard.methods.awp import awp
from mmard.methods.ciard import ciard
from mmard.methods.fair import fair
from mmard.methods.igdm import igdm
from mmard.methods.mmard import mmard
from mmard.methods.peeraid import peeraid
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
    "mmard": mmard,
    "peeraid": peeraid,
    "ciard": ciard,
    "igdm": igdm,
    "fair": fair,
    "awp": awp,
}
