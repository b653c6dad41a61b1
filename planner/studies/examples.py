"""The studies that come with Hotsplit, by name: `configs/` of the checkout, and a part of every installed package."""

from __future__ import annotations

from pathlib import Path

from planner.base.errors import InputError
from planner.base.text import closest

# In a checkout a link to `configs/`; a wheel holds the files themselves.
FOLDER = Path(__file__).parent / "shipped"


def example_names() -> tuple[str, ...]:
    """Returns the names of the shipped studies, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def example(name: str) -> Path:
    """Returns the file of a shipped study.

    Raises:
        InputError: there is none of this name; the message lists those there are.
    """
    names = example_names()
    if name not in names:
        raise InputError(
            f"--example: found {name[:80]!r}, expected one of {', '.join(names) or '(none is installed)'}"
            f"{closest(name, names)}"
        )
    return FOLDER / f"{name}.yaml"


def about_example(name: str) -> str:
    """Returns the first line of a shipped study: the question that it answers."""
    first = example(name).read_text("utf-8").partition("\n")[0]
    return first.removeprefix("#").strip()
