"""The Python interface: from settings to results, as the command line does."""

from mmard.utils.moved import forward

__getattr__ = forward(__name__, "mmard.api.train")
