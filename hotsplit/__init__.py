"""The program's name for `python -m hotsplit`; the code is in `planner` and `exporter`."""
