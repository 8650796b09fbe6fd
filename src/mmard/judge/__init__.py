"""Judging a model: what is asked, what it is asked of, and what is kept of the answer."""
