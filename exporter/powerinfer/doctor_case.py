"""What `hotsplit doctor` looks at: one model in one environment, each fact read once and only when it is asked for.

Nothing is changed, and nothing of the model but its header is read. Line numbers are of `llama.cpp` at PowerInfer
d3ebd7c unless another file is named.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from exporter.powerinfer.engine_python import EnginePython, ask_engine_python
from planner.base.errors import HotsplitError
from planner.base.record import Record
from planner.base.request_values import as_path
from planner.engines.powerinfer.defaults import (
    ACTIVATIONS_FOLDER,
    DEFAULT_BATCH,
    DEFAULT_CONTEXT,
    DEFAULT_KV_TYPE,
    INDEX_SUFFIX,
)
from planner.engines.powerinfer.kernel_limits import Q4_0_NEURON_STEP, neuron_step

if TYPE_CHECKING:
    from exporter.powerinfer.index_file import IndexFile
    from exporter.powerinfer.index_format import IndexedLayer
    from planner.activations.folder import Statistics
    from planner.engines.engine import ReserveOptions
    from planner.engines.powerinfer.account import PowerInferAccount
    from planner.engines.powerinfer.geometry import Geometry
    from planner.hardware.vram import Gpu

T = TypeVar("T")


class Fact(Record, Generic[T]):
    """Something that was read, or one line that says why it could not be, and perhaps another with a remedy."""

    value: T | None
    fault: str = ""
    remedy: str = ""


class Index(Record):
    """An existing index that can be read.

    Attributes:
        vram_capacity_bytes: what it says it needs.
        layers: what it lists.
        faults: why its numbers cannot be trusted, one line each; empty when they can.
        stale: what no longer agrees with the files next to it, one line each.
    """

    vram_capacity_bytes: int
    layers: tuple[IndexedLayer, ...]
    faults: tuple[str, ...]
    stale: tuple[str, ...]


class Case:
    """One model in one environment; every property is worked out once, when first asked for.

    Attributes:
        model: the model file, as the engine would be given it.
        gpu_selector: which GPU, as for `planner.hardware.vram.choose_gpu`.
        vram_budget_bytes: the engine's `--vram-budget`, or None for its automatic budget.
        context: tokens of context, the engine's `-c`.
        kv_type: `f16` or `f32`.
        batch: most tokens of a prompt in one go, the engine's `-b`.
        cuda_context_bytes: what CUDA's context and cuBLAS take, or None for the largest figure known.
        reserve: what replaces the estimate of what the engine takes uncharged, or None.
    """

    def __init__(
        self,
        model: Path,
        *,
        gpu_selector: str | None = None,
        vram_budget_bytes: int | None = None,
        context: int = DEFAULT_CONTEXT,
        kv_type: str = DEFAULT_KV_TYPE,
        batch: int = DEFAULT_BATCH,
        cuda_context_bytes: int | None = None,
        reserve: ReserveOptions | None = None,
    ) -> None:
        self.model = as_path(model, "model")
        self.gpu_selector = gpu_selector
        self.vram_budget_bytes = vram_budget_bytes
        self.context = context
        self.kv_type = kv_type
        self.batch = batch
        self.cuda_context_bytes = cuda_context_bytes
        self.reserve = reserve

    @property
    def activation_folder(self) -> Path:
        """Where the engine looks for statistics: next to the model as named, links not followed (3090-3106)."""
        return self.model.parent / ACTIVATIONS_FOLDER

    @property
    def index_path(self) -> Path:
        """Where the engine looks for an index (3089)."""
        return self.model.with_name(self.model.name + INDEX_SUFFIX)

    @cached_property
    def gpu(self) -> Fact[Gpu]:
        """The GPU.

        Raises:
            BindingError: nothing can ask about GPUs here, and no budget was given that would do without.
        """
        from planner.hardware.vram import BindingError, choose_gpu

        try:
            return _fact(lambda: choose_gpu(self.gpu_selector))
        except BindingError as error:
            if self.vram_budget_bytes is None or self.gpu_selector is not None:
                raise
            return Fact(None, error.found, error.remedy)

    @cached_property
    def geometry(self) -> Fact[Geometry]:
        """The model, from its header."""
        from planner.engines.powerinfer.geometry import geometry_from_header
        from planner.model_files.header import read_header

        return _fact(lambda: geometry_from_header(read_header(self.model)))

    @property
    def can_split(self) -> bool:
        """Whether the model is one that the engine splits; otherwise nothing beside it matters."""
        from planner.engines.powerinfer.supported_models import can_split

        return self.geometry.value is not None and can_split(self.geometry.value)

    @cached_property
    def statistics(self) -> Fact[Statistics]:
        """The activation statistics next to the model, against the model's layers where those are known."""
        from planner.activations.folder import read_statistics

        model = self.geometry.value
        if model is None:
            return _fact(lambda: read_statistics(self.activation_folder))
        return _fact(lambda: read_statistics(self.activation_folder, n_layer=model.n_layer, n_ff=model.n_ff))

    @cached_property
    def index(self) -> Fact[Index] | None:
        """The existing index; None when there is none."""
        if not os.path.lexists(self.index_path):
            return None
        return _fact(self._read_index)

    def _read_index(self) -> Index:
        from exporter.powerinfer.index_file import IndexFile
        from exporter.powerinfer.verify import verify_index

        # Not against the model: an index of upstream's, which stores more than it needs, is one the engine can use.
        faults = verify_index(self.index_path)
        with IndexFile(self.index_path) as index:
            stale: list[str] = []
            if not faults:
                faults = _disagreements(self, index)
            if not faults:
                stale = _staleness(self, index)
            return Index(index.vram_capacity_bytes, index.layers, tuple(faults), tuple(stale))

    @cached_property
    def index_serves(self) -> bool:
        """Whether the engine would use the existing index, so that it needs no helper and no statistics now."""
        if self.index is None or self.index.value is None:
            return False
        index = self.index.value
        available = self.ffn_budget_bytes
        return (
            not index.faults
            and not index.stale
            and any(layer.hot_neurons for layer in index.layers)
            and (available is None or index.vram_capacity_bytes <= available)
        )

    @cached_property
    def account(self) -> Fact[PowerInferAccount]:
        """What becomes of the budget: of `--vram-budget`, or of what the GPU has free."""
        from planner.engines.account import KnownGpu
        from planner.engines.powerinfer.account import account_for
        from planner.engines.powerinfer.budget import automatic_budget, stated_budget
        from planner.hardware.cuda_contexts import published_context_bytes

        model, gpu = self.geometry.value, self.gpu.value
        if model is None:
            return Fact(None, self.geometry.fault)
        published_bytes = None if gpu is None else published_context_bytes(gpu.name)
        stated = self.cuda_context_bytes is not None
        known = KnownGpu(
            total_bytes=gpu.total_bytes if gpu else None,
            context_bytes=self.cuda_context_bytes if stated else published_bytes,
            context_basis="stated" if stated or gpu is None else f"published for {gpu.name}",
        )
        if self.vram_budget_bytes is not None:
            free_bytes = gpu.free_bytes if gpu else None
            budget = stated_budget(self.vram_budget_bytes, known, free_bytes=free_bytes)
        elif gpu is not None:
            budget = automatic_budget(gpu.free_bytes, known)
        else:
            return Fact(None, self.gpu.fault)
        return _fact(
            lambda: account_for(
                model,
                budget,
                context=self.context,
                kv_type=self.kv_type,
                batch=self.batch,
                reserve_options=self.reserve,
            )
        )

    @cached_property
    def ffn_budget_bytes(self) -> int | None:
        """The engine's own V, against which it holds an index (3088-3098); None when it is not known.

        The reserve is Hotsplit's caution, not the engine's, and does not count here.
        """
        from planner.engines.account import EngineState

        account = self.account.value
        if account is None:
            return None
        return 0 if account.state is EngineState.DENSE_INCOMPLETE else account.units_bytes + account.reserve_bytes

    @cached_property
    def profile_command(self) -> str:
        """What measures the statistics, as one types it but for the two words that only the user knows."""
        words = ["--output", str(self.activation_folder)]
        if next(self.activation_folder.glob("activation_*.pt"), None) is not None:
            words.append("--force")
        return f"hotsplit profile --model HF_FOLDER --data TEXT_FILE {shlex.join(words)}"

    @property
    def in_the_way_of_export(self) -> list[str]:
        """The checks whose problems would make `export_command` fail, or write an index without a neuron."""
        from planner.engines.account import EngineState

        account, statistics = self.account.value, self.statistics.value
        checks = []
        if not self.can_split:
            checks.append("model")
        elif account is None and self.gpu.value is None:
            checks.append("gpu")
        elif (
            account is None
            or account.budget.wraps
            or account.state in {EngineState.DENSE_INCOMPLETE, EngineState.DENSE_ONLY}
        ):
            checks.append("space")
        if not self.activation_folder.is_dir() or not os.access(self.index_path.parent, os.W_OK):
            checks.append("folder")
        elif statistics is None or any("." in label for label in statistics.labels):
            checks.append("statistics")
        return checks

    @cached_property
    def export_command(self) -> str:
        """The command that writes the index again: for this case's budget, and although there is one already."""
        words = ["hotsplit", "export", "--model", str(self.model)]
        if self.gpu_selector is not None:
            words += ["--gpu", self.gpu_selector]
        for option, n_bytes in (("--vram-budget", self.vram_budget_bytes), ("--cuda-context", self.cuda_context_bytes)):
            if n_bytes is not None:
                words += [option, f"{n_bytes}B"]
        for option, value, usual in (
            ("--context", self.context, DEFAULT_CONTEXT),
            ("--kv-type", self.kv_type, DEFAULT_KV_TYPE),
            ("--batch-size", self.batch, DEFAULT_BATCH),
        ):
            if value != usual:
                words += [option, str(value)]
        if self.reserve is not None:
            if self.reserve.total_bytes is not None:
                words += ["--reserve", f"{self.reserve.total_bytes}B"]
            for item, n_bytes in self.reserve.overrides.items():
                words += ["--reserve", f"{item}={n_bytes}B"]
        if self._index_is_guarded():
            words.append("--force")
        return shlex.join(words)

    def _index_is_guarded(self) -> bool:
        """Whether export leaves the existing index alone without --force."""
        from exporter.powerinfer.overwrite import INDEX
        from planner.base.outputs import objection_to_replacing

        try:
            return objection_to_replacing(self.index_path, INDEX) is not None
        except OSError:
            return False  # export says what is wrong with it, --force or not

    @cached_property
    def engine_python(self) -> EnginePython:
        """What the engine's `python3 -m powerinfer` would meet."""
        return ask_engine_python()


def _fact(read: Callable[[], T]) -> Fact[T]:
    from planner.hardware.vram import BindingError

    try:
        return Fact(read())
    except BindingError:
        raise
    except HotsplitError as error:
        return Fact(None, str(error).splitlines()[0])
    except OSError as error:
        return Fact(None, f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _disagreements(case: Case, index: IndexFile) -> list[str]:
    """Returns why a valid index would make the engine misbehave with this model, one line each."""
    model = case.geometry.value
    if model is None:
        return []
    if len(index.layers) != model.n_layer:
        return [f"has {len(index.layers)} layers, but the model has {model.n_layer}; the engine will not use it"]
    lines = [
        f"{layer.gpu_idx_name} has {layer.n_ff} neurons, but that layer of the model has {n_ff}"
        for layer, n_ff in zip(index.layers, model.n_ff, strict=True)
        if layer.n_ff != n_ff
    ]
    needed_bytes = sum(
        layer.hot_neurons * neuron_bytes for layer, neuron_bytes in zip(index.layers, model.neuron_bytes, strict=True)
    )
    if not lines and index.vram_capacity_bytes < needed_bytes:
        lines.append(
            f"split.vram_capacity is {index.vram_capacity_bytes}, but its neurons take {needed_bytes} bytes, so the "
            "engine would load it into memory that is not there"
        )
    for layer, matrices in zip(index.layers, model.ffn, strict=True):
        down = next((matrix.type_name for matrix in matrices if "ffn_down" in matrix.name), "")
        step = neuron_step(down)
        # A layer placed whole is bound by the Q4_0 kernel alone.
        if layer.hot_neurons % step and (layer.hot_neurons < layer.n_ff or step == Q4_0_NEURON_STEP):
            lines.append(
                f"{layer.gpu_bucket_name} has {layer.hot_neurons} neurons, but the engine computes those of {down} "
                f"weights in multiples of {step} only"
            )
    return lines


def _staleness(case: Case, index: IndexFile) -> list[str]:
    """Returns what the model or the statistics next to an index say that the index does not, one line each."""
    from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL

    model, statistics = case.geometry.value, case.statistics.value
    if model is not None and index.marks.get(MARK_MODEL, model.fingerprint) != model.fingerprint:
        return ["stale, it was made for another version of the model"]
    if statistics is None or len(statistics.labels) != len(index.layers):
        return []
    if index.marks.get(MARK_ACTIVATIONS, statistics.fingerprint) != statistics.fingerprint:
        return ["stale, it was made from other statistics than those next to the model"]
    for position, (layer, values) in enumerate(zip(index.layers, statistics.values, strict=True)):
        mask = index.gpu_idx(position) != 0
        if values.size != mask.size:
            return []
        if mask.any() and not mask.all() and values[mask].min() < values[~mask].max():
            return [
                f"stale, {layer.gpu_idx_name} leaves out neurons that are hotter, by the statistics next to the model, "
                "than some that it has"
            ]
    return []
