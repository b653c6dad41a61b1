"""Which experts go to the GPU: most choices covered, the best worst case, or the least bytes, each with its proof."""
