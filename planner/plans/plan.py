"""The plan: which units of a model go on the GPU, decided from what, with its proof. The records are the file's schema.

A plan file is a JSON object with `"format": "hotsplit.plan"` and `"version": 2`. Only `units` and `vram_required_bytes`
are required besides; the other sections say what the answer rests on, and whoever acts on a plan checks it against
them. Unknown keys are ignored, so other programs can add their own. There are no timestamps: equal inputs give equal
bytes. `planner.plans.file` reads and writes the file, `planner.plans.version_1` reads plans of the first version.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, TypeAlias

from planner.base.record import field
from planner.config.schema import ExpectedError, Limits, OpenTable, written_as

Natural: TypeAlias = Annotated[int, Limits(ge=0, le=(1 << 63) - 1)]
_NonNegative: TypeAlias = Annotated[float, Limits(ge=0)]
_Share: TypeAlias = Annotated[float, Limits(ge=0, le=1)]
_OneOrMore: TypeAlias = Annotated[int, Limits(ge=1, le=(1 << 63) - 1)]

NEURONS = "neurons"


def _file_path(value: object) -> str:
    """Returns a path that the system's calls take: without NUL, and with no surrogate but those for bytes."""
    if isinstance(value, str) and "\0" not in value:
        with contextlib.suppress(UnicodeEncodeError):
            os.fsencode(value)
            return value
    raise ExpectedError("a file's path")


FilePath: TypeAlias = Annotated[str, written_as(_file_path, {"type": "string"})]
# The objective is a sum of up to tens of millions of float64 terms, printed and read back.
_FLOAT_TOLERANCE = 1e-9


class UnitGroup(OpenTable):
    """Units of one kind that share a size: the neurons of a layer, or the experts of a layer.

    Attributes:
        label: the group's name in statistics and in the engine's file, such as `3` for a layer.
        placed: how many of its units go on a GPU. Without `ids` they are the hottest ones.
        units: how many units there are; None when a plan written by hand does not say.
        unit_bytes: bytes that one unit takes on the GPU; None likewise.
        step: units come in multiples of this number, or all of them.
        ids: the units by number, ascending, for each device; None when the hottest are meant.
    """

    label: str
    placed: Natural
    units: Natural | None = None
    unit_bytes: Natural | None = None
    step: _OneOrMore = 1
    ids: dict[str, tuple[Natural, ...]] | None = None


class Units(OpenTable):
    """What the plan places: groups of units of one kind."""

    groups: Annotated[tuple[UnitGroup, ...], Limits(min_length=1)]
    kind: str = NEURONS


class PlannedModel(OpenTable):
    """The model a plan was made for.

    Attributes:
        path: the model as it was named; for information, so that a plan may travel.
        architecture: the header's `general.architecture`, or the model type of a folder.
        fingerprint: of the header and the length of the file (`sha256:…`).
    """

    path: FilePath
    architecture: str
    fingerprint: str


class PlannedStatistics(OpenTable):
    """Recorded counts that the plan was made from; `fingerprint` covers their values, not their files.

    Attributes:
        path: the folder or file; several files of one workload are joined by commas.
        name: the workload's name, None where there is one workload without a name.
        weight: of the workload among several.
    """

    path: FilePath
    fingerprint: str
    name: str | None = None
    weight: _NonNegative | None = None


class PlannedEngine(OpenTable):
    """The engine a plan is for, and the settings that its bytes depend on.

    Attributes:
        name: a name of `planner.engines`.
        settings: as the engine's options state them, such as `{"context": "512"}`.
    """

    name: str
    settings: dict[str, str] = field(default_factory=dict)


class PlannedBudget(OpenTable):
    """Where the bytes for units come from: `units_bytes = budget_bytes - the sum of charges`.

    Attributes:
        source: what the budget rests on, for people.
        gpu_uuid: the GPU whose memory was read, or None.
        charges: what the engine takes first, bytes by name, such as `dense_bytes` and `kv_cache_bytes`.
        units_bytes: what is left for units.
    """

    source: str
    budget_bytes: Natural
    charges: dict[str, Natural]
    units_bytes: Natural
    gpu_uuid: str | None = None


class SolverReport(OpenTable):
    """The answer's proof: no placement covers more than `upper_bound`; this one covers `objective`.

    Attributes:
        name: the solver.
        status: `optimal`, or `feasible` when a time limit came first.
        objective, upper_bound: in units of what was maximised.
        relative_gap: (upper_bound - objective) / upper_bound.
        maximises: a name of `planner.placement.objectives`; None for activations.
    """

    name: str
    status: str
    objective: _NonNegative
    upper_bound: _NonNegative
    relative_gap: _NonNegative
    maximises: str | None = None


class Plan(OpenTable):
    """Which units go on the GPU, with what the answer rests on.

    Attributes:
        units: the groups and what is placed of each.
        vram_required_bytes: bytes that the placed units take.
        hit_rate: share of all recorded activations, or choices of experts, that the placed units cover.

    Example:
        >>> plan = Plan.of_solved_list((3, 4), 110)
        >>> plan.solved_list
        (3, 4)
        >>> plan
        Plan(7 neurons in 2 groups, 110 bytes)
    """

    units: Units
    vram_required_bytes: Natural
    engine: PlannedEngine | None = None
    model: PlannedModel | None = None
    statistics: tuple[PlannedStatistics, ...] = ()
    budget: PlannedBudget | None = None
    solver: SolverReport | None = None
    hit_rate: _Share | None = None

    @classmethod
    def of_solved_list(
        cls,
        solved_list: Sequence[int],
        vram_required_bytes: int,
        *,
        labels: Sequence[str] | None = None,
        n_units: Sequence[int] | None = None,
        unit_bytes: Sequence[int] | None = None,
        **sections: Any,
    ) -> Plan:
        """Returns the plan of a solved list: how many of the hottest units of each group are placed.

        Args:
            solved_list: a number for each group.
            vram_required_bytes: bytes that these units take.
            labels: what the groups are called; `0`, `1`, … by default.
            n_units: units of each group, where they are known.
            unit_bytes: bytes of one unit of each group, where they are known.
            **sections: further fields of the plan.
        """
        names = labels if labels is not None else list(map(str, range(len(solved_list))))
        groups = tuple(
            UnitGroup(
                label=label,
                placed=placed,
                units=n_units[number] if n_units is not None else None,
                unit_bytes=unit_bytes[number] if unit_bytes is not None else None,
            )
            for number, (label, placed) in enumerate(zip(names, solved_list, strict=True))
        )
        return cls(units=Units(groups=groups), vram_required_bytes=vram_required_bytes, **sections)

    @property
    def groups(self) -> tuple[UnitGroup, ...]:
        """The groups of units, in the engine's order."""
        return self.units.groups

    @property
    def solved_list(self) -> tuple[int, ...]:
        """How many units of each group are placed."""
        return tuple(group.placed for group in self.groups)

    @property
    def labels(self) -> tuple[str, ...]:
        """What each group is called."""
        return tuple(group.label for group in self.groups)

    def __repr__(self) -> str:
        placed, groups = sum(self.solved_list), len(self.groups)
        share = f", {self.hit_rate:.1%} covered" if self.hit_rate is not None else ""
        return f"Plan({placed:,} {self.units.kind} in {groups:,} groups{share}, {self.vram_required_bytes:,} bytes)"

    def contradictions(self) -> list[str]:
        """Returns where the plan disagrees with itself, one line each; empty for a valid plan."""
        lines = [line for number, group in enumerate(self.groups) for line in _of_group(number, group)]
        lines += _repeated(self.labels)
        if self.budget is not None:
            lines += self._of_budget(self.budget)
        if all(group.unit_bytes is not None for group in self.groups):
            lines += self._of_bytes()
        if self.solver is not None:
            lines += solver_contradictions(self.solver)
        return lines

    def _of_bytes(self) -> Iterator[str]:
        needed_bytes = sum(group.placed * (group.unit_bytes or 0) for group in self.groups)
        if needed_bytes != self.vram_required_bytes:
            yield (
                f"vram_required_bytes: found {self.vram_required_bytes}, but placed × unit_bytes of all groups "
                f"is {needed_bytes}"
            )

    def _of_budget(self, budget: PlannedBudget) -> Iterator[str]:
        left_bytes = budget.budget_bytes - sum(budget.charges.values())
        if budget.units_bytes != left_bytes:
            names = ", ".join(budget.charges) or "nothing"
            yield f"budget.units_bytes: found {budget.units_bytes}, but budget_bytes less {names} is {left_bytes}"
        if self.vram_required_bytes > budget.units_bytes:
            yield (
                f"vram_required_bytes: found {self.vram_required_bytes}, "
                f"more than budget.units_bytes, which is {budget.units_bytes}"
            )


def _of_group(number: int, group: UnitGroup) -> Iterator[str]:
    where = f"units.groups[{number}]"
    if group.units is not None and group.placed > group.units:
        yield f"{where}.placed: found {group.placed}, but the group has {group.units}"
    elif group.placed % group.step and group.placed != group.units:
        yield f"{where}.placed: found {group.placed}, expected a multiple of step, {group.step}, or all of its units"
    if group.ids is None:
        return
    named = [unit for ids in group.ids.values() for unit in ids]
    if len(named) != group.placed:
        yield f"{where}.ids: found {len(named)} units, but placed is {group.placed}"
    if (twice := _first_repeated(named)) is not None:
        yield f"{where}.ids: found unit {twice} twice"
    if group.units is not None and named and max(named) >= group.units:
        yield f"{where}.ids: found unit {max(named)}, expected 0 to {group.units - 1}"
    for device, ids in group.ids.items():
        if any(later <= earlier for earlier, later in itertools.pairwise(ids)):
            yield f"{where}.ids.{device}: expected ascending numbers"


def _first_repeated(units: list[int]) -> int | None:
    seen: set[int] = set()
    for unit in units:
        if unit in seen:
            return unit
        seen.add(unit)
    return None


def _repeated(labels: tuple[str, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for number, label in enumerate(labels):
        if label in seen:
            yield f"units.groups[{number}].label: found {label!r} twice"
        seen.add(label)


def solver_contradictions(solver: SolverReport) -> Iterator[str]:
    """Yields where a proof disagrees with itself."""
    if solver.objective > solver.upper_bound * (1 + _FLOAT_TOLERANCE):
        yield f"solver.objective: found {solver.objective}, more than solver.upper_bound, {solver.upper_bound}"
    elif solver.upper_bound > 0:
        gap = 1 - solver.objective / solver.upper_bound
        if abs(gap - solver.relative_gap) > _FLOAT_TOLERANCE:
            yield f"solver.relative_gap: found {solver.relative_gap}, but objective and upper_bound make it {gap}"
