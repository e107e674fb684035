"""Short, runnable examples; the tests run them."""
