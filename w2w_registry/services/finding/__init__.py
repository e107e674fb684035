"""Finding identities by likeness: the index of a space kept as new as the catalog, search over it, whom a new LoRA
resembles, and contact sheets of what was found."""
