"""The catalogue: GPUs, hosts and models with the source of every figure, and what a model entry expands to."""
