"""The package against a second, naive implementation of the formulas."""
