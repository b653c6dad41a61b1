"""Coverage-guided fuzzing of everything that reads a file: `python -m fuzz --seconds 60` (needs the `fuzz` extra)."""
