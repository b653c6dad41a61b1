"""Recorded activations: folders of .pt files, published summaries, curves, and their sorted form."""
