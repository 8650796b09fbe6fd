"""``python -m mmard``: the command line."""

from mmard.cli import main

main()
