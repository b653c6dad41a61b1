"""The commands of the exporter, one module each: `add_parser` is light, `run` imports what it needs."""
