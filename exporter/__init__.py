"""Writes a plan in the form that an engine loads, and checks such files.

The names in `__all__` are the library; `docs/api.md` describes each. They are loaded when they are first used, because
some bring torch with them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from exporter.api import export as export
    from exporter.api import verify as verify
    from exporter.demo.folder import write_demo as write_demo
    from exporter.powerinfer.compare import compare as compare
    from exporter.powerinfer.convert import convert as convert
    from exporter.powerinfer.export import append_gpu_idx as append_gpu_idx
    from exporter.powerinfer.export import export_plan as export_plan
    from exporter.powerinfer.export import export_split as export_split
    from exporter.powerinfer.export import load_activation_weights as load_activation_weights
    from exporter.powerinfer.index_file import IndexFile as IndexFile
    from exporter.profile.run import ProfileOptions as ProfileOptions
    from exporter.profile.run import profile as count_activations

_HOMES = {
    "IndexFile": ("exporter.powerinfer.index_file", "IndexFile"),
    "ProfileOptions": ("exporter.profile.run", "ProfileOptions"),
    "append_gpu_idx": ("exporter.powerinfer.export", "append_gpu_idx"),
    "compare": ("exporter.powerinfer.compare", "compare"),
    "convert": ("exporter.powerinfer.convert", "convert"),
    "count_activations": ("exporter.profile.run", "profile"),
    "export": ("exporter.api", "export"),
    "export_plan": ("exporter.powerinfer.export", "export_plan"),
    "export_split": ("exporter.powerinfer.export", "export_split"),
    "load_activation_weights": ("exporter.powerinfer.export", "load_activation_weights"),
    "verify": ("exporter.api", "verify"),
    "write_demo": ("exporter.demo.folder", "write_demo"),
}

__all__ = [
    "IndexFile",
    "ProfileOptions",
    "append_gpu_idx",
    "compare",
    "convert",
    "count_activations",
    "export",
    "export_plan",
    "export_split",
    "load_activation_weights",
    "verify",
    "write_demo",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        home, own_name = _HOMES[name]
        return getattr(import_module(home), own_name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
