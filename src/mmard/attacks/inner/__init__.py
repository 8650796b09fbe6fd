"""Variants of the inner process: how training examples are made."""

from mmard.utils.moved import forward

__getattr__ = forward(__name__, "mmard.attacks.inner.compose")
