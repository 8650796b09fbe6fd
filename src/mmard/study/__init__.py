"""Studies: a grid of runs, several at once, to tables with tests and plots."""
