"""Headers of model files: GGUF and ggml's tensor types. Tensor data is never read."""
