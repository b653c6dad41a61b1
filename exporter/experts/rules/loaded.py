"""What an engine ends with after it has read its file: the experts of each layer that are on a GPU."""

from __future__ import annotations

from planner.base.record import Record


class Loaded(Record):
    """The result of an engine's rule.

    Attributes:
        experts: for each layer of the file, by its number in the model, the experts on any GPU, ascending.
        n_expert: how many experts each of these layers has, where the file says so.
        faults: why the engine would stop, or do something else than the file seems to say, one line each.
    """

    experts: dict[int, tuple[int, ...]]
    n_expert: dict[int, int]
    faults: tuple[str, ...] = ()
