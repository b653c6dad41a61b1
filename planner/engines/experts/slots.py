"""Slots of thecodacus/llama.cpp: equally many experts of every layer, from a CSV of choices.

Known from pull requests 5 to 8 of July 2026 only, which were read and not run.
"""

from __future__ import annotations

from planner.engines.experts.llama_cpp import LlamaCpp


class Slots(LlamaCpp):
    """One number of slots for each layer."""

    name = "slots"
    title = "slots (thecodacus/llama.cpp)"
    about = "slots of thecodacus/llama.cpp: equally many experts of every layer; read in a pull request only"
    one_number = True
    default_choice = None
    caution = "the engine `slots` was read in pull requests 5 to 8 of thecodacus/llama.cpp only and never seen running"


ENGINE = Slots()
