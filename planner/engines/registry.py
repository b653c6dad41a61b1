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


def engines_of_experts() -> tuple[str, ...]:
    """Returns the names of the engines that place experts, without loading them."""
    return tuple(name for name, module in ENGINES.items() if module.startswith("planner.engines.experts."))


def names_experts(document: object) -> bool:
    """Says whether a study's file names an engine that places experts under `engine`; overrides do not count."""
    value = document.get("engine") if isinstance(document, dict) else None
    known = engines_of_experts()
    return any(isinstance(each, str) and each in known for each in (value if isinstance(value, list) else [value]))


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
