"""The name under which the command line runs as a module: `python -m hotsplit`.

The library is in `planner` and `exporter` (docs/api.md).
"""

from planner import __version__ as __version__
