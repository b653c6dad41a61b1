"""Configuration files: bounded YAML, the declared schema, values with units, and readable faults."""
