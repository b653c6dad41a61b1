"""Benchmarks: `python -m benchmarks` times every phase; questions of their own have a module of their own."""
