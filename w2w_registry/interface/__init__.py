"""The public Python API behind :func:`w2w_registry.open`: one handle, its methods named like the commands."""
