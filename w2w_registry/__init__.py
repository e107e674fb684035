"""w2w-registry: a registry of identity models as coordinates in a versioned weight space."""

__version__ = "0.1.0"
