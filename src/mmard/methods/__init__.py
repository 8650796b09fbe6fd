"""The methods of the field, a file each paper: to read this folder is to read the literature."""

from collections.abc import Callable

from mmard.core.method import Method
from mmard.methods.absld import absld
from mmard.methods.adaad import adaad
from mmard.methods.adaiad import adaiad
from mmard.methods.adr import adr
from mmard.methods.ard import ard
from mmard.methods.awp import awp
from mmard.methods.b_mtard import b_mtard
from mmard.methods.ciard import ciard
from mmard.methods.dgad import dgad
from mmard.methods.fair import fair
from mmard.methods.iad import iad, iad_2
from mmard.methods.ibd import ibd
from mmard.methods.igdm import igdm
from mmard.methods.kd import kd
from mmard.methods.mart import mart
from mmard.methods.mmard import mmard
from mmard.methods.mtard import mtard
from mmard.methods.peeraid import peeraid
from mmard.methods.pgd_at import pgd_at
from mmard.methods.rebat import rebat
from mmard.methods.rpat import rpat
from mmard.methods.rslad import rslad
from mmard.methods.saad import saad, saad_c
from mmard.methods.standard import standard
from mmard.methods.trades import trades
from mmard.methods.waypoints import waypoints

METHODS: dict[str, Callable[..., Method]] = {
    "standard": standard,
    "pgd_at": pgd_at,
    "trades": trades,
    "mart": mart,
    "adr": adr,
    "rebat": rebat,
    "kd": kd,
    "ard": ard,
    "iad": iad,
    "iad_2": iad_2,
    "rslad": rslad,
    "adaad": adaad,
    "adaiad": adaiad,
    "dgad": dgad,
    "ibd": ibd,
    "mtard": mtard,
    "b_mtard": b_mtard,
    "absld": absld,
    "saad": saad,
    "saad_c": saad_c,
    "mmard": mmard,
    "peeraid": peeraid,
    "ciard": ciard,
    "igdm": igdm,
    "fair": fair,
    "awp": awp,
    "rpat": rpat,
    "waypoints": waypoints,
}
