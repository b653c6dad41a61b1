"""The interface of an engine: what it makes of a model file, and what it has left for the units that it can place.

An engine places *units* of a model on a GPU: PowerInfer places FFN neurons, other engines place experts. Everything
between the model file and the engine's own file asks only what is declared here, so problem, solver, plan, evaluator,
reports and commands do not know which engine they work for. An engine is one room of this package with a module
`engine` that holds `ENGINE`, and one row in `planner.engines.registry`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from planner.base.errors import InputError
from planner.base.record import Record, field
from planner.engines.account import NOTHING_KNOWN, Account, Budget, KnownGpu

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.catalogue.entries import ModelEntry


class ReserveOptions(Record):
    """What replaces an engine's estimate of the memory that it takes beside its budget.

    Attributes:
        overrides: bytes by item; the engine says which items it knows (`Engine.reserve_items`).
        total_bytes: when given, the whole reserve, whatever the items say.
    """

    overrides: Mapping[str, int] = field(default_factory=dict)
    total_bytes: int | None = None

    def __post_init__(self) -> None:
        for key, n_bytes in self.overrides.items():
            if n_bytes < 0:
                raise InputError(f"reserve item {key!r} is {n_bytes} bytes; expected 0 or more")
        if self.overrides and self.total_bytes is not None:
            raise InputError(
                f"the reserve is given as a whole and by {next(iter(self.overrides))!r}; expected the whole or items"
            )
        if self.total_bytes is not None and self.total_bytes < 0:
            raise InputError(f"the reserve is {self.total_bytes} bytes; expected 0 or more")


class Settings(Record):
    """What the engine is started with, as far as its memory depends on it. None is the engine's own default.

    Attributes:
        context: tokens of context.
        kv_type: type of the KV cache, such as `f16`.
        batch: most tokens of a prompt that are processed at once.
        reserve: what replaces estimates.
    """

    context: int | None = None
    kv_type: str | None = None
    batch: int | None = None
    reserve: ReserveOptions = field(default_factory=ReserveOptions)


class EngineModel(Protocol):
    """A model, from a file's header or from declared dimensions, as an engine will place it.

    Groups are layers, or the experts of all layers; every list has one entry per group. Sizes are bytes.
    """

    @property
    def source(self) -> str:
        """The file, or where the dimensions come from; for messages."""
        ...

    @property
    def architecture(self) -> str:
        """As the file calls it."""
        ...

    @property
    def fingerprint(self) -> str:
        """`sha256:…` of the header or the dimensions."""
        ...

    @property
    def n_layer(self) -> int:
        """Layers of the model."""
        ...

    @property
    def n_units(self) -> tuple[int, ...]:
        """Units of each group."""
        ...

    @property
    def unit_bytes(self) -> tuple[int, ...]:
        """Bytes of one unit of each group."""
        ...

    @property
    def step(self) -> int:
        """The number of units in which a group must come for the engine to compute all of them."""
        ...

    @property
    def context_train(self) -> int | None:
        """The context that the model was made for; None when the file does not say."""
        ...

    @property
    def host_only_bytes(self) -> int:
        """Bytes that never leave the host."""
        ...

    @property
    def host_read_bytes(self) -> int:
        """Of those, what is read for every token."""
        ...

    @property
    def n_embd(self) -> int:
        """Width of a hidden state, which crosses the bus when a layer is split."""
        ...

    @property
    def gated(self) -> bool:
        """Whether the first row of a unit is that of a gate."""
        ...

    @property
    def unit_rows(self) -> tuple[tuple[str, int], ...]:
        """Rows of a unit of the first group, (type, bytes) each, the down row last; empty where it is no rows."""
        ...

    @property
    def dense_types(self) -> tuple[tuple[str, int], ...]:
        """The dense part by type, (type, bytes) each; empty where that is not known."""
        ...

    @property
    def objections(self) -> tuple[str, ...]:
        """Why the engine would refuse to load or to split this model; empty when it would not."""
        ...


class Engine(Protocol):
    """An engine, seen from the planner. Every method is a function of its arguments.

    Attributes:
        name: in options, studies and plans.
        about: one line for people.
        unit, units: what it places, such as `neuron` and `neurons`.
        kv_types: types of KV cache that it knows.
        reserve_items: items that `ReserveOptions.overrides` may name.
        defaults: the settings that are used where none are given.
    """

    name: str
    about: str
    unit: str
    units: str
    kv_types: Sequence[str]
    reserve_items: Sequence[str]
    defaults: Settings

    def read_model(self, path: Path) -> EngineModel:
        """Returns the model of a file, from its header alone.

        Raises:
            InputError: not a model that this engine can place, with the reason and what to use instead.
            OSError: the file cannot be read.
        """
        ...

    def declared_model(self, entry: ModelEntry, quantisation: str, *, source: str) -> EngineModel:
        """Returns the model of declared dimensions.

        Raises:
            InputError: an architecture or a quantisation that this engine does not have.
        """
        ...

    def statistics_beside(self, model: Path) -> Path:
        """Returns where the statistics of a model are when nobody says: where the engine looks."""
        ...

    def read_statistics(self, folder: Path, model: EngineModel | None) -> Statistics:
        """Returns recorded counts, checked against the model where there is one.

        Raises:
            InputError: damaged, or of another model.
            OSError: a file cannot be read.
        """
        ...

    def with_groups(self, model: EngineModel, labels: Sequence[str], n_units: tuple[int, ...]) -> EngineModel:
        """Returns the model with one group for each entry of its statistics, where these divide it further."""
        ...

    def automatic_budget(self, free_bytes: int, gpu: KnownGpu = NOTHING_KNOWN) -> Budget:
        """Returns the budget that the engine takes by itself on a GPU with `free_bytes` free."""
        ...

    def stated_budget(
        self, budget_bytes: int, gpu: KnownGpu = NOTHING_KNOWN, *, free_bytes: int | None = None
    ) -> Budget:
        """Returns the budget that the user states with the engine's own option; `free_bytes` where a GPU is known."""
        ...

    def account(self, model: EngineModel, budget: Budget, settings: Settings) -> Account:
        """Returns what becomes of the budget: a bill, the bytes left for units, and the engine's state.

        Raises:
            InputError: a setting that the engine does not have.
        """
        ...

    def model_notes(self, model: EngineModel) -> list[str]:
        """Returns why the engine would not run this model, or not split it, one line each."""
        ...

    def why_not_split(self, model: EngineModel) -> str | None:
        """Returns why the engine would place no units of this file, and what to do about it; None when it would."""
        ...

    def condition(self, model: EngineModel) -> str:
        """Returns under which condition the engine will do as its account says, such as `after conversion`."""
        ...

    def account_notes(self, account: Account) -> list[str]:
        """Returns what a user should know about an account, one line each."""
        ...

    def command_line(self, model: str, settings: Settings, budget_bytes: int | None) -> str | None:
        """Returns the command that starts the engine, to copy; None where only its writer knows (`exporter.engines`).

        Args:
            model: the path of the model.
            settings: what was planned; None in it is the engine's default.
            budget_bytes: a stated budget; None for the one that the engine finds itself.
        """
        ...

    def check_reserve(self, options: ReserveOptions) -> None:
        """Refuses items that are not in `reserve_items`.

        Raises:
            InputError: an unknown item; the message lists the known ones.
        """
        ...
