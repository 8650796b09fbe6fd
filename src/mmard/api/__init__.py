"""From settings to results: what the command line does, for Python."""

from mmard.utils.moved import forward

__getattr__ = forward(__name__, "mmard.api.train")
