"""What each engine makes of its file of experts, written from the engine's source and not from ours.

A writer may ask a rule; a rule never asks a writer, so that the one can be held against the other.
"""
