"""Run folders: written, read, grouped, their findings, and what they lack."""

from mmard.utils.moved import forward

__getattr__ = forward(__name__, "mmard.runs.folder")
