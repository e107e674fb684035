"""The command line: parse, call one service, print. ``main`` is the console script."""

from w2w_registry.cli.app import main

__all__ = ["main"]
