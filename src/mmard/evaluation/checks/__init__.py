"""Checks of an evaluation: reasons to believe or doubt its figures."""

from mmard.utils.moved import forward

__getattr__ = forward(__name__, "mmard.evaluation.checks.messages")
