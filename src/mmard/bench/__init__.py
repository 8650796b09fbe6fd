"""Benchmark of a training step, against the same step written plainly and against the base method."""
