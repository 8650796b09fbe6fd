"""How fast is a step, against the same step written plainly and against the base method."""
