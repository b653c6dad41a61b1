"""`python -m hotsplit`: the same as `hotsplit`."""

from __future__ import annotations

import sys

from exporter.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
