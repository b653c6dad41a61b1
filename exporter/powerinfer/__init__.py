"""PowerInfer's files: the GPU index, its checks, the engine's helper call, and the doctor."""
