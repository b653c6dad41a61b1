"""PowerInfer behind the interface of all engines: it places FFN neurons of files that it calls `*.powerinfer.gguf`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.engines.account import NOTHING_KNOWN, Account, Budget, EngineState, KnownGpu
from planner.engines.engine import EngineModel, ReserveOptions, Settings
from planner.engines.powerinfer import budget as budgets
from planner.engines.powerinfer import supported_models
from planner.engines.powerinfer.account import KV_TYPE_BYTES, PowerInferAccount, account_for
from planner.engines.powerinfer.declared import dimensions_of
from planner.engines.powerinfer.defaults import ACTIVATIONS_FOLDER, DEFAULT_BATCH, DEFAULT_CONTEXT, DEFAULT_KV_TYPE
from planner.engines.powerinfer.expert_layers import with_experts
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions, geometry_from_header
from planner.engines.powerinfer.kernel_limits import unknown_ffn_types
from planner.engines.powerinfer.uncharged import ITEMS, check_reserve
from planner.model_files.header import read_header

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.catalogue.entries import ModelEntry


class PowerInfer:
    """See `planner.engines.engine.Engine`; models are `Geometry`, accounts `PowerInferAccount`."""

    name = "powerinfer"
    about = "PowerInfer: hot FFN neurons of ReLU models"
    unit = "neuron"
    units = "neurons"
    kv_types: Sequence[str] = tuple(KV_TYPE_BYTES)
    reserve_items: Sequence[str] = ITEMS
    defaults = Settings(context=DEFAULT_CONTEXT, kv_type=DEFAULT_KV_TYPE, batch=DEFAULT_BATCH)

    def read_model(self, path: Path) -> Geometry:
        """Returns the geometry of a model file (`planner.engines.powerinfer.geometry`)."""
        return geometry_from_header(read_header(path))

    def declared_model(self, entry: ModelEntry, quantisation: str, *, source: str) -> Geometry:
        """Returns the geometry of a catalogue entry's dimensions."""
        return geometry_from_dimensions(dimensions_of(entry, quantisation), source=source)

    def statistics_beside(self, model: Path) -> Path:
        """Returns `activation/` next to the model, where the engine looks (`llama.cpp` 3101-3106)."""
        return model.parent / ACTIVATIONS_FOLDER

    def read_statistics(self, folder: Path, model: EngineModel | None) -> Statistics:
        """Returns the counts of a folder of `activation_<L>.pt`."""
        from planner.activations.folder import read_statistics

        if model is None:
            return read_statistics(folder)
        return read_statistics(folder, n_layer=model.n_layer, n_ff=model.n_units)

    def with_groups(self, model: EngineModel, labels: Sequence[str], n_units: tuple[int, ...]) -> Geometry:
        """Returns the geometry with one FFN for each expert of each layer, where the statistics know experts."""
        return with_experts(_geometry(model), labels, n_units)

    def automatic_budget(self, free_bytes: int, gpu: KnownGpu = NOTHING_KNOWN) -> Budget:
        """Returns free memory less CUDA's context and 256 MiB."""
        return budgets.automatic_budget(free_bytes, gpu)

    def stated_budget(
        self, budget_bytes: int, gpu: KnownGpu = NOTHING_KNOWN, *, free_bytes: int | None = None
    ) -> Budget:
        """Returns the budget of `--vram-budget`."""
        return budgets.stated_budget(budget_bytes, gpu, free_bytes=free_bytes)

    def account(self, model: EngineModel, budget: Budget, settings: Settings) -> PowerInferAccount:
        """Returns the engine's account (`planner.engines.powerinfer.account`)."""
        return account_for(
            _geometry(model),
            budget,
            context=DEFAULT_CONTEXT if settings.context is None else settings.context,
            kv_type=settings.kv_type or DEFAULT_KV_TYPE,
            batch=DEFAULT_BATCH if settings.batch is None else settings.batch,
            reserve_options=settings.reserve,
        )

    def command_line(self, model: str, settings: Settings, budget_bytes: int | None) -> str:
        """Returns the call of `main` (`planner.engines.powerinfer.command_line`)."""
        from planner.engines.powerinfer.command_line import command_line

        return command_line(model, settings, budget_bytes)

    def check_reserve(self, options: ReserveOptions) -> None:
        """Refuses reserve items that this engine does not have."""
        check_reserve(options)

    def model_notes(self, model: EngineModel) -> list[str]:
        """Returns why the engine would not run this model, or not sparse."""
        unknown = unknown_ffn_types(_geometry(model))
        return [*model.objections, *([unknown] if unknown else [])]

    def why_not_split(self, model: EngineModel) -> str | None:
        """Returns why the engine puts no neuron of this file on the GPU."""
        return supported_models.why_not_split(_geometry(model))

    def condition(self, model: EngineModel) -> str:
        """Returns under which condition the engine will do as its account says."""
        return supported_models.condition(_geometry(model))

    def account_notes(self, account: Account) -> list[str]:
        """Returns where the KV cache stays, and whether there is anything to split."""
        notes = []
        if isinstance(account, PowerInferAccount) and account.kv_half_bytes and not account.k_on_gpu:
            kept = "its K half stays" if account.v_on_gpu else "it stays"
            notes.append(f"the KV cache does not fit: {kept} in host memory; lower --context to change that")
        if account.state is EngineState.ALL_ON_GPU:
            notes.append("the whole model fits this budget, so a split into hot and cold neurons gains nothing")
        return notes


def _geometry(model: EngineModel) -> Geometry:
    assert isinstance(model, Geometry), f"{type(model).__name__} is another engine's model"
    return model


ENGINE = PowerInfer()
