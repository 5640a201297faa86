"""What the methods share: a story's density, its structure, its symmetries, checkpoints."""
