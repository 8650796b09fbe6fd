"""State that methods carry from step to step, as buffers: saved, resumed, and averaged over processes."""
