"""Where versions come from, and whether that holds: lineage and manifests, replay, verification of stored files and
signed folders. Graphs and replay plans are pure, in ``w2w_registry.provenance``."""
