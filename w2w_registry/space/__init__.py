"""Weight-space mathematics: pure functions over arrays; no I/O, no sibling package."""
