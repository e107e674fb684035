"""Provenance, pure: the graph of operations and versions, its drawings, W3C PROV, manifests and replay."""
