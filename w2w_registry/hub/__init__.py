"""The Hugging Face Hub: plans, cards and bundles are pure; ``client`` is the only caller of huggingface_hub."""
