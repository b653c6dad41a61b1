"""Recorded counts of how often each expert was chosen: read from any recorder, added up, and judged."""
