"""From settings to results: what the command line does, for Python."""
