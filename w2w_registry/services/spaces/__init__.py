"""Weight spaces: fitted from LoRAs, fitted again, imported and exported, kept in the artifact store; placing a LoRA in
one; and the files they come in, the public weights2weights release among them."""
