"""Methods of the literature, against a second implementation written from the papers' formulas in plain torch."""

METHODS_HERE = ("iad", "iad_2", "mtard")
