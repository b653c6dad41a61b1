"""What this machine has: GPUs through NVML, their order in CUDA, and the host's memory."""
