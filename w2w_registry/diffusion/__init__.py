"""Diffusion models: train, invert and draw identities. The only place that imports torch; imported where it is used."""
