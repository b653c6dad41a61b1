"""The engines there are: one row for each, loaded when it is asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from planner.base.errors import InputError
from planner.base.text import closest

if TYPE_CHECKING:
    from planner.engines.engine import Engine

DEFAULT_ENGINE = "powerinfer"
ENGINES: dict[str, str] = {
    "powerinfer": "planner.engines.powerinfer.engine",
    "ktransformers": "planner.engines.experts.ktransformers",
    "exllamav3": "planner.engines.experts.exllamav3",
    "hot-cache": "planner.engines.experts.hot_cache",
    "slots": "planner.engines.experts.slots",
}
"""The name of each engine, and the module that holds its `ENGINE`."""


def engine_named(name: str) -> Engine:
    """Returns an engine by its name.

    Raises:
        InputError: there is none of that name; the message lists those there are.
    """
    if name not in ENGINES:
        near = closest(name, tuple(ENGINES))
        raise InputError(f"engine {name[:80]!r} is not known; known are {', '.join(ENGINES)}{near}")
    engine: Engine = importlib.import_module(ENGINES[name]).ENGINE
    return engine
