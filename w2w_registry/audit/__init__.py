"""Tamper evidence, pure: the hash chain, RFC 9162 Merkle trees, signed checkpoints, checks and the export format."""
