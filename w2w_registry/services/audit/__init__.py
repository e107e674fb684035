"""The audit log: signed checkpoints, verification, proofs and export, and ready questions to log and catalog. The
chain and its checks are pure, in ``w2w_registry.audit``."""
