"""Figures as PNG files, drawn from records."""
