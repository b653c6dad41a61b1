"""Writes a placement in the form the PowerInfer engine loads: the PWRI GPU index.

The names below are the library; they are imported on first use, because they bring torch with them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.powerinfer.export import append_gpu_idx as append_gpu_idx
    from exporter.powerinfer.export import export_plan as export_plan
    from exporter.powerinfer.export import export_split as export_split
    from exporter.powerinfer.export import load_activation_weights as load_activation_weights

__all__ = ["append_gpu_idx", "export_plan", "export_split", "load_activation_weights"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("exporter.powerinfer.export"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
