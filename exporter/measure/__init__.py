"""Measures the machine it runs on, for the speed model: memory, scattered rows, GPU, link; no compiler needed."""
