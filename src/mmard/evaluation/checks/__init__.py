"""Checks of an evaluation: whether its figures can be believed."""

from mmard.utils.moved import forward

__getattr__ = forward(__name__, "mmard.evaluation.checks.messages")
