"""What all engines that place experts have in common, behind the interface of all engines.

A module of this room names its engine's rules: which form of a model it loads, which architectures it knows, whether
it can place a number of its own in each layer, and what it takes of VRAM besides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from planner.base.errors import InputError
from planner.base.units import MIB
from planner.engines.account import NOTHING_KNOWN, Account, Budget, KnownGpu, ReserveItem
from planner.engines.engine import EngineModel, ReserveOptions, Settings
from planner.engines.experts.account import expert_account, kv_bytes, parts_on_gpu, reserve_of
from planner.engines.experts.model import ExpertModel
from planner.model_files.moe.kv_cache import whole_context
from planner.model_files.moe.model import MoeModel, Part
from planner.model_files.moe.read import read_moe_model
from planner.model_files.moe.tensor_parallel import share_of_one_gpu

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.catalogue.entries import ModelEntry

CUDA_CONTEXT = "cuda_context"
ACTIVATIONS = "activations"
CUDA_CONTEXT_BYTES = 612 * MIB
CUDA_CONTEXT_BASIS = "stated default: the largest figure published, of an RTX PRO 6000; --reserve cuda_context=SIZE"

FORMS = {
    "gguf": "a GGUF file",
    "safetensors": "a Hugging Face folder",
    "exl3": "a folder quantised for exllamav3",
    "declared": "declared dimensions",
}
"""Forms of a model, in words."""


# Forms in which people publish experts of a type; all other types are llama.cpp's alone.
_STORED_IN: Mapping[str, tuple[str, ...]] = {
    "FP8": ("safetensors",),
    **dict.fromkeys(("BF16", "F16", "F32", "MXFP4"), ("safetensors", "gguf")),
}


class UnsuitableError(InputError):
    """An engine does not load or split this model.

    Attributes:
        moe: the model, which other engines may take.
    """

    def __init__(self, moe: MoeModel, why: str) -> None:
        super().__init__(f"{moe.source}: {why}")
        self.moe = moe


class ExpertEngine:
    """An engine that places experts. Subclasses state what is different.

    Attributes:
        title: for people.
        forms: forms of a model that its GPU part is loaded from, keys of `FORMS`.
        architectures: values of `general.architecture` that it knows; None for no list of names.
        one_number: whether it places equally many experts of every layer.
        spare_experts: zero experts that it adds for each layer that has any on a GPU.
        lanes: whether it fills several GPUs, each with experts of its own.
        divides: whether several GPUs may share every layer (`--tp`).
        default_choice: what it places without counts: `uniform` (experts 0, 1, … of each layer, the remainder in the
            first layers), or `random`; None where that is not known.
        caution: what to know about the engine itself, or empty.
    """

    name = ""
    title = ""
    about = ""
    unit = "expert"
    units = "experts"
    kv_types: Sequence[str] = ("f16",)
    reserve_items: Sequence[str] = (CUDA_CONTEXT, ACTIVATIONS)
    defaults = Settings(context=4096, kv_type="f16", batch=512)
    forms: Sequence[str] = ()
    architectures: frozenset[str] | None = None
    one_number = False
    spare_experts = 0
    lanes = False
    divides = False
    default_choice: str | None = "uniform"
    caution = ""
    activations_bytes = 512 * MIB
    activations_basis = "stated default, not measured; --reserve activations=SIZE"
    elsewhere: ClassVar[Mapping[Part, str]] = {}

    def read_model(self, path: Path) -> ExpertModel:
        """Returns the model at `path`, weighed from headers.

        Raises:
            UnsuitableError: a mixture of experts that this engine does not load.
            InputError: no mixture of experts.
            OSError: a file cannot be read.
        """
        moe = read_moe_model(path)
        self.check_takes(moe)
        return ExpertModel(moe)

    def check_takes(self, moe: MoeModel) -> None:
        """Refuses a model that the engine cannot load or split.

        Raises:
            UnsuitableError: with the reason; `planner.engines.experts.others` knows which engines do.
        """
        if moe.form == "declared":
            self._check_declared(moe)
        elif moe.form not in self.forms:
            raise UnsuitableError(moe, self.why_not(moe.form))
        if self.architectures is not None and moe.architecture not in self.architectures:
            known = ", ".join(sorted(self.architectures))
            raise UnsuitableError(
                moe, f"{self.title} does not know the architecture {moe.architecture[:80]!r} (it knows {known})"
            )

    def _check_declared(self, moe: MoeModel) -> None:
        """Refuses a type of experts that no file of the engine's forms has."""
        wanted = " or ".join(FORMS[each] for each in self.forms)
        for name in moe.types:
            stored_in = _STORED_IN.get(name, ("gguf",))
            if not set(stored_in) & set(self.forms):
                there = " or ".join(FORMS[each] for each in stored_in)
                raise UnsuitableError(
                    moe,
                    f"{self.title} loads {wanted}, and experts in {name} are stored in {there}; name another type"
                    if "exl3" not in self.forms
                    else f"{self.title} loads {wanted}, whose size dimensions do not tell; name the folder",
                )

    def why_not(self, form: str) -> str:
        """Returns why the engine does not load a model of this form."""
        wanted = " or ".join(FORMS[each] for each in self.forms)
        return f"{self.title} loads {wanted}, and this is {FORMS[form]}"

    def divided(self, model: ExpertModel, n_gpu: int) -> ExpertModel:
        """Returns what one of `n_gpu` GPUs holds when they share every layer.

        Raises:
            InputError: the engine does not divide layers, or these do not divide.
        """
        if n_gpu == 1:
            return model
        if not self.divides:
            raise InputError(
                f"--tp: {self.title} does not divide every layer evenly among GPUs, so {n_gpu} cannot be planned; "
                "plan for one GPU, or use --engine ktransformers"
            )
        return ExpertModel(share_of_one_gpu(model.moe, n_gpu), n_gpu)

    def window(self, context: int, window: int) -> int:
        """Returns the tokens that the engine keeps for a layer with a window."""
        return whole_context(context, window)

    def parts(self, moe: MoeModel) -> dict[Part, tuple[int, str]]:
        """Returns what everything that is no expert takes of the GPU, and what that rests on."""
        return parts_on_gpu(moe, self.elsewhere)

    def needs(self, moe: MoeModel) -> tuple[ReserveItem, ...]:
        """Returns what the engine itself takes of the GPU: stated defaults, each with its basis."""
        del moe
        return (
            ReserveItem(CUDA_CONTEXT, "CUDA's context", CUDA_CONTEXT_BYTES, CUDA_CONTEXT_BASIS),
            ReserveItem(ACTIVATIONS, "activations and graphs", self.activations_bytes, self.activations_basis),
        )

    def plan_settings(self, moe: MoeModel) -> dict[str, str]:
        """Returns what the engine's file or options need to know of the model, as settings of a plan."""
        del moe
        return {}

    def declared_model(self, entry: ModelEntry, quantisation: str, *, source: str) -> EngineModel:
        """Refuses: the catalogue's dimensions are of models without experts."""
        del entry, quantisation
        raise InputError(f"{source}: {self.title} places experts; name a model file or folder with experts")

    def statistics_beside(self, model: Path) -> Path:
        """Refuses: recorded counts of experts have no place of their own.

        Raises:
            InputError: always; it says how to name them.
        """
        raise InputError(f"{model}: no recorded counts of experts are named; give --statistics NAME=FILE")

    def read_statistics(self, folder: Path, model: EngineModel | None) -> Statistics:
        """Returns the counts of one recorder's file, one group for each layer with experts."""
        from planner.activations.expert_counts.reading import read_recorded
        from planner.activations.expert_counts.workload import workload_of
        from planner.activations.folder import Statistics
        from planner.engines.experts.counts import checked_against

        workload = workload_of(folder.stem, 1.0, [read_recorded(folder)])
        if isinstance(model, ExpertModel):
            (workload,) = checked_against((workload,), model.moe)
        labels = tuple(map(str, workload.layers))
        return Statistics(str(folder), labels, list(workload.counts), workload.fingerprint)

    def with_groups(self, model: EngineModel, labels: Sequence[str], n_units: tuple[int, ...]) -> EngineModel:
        """Returns the model: its groups are its layers already."""
        del labels, n_units
        return model

    def automatic_budget(self, free_bytes: int, gpu: KnownGpu = NOTHING_KNOWN) -> Budget:
        """Returns everything that is free: CUDA's context is a line of the bill."""
        return _budget("nvml", free_bytes, gpu, free_bytes)

    def stated_budget(
        self, budget_bytes: int, gpu: KnownGpu = NOTHING_KNOWN, *, free_bytes: int | None = None
    ) -> Budget:
        """Returns all that the engine may take of a GPU, as the user states it."""
        return _budget("option", budget_bytes, gpu, free_bytes)

    def account(
        self, model: EngineModel, budget: Budget, settings: Settings, *, kv_cache_bytes: int | None = None
    ) -> Account:
        """Returns the bill.

        Raises:
            InputError: the KV cache is unknown and was not stated, or its type is none of the engine's.
        """
        assert isinstance(model, ExpertModel)
        self.check_reserve(settings.reserve)
        context = self.defaults.context if settings.context is None else settings.context
        kv_type = settings.kv_type or self.defaults.kv_type or "f16"
        assert context is not None
        if kv_type not in self.kv_types:
            raise InputError(f"KV cache type {kv_type[:80]!r}: {self.title} has {', '.join(self.kv_types)}")
        return expert_account(
            model.moe,
            budget,
            parts=self.parts(model.moe),
            cache=kv_bytes(model.moe, context, kv_type, self.window, kv_cache_bytes),
            reserve=reserve_of(self.needs(model.moe), settings.reserve),
            context=context,
            type_name=kv_type,
        )

    def model_notes(self, model: EngineModel) -> list[str]:
        """Returns what to know about the engine itself."""
        del model
        return [self.caution] if self.caution else []

    def why_not_split(self, model: EngineModel) -> str | None:
        """Returns None: a model that the engine does not split is refused when it is read."""
        del model
        return None

    def condition(self, model: EngineModel) -> str:
        """Returns no condition."""
        del model
        return ""

    def account_notes(self, account: Account) -> list[str]:
        """Returns nothing: the bill has every line with its basis."""
        del account
        return []

    def command_line(self, model: str, settings: Settings, budget_bytes: int | None) -> str | None:
        """Returns None: the command needs the engine's file, so `hotsplit export` shows it."""
        return None

    def check_reserve(self, options: ReserveOptions) -> None:
        """Refuses items that the engine does not have.

        Raises:
            InputError: an unknown item; the message lists the known ones.
        """
        for key in options.overrides:
            if key not in self.reserve_items:
                raise InputError(f"reserve item {key[:80]!r} is not known; known are {', '.join(self.reserve_items)}")


def _budget(source: str, budget_bytes: int, gpu: KnownGpu, free_bytes: int | None) -> Budget:
    return Budget(
        source=source,
        budget_bytes=budget_bytes,
        context_bytes=0,
        context_basis="a line of the bill",
        total_bytes=gpu.total_bytes,
        free_bytes=free_bytes,
        gpu_uuid=gpu.uuid,
        gpu_name=gpu.name,
        memory_basis=gpu.memory_basis,
    )
