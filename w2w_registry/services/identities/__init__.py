"""The identities of the registry: LoRA files coming in, the one way in which any version is recorded, the labels and
previews that belong to it, and looking after what is there (list, show, remove, aliases, tags, history)."""
