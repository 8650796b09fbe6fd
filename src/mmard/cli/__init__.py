"""The command line, a file a command."""

from mmard.cli.app import main

__all__ = ["main"]
