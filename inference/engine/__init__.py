"""What the methods share: the density of a story, its structure, its symmetries, its checkpoints."""
