"""PowerInfer: its architectures, kernels, budget and memory account (llama.cpp of the engine at d3ebd7c)."""
