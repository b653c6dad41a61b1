"""The commands of the planner, one module each: `add_parser` is light, `run` imports what it needs."""
