"""One benchmark a module, found by its name: ``rows(small)`` yields ``frame.Row`` as they are measured."""
