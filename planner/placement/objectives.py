"""What a placement maximises: the sum of one number for each hot neuron. One table, one row an objective.

The number is a neuron's impact, v_e in the paper's program (SOSP'24, section 6.3), and follows from how often the
neuron is activated, f_e, and from the bytes of one neuron of its layer, M_n. To add an objective, add a row: the
option, the key of a study, plans, the proof and the checks follow from it.

Inside a layer an objective must rank neurons as the statistics do, because the exporter selects by these; a factor for
each layer always does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from planner.base.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

    from planner.activations.hotness import Hotness

Values: TypeAlias = "Sequence[npt.NDArray[Any]]"


class Objective(NamedTuple):
    """One thing to maximise.

    Attributes:
        name: in options, studies and plans.
        unit: what its numbers count, for people.
        about: what it is good for, in the help of `--objective`.
        impacts: from the statistics of every layer, shape (n_ff of the layer,) each, and the bytes of one neuron of
            each layer, makes the impacts, in the same shapes. Given back as they came, nothing is sorted again.
    """

    name: str
    unit: str
    about: str
    impacts: Callable[[Values, Sequence[int]], Values]

    def hotness(self, by_activations: Hotness, values: Values, neuron_bytes: Sequence[int]) -> Hotness:
        """Returns the sorted impacts: `by_activations`, the sorted `values`, itself where they are the same."""
        from planner.activations.hotness import Hotness

        impacts = self.impacts(values, neuron_bytes)
        return by_activations if impacts is values else Hotness.from_values(impacts)


def _activations(values: Values, neuron_bytes: Sequence[int]) -> Values:
    """The paper's v_e = f_e."""
    return values


def _host_reads(values: Values, neuron_bytes: Sequence[int]) -> Values:
    """f_e * M_n: bytes that the host need not read while the statistics' text is decoded.

    Decoding waits for bytes (docs/speed.md), and a neuron on the GPU saves the same share of time for each of them. It
    differs from the paper's objective where layers' neurons differ in bytes, as in mixed quantisations: there it
    prefers the neuron that fires more often, the paper's the one that does so for less VRAM.
    """
    import numpy as np

    return [np.multiply(column, size, dtype=np.float64) for column, size in zip(values, neuron_bytes, strict=True)]


DEFAULT = "activations"
# The relative gap that counts as optimal where nobody says: one for `plan` and for studies.
RELATIVE_GAP = 1e-5
OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {
        objective.name: objective
        for objective in (
            Objective("activations", "activations", "as in the paper", _activations),
            Objective(
                "host-reads",
                "bytes of host reads",
                "bytes that the host need not read, which differs where layers are quantised differently",
                _host_reads,
            ),
        )
    }
)


def known_objective(name: str) -> Objective:
    """Returns the objective called `name`.

    Raises:
        InputError: there is none of that name; the message lists those there are.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective {name[:80]!r} is not known; known are {', '.join(OBJECTIVES)}")
    return OBJECTIVES[name]
