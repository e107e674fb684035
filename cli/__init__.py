"""The command line: parse, call one service, print. ``main`` is the console script."""

from .app import main

__all__ = ["main"]
