"""Heavy kernels of single stories, each reached through a hook of its story."""
