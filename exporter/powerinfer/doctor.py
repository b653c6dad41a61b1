"""Everything that makes the engine offload nothing, or compute something else, looked at in one go.

Each check is one small function in `CHECKS`; what several of them need is read once, by
`exporter.powerinfer.doctor_case.Case`. Line numbers are of `llama.cpp` at PowerInfer d3ebd7c unless another file is
named.
"""

from __future__ import annotations

import enum
import os
import shlex
from collections.abc import Callable, Iterator

from exporter.powerinfer.doctor_case import Case
from exporter.powerinfer.engine_python import Helper, unsafe_characters
from planner.base.record import Record
from planner.base.text import listed
from planner.base.units import format_bytes
from planner.engines.powerinfer.defaults import ACTIVATIONS_FOLDER
from planner.engines.powerinfer.kernel_limits import MIN_NEURONS, ROW_STEP, unknown_ffn_types
from planner.engines.powerinfer.supported_models import ENGINE_SPLITS_NOT, MIXTURE, PUBLISHED
from planner.hardware.nvml import INSTEAD
from planner.model_files.ggml_types import TYPES_BY_NAME

# From this many layers on, upstream's helper sorts `activation_10.pt` before `activation_2.pt`.
_UPSTREAM_SORTS_WRONG_FROM = 11
_MAX_SHOWN = 5


class Status(enum.Enum):
    """How bad a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(Record):
    """What one check found.

    Attributes:
        check: the check's name.
        status: `PROBLEM` when the engine would offload nothing, stop, or compute wrong results.
        found: what was found, one line.
        remedy: what to do about it, one line; empty when there is nothing to do.
    """

    check: str
    status: Status
    found: str
    remedy: str = ""


Check = Callable[[Case], Iterator[Finding]]


def check_gpu(case: Case) -> Iterator[Finding]:
    """A driver and a GPU that CUDA sees; without one the engine computes everything on the CPU."""
    gpu = case.gpu.value
    if gpu is None and case.gpu.remedy:
        yield Finding("gpu", Status.WARNING, case.gpu.fault, case.gpu.remedy)
        return
    if gpu is None:
        fault = case.gpu.fault
        if case.vram_budget_bytes is not None:
            fault = fault.replace(f", or {INSTEAD}", "").replace(f"; {INSTEAD}", "")
        yield Finding("gpu", Status.PROBLEM, fault, "the engine needs an NVIDIA GPU and driver to offload anything")
        return
    yield Finding(
        "gpu",
        Status.OK,
        f"GPU {gpu.label} ({gpu.name}, {gpu.uuid or 'UUID unknown'}): {format_bytes(gpu.free_bytes)} free of "
        f"{format_bytes(gpu.total_bytes)}",
    )
    for note in gpu.notes:
        yield Finding("gpu", Status.WARNING, note)


def check_model(case: Case) -> Iterator[Finding]:
    """A PowerInfer model, which the engine loads and runs sparse."""
    model = case.geometry.value
    if model is None:
        yield Finding("model", Status.PROBLEM, case.geometry.fault, _remedy_for_unreadable(case))
        return
    if not model.is_powerinfer:
        yield Finding(
            "model",
            Status.PROBLEM,
            f"{case.model}: magic GGUF, an ordinary llama.cpp model; the engine runs it dense and offloads nothing "
            "unless given -ngl",
            "convert the ReLU version of the model with PowerInfer's convert.py, which adds the predictors, or run "
            "this file with llama.cpp",
        )
        return
    if not model.has_predictors:
        yield Finding(
            "model",
            Status.PROBLEM,
            f"{case.model}: has no predictors (blk.L.fc1, blk.L.fc2), without which the engine cannot skip a neuron",
            f"use a model with predictors: {PUBLISHED} as published for PowerInfer",
        )
        return
    sound = True
    for objection in model.objections:
        sound = False
        remedy = "convert the model again with PowerInfer's convert.py"
        if "ends with its header" in objection:
            remedy = "get the complete file; this one ends after its header"
        yield Finding("model", Status.PROBLEM, f"{case.model}: {objection}", remedy)
    if sound:
        yield Finding(
            "model",
            Status.OK,
            f"{model.architecture}, {model.n_layer} layers, {sum(model.n_ff):,} FFN neurons "
            f"({format_bytes(model.ffn_bytes)}), dense part {format_bytes(model.dense_bytes)}",
        )


def _remedy_for_unreadable(case: Case) -> str:
    """Returns what to do about a model whose header cannot be read, or describes no model that the engine splits."""
    fault = case.geometry.fault
    if not case.model.is_file():
        return "name the model file that the engine is given with -m"
    if ENGINE_SPLITS_NOT in fault or MIXTURE in fault:
        return "use another model, or another engine for this one"
    if "has rows of" in fault:
        return "quantise the model again and keep this tensor F16, whose rows may have any length"
    return "name a PowerInfer model file (*.powerinfer.gguf), whole as it was published or converted"


def check_kernels(case: Case) -> Iterator[Finding]:
    """Weights and dimensions that the engine's sparse kernels can compute."""
    model = case.geometry.value
    if model is None or not case.can_split:
        return
    if unknown := unknown_ffn_types(model):
        remedy = "quantise the model to Q4_0 with PowerInfer's own quantize, or keep F16"
        # A row of fc2 is as long as the rank.
        ranks = {tensor.shape[0] for tensor in model.dense if tensor.kind == "fc2.weight"}
        step = TYPES_BY_NAME["Q4_0"].block
        if odd := sorted(rank for rank in ranks if rank % step):
            remedy = (
                f"convert the model to F16 and keep it so: its predictors have rank {odd[0]}, no multiple of {step}, "
                "so Q4_0 cannot hold them"
            )
        yield Finding("kernels", Status.PROBLEM, unknown, remedy)
    narrow = [layer for layer, n_ff in enumerate(model.n_ff) if n_ff < MIN_NEURONS]
    if narrow:
        yield Finding(
            "kernels",
            Status.PROBLEM,
            f"layer {narrow[0]} has {model.n_ff[narrow[0]]} FFN neurons; below {MIN_NEURONS} the engine takes them "
            "for attention heads (ggml.c 14904)",
            "the engine cannot run so small a model sparse",
        )
    if model.n_embd % ROW_STEP:
        yield Finding(
            "kernels",
            Status.PROBLEM,
            f"n_embd is {model.n_embd}; the engine asserts a multiple of {ROW_STEP}",
            "the engine cannot run this model on a GPU",
        )


def check_space(case: Case) -> Iterator[Finding]:
    """Room for the dense part, without which the FFN gets nothing at all (3062, 3385), and for neurons."""
    from planner.engines.account import EngineState

    account = case.account.value
    if not case.can_split:
        return
    if account is None:
        if case.gpu.value is not None:
            yield Finding("space", Status.PROBLEM, case.account.fault, "choose another --context or --kv-type")
        return
    budget = account.budget
    shown = f"the engine's budget is {format_bytes(account.budget_bytes)}"
    less = "close what else uses the GPU, or use a smaller model or quantisation"
    if budget.source == "option":
        less = "start the engine with a larger --vram-budget, or use a smaller model or quantisation"
    if budget.wraps:
        yield Finding(
            "space",
            Status.PROBLEM,
            f"{format_bytes(budget.free_bytes or 0)} of VRAM are free, less than CUDA's context and the engine's "
            "margin of 256 MiB; its unsigned arithmetic then wraps around to an unlimited budget (188-207)",
            f"{less}, or start the engine with its --vram-budget",
        )
        return
    if budget.slack_bytes is not None and budget.slack_bytes < 0:
        # A smaller budget only helps where the dense part fits into it.
        free_bytes = max(0, account.budget_bytes + budget.slack_bytes)
        fits = account.dense_total_bytes < free_bytes
        yield Finding(
            "space",
            Status.PROBLEM,
            f"{shown}, but only {format_bytes(free_bytes)} are free after CUDA's context; the engine believes its "
            "--vram-budget and runs out of memory",
            f"start the engine with a --vram-budget of less than {format_bytes(free_bytes)}"
            if fits
            else f"close what else uses the GPU, or use a smaller model or quantisation: the dense part alone takes "
            f"{format_bytes(account.dense_total_bytes)}",
        )
        return
    if account.state is EngineState.DENSE_INCOMPLETE:
        yield Finding(
            "space",
            Status.PROBLEM,
            f"{shown}, {format_bytes(account.missing_bytes)} less than the dense part "
            f"({format_bytes(account.dense_total_bytes)}) takes; the engine then offloads no neuron at all",
            less,
        )
        return
    if not (account.v_on_gpu and account.k_on_gpu):
        yield Finding(
            "space",
            Status.WARNING,
            f"{shown}; {'one half' if account.v_on_gpu else 'all'} of the KV cache of {account.context} tokens "
            f"({format_bytes(2 * account.kv_half_bytes)}) stays in host memory, which is slow",
            f"use a smaller context (-c), or {less}",
        )
    if account.state is EngineState.DENSE_ONLY:
        yield Finding(
            "space",
            Status.PROBLEM,
            f"{shown}; after the dense part ({format_bytes(account.dense_bytes)}), the KV cache "
            f"({format_bytes(account.kv_cache_bytes)}) and what the engine takes uncharged "
            f"({format_bytes(account.uncharged_bytes)}) there is no room for a neuron",
            less,
        )
    else:
        for_neurons_bytes = min(account.units_bytes, account.units_total_bytes)
        yield Finding(
            "space",
            Status.OK,
            f"{shown}; dense part {format_bytes(account.dense_bytes)}, KV cache "
            f"{format_bytes(account.kv_cache_bytes)}, for neurons {format_bytes(for_neurons_bytes)} of "
            f"{format_bytes(account.units_total_bytes)}",
        )


def check_gain(case: Case) -> Iterator[Finding]:
    """A model that is larger than the GPU: where everything fits, splitting it gains nothing."""
    from planner.engines.account import EngineState

    account = case.account.value
    if case.can_split and account is not None and account.state is EngineState.ALL_ON_GPU:
        yield Finding(
            "gain",
            Status.WARNING,
            "the whole model fits on the GPU, so splitting it into hot and cold neurons gains nothing",
            "use a larger model or a finer quantisation, or llama.cpp with all layers on the GPU",
        )


def check_folder(case: Case) -> Iterator[Finding]:
    """A folder of statistics where the engine looks, and permission to write an index next to the model."""
    folder = case.activation_folder
    if not case.can_split:
        return
    if not folder.is_dir():
        wrong = "is not a folder" if os.path.lexists(folder) else "is missing"
        yield Finding(
            "folder",
            _unless_served(case),
            f"{folder}: {wrong}; the engine looks for statistics there and nowhere else",
            f"put activation_<L>.pt into a folder named {ACTIVATIONS_FOLDER} next to the model",
        )
        return
    if not os.access(case.index_path.parent, os.W_OK):
        yield Finding(
            "folder",
            _unless_served(case),
            f"{case.index_path.parent}: not writable by this user, so no index can be written next to the model",
            "let this user write there, or let the owner run hotsplit export",
        )
        return
    yield Finding("folder", Status.OK, f"{folder} is next to the model, and an index can be written there")


def check_statistics(case: Case) -> Iterator[Finding]:
    """Statistics that are complete and of this model's layers."""
    if not case.can_split or not case.activation_folder.is_dir():
        return
    statistics = case.statistics.value
    if statistics is None:
        yield Finding(
            "statistics",
            _unless_served(case),
            case.statistics.fault,
            f"get the model's own statistics (published with it), or measure them: {case.profile_command}",
        )
        return
    if any("." in label for label in statistics.labels):
        yield Finding(
            "statistics",
            Status.PROBLEM,
            f"{statistics.source}: statistics of experts (activation_<L>_<E>.pt), which PowerInfer does not read; only "
            "the fork for mixtures of experts does",
            "start that fork, or put activation_<L>.pt there",
        )
        return
    silent = [label for label, values in zip(statistics.labels, statistics.values, strict=True) if not values.any()]
    if silent:
        yield Finding(
            "statistics",
            Status.WARNING,
            f"{statistics.source}: no neuron ever fired in layer {listed(silent)}, so nothing shows which are hot",
            f"measure them again: {case.profile_command}",
        )
    else:
        neurons = sum(statistics.n_ff)
        yield Finding(
            "statistics", Status.OK, f"{statistics.source}: {len(statistics.labels)} layers, {neurons:,} neurons"
        )


def check_path(case: Case) -> Iterator[Finding]:
    """Paths that a shell takes as they stand, because the engine's call does not quote them (3120-3137)."""
    unsafe = unsafe_characters(str(case.model))
    if unsafe:
        yield Finding(
            "path",
            _unless_served(case),
            f"{case.model}: the engine does not quote its shell call, and a shell would not leave "
            f"{' '.join(map(repr, unsafe))} alone",
            "rename the folders or the file, or start the engine from a folder from which the path needs none of them",
        )
    else:
        yield Finding("path", Status.OK, f"{case.model}: safe in the engine's unquoted shell call")


def check_helper(case: Case) -> Iterator[Finding]:
    """A `python3 -m powerinfer` that runs and writes what the engine can read."""
    called = case.engine_python
    install = "hotsplit engine install, in the environment that is active when the engine starts"
    if called.python is None:
        yield Finding(
            "helper",
            _unless_served(case),
            called.fault or "",
            f"activate the Python environment before the engine starts, then {install}",
        )
        return
    where = f"{called.command} is {called.python}"
    if called.fault is not None:
        whose = "" if called.location is None else f" {called.helper.value} powerinfer at {called.location}:"
        if called.helper in (Helper.UPSTREAM, Helper.FOREIGN):
            install = f"hotsplit engine install --force ({install})"
        elif called.helper is Helper.OURS and "No module named" in called.fault:
            install = (
                f"install Hotsplit with what it needs there: {called.python} -m pip install DIR, where DIR is the "
                "folder of Hotsplit's pyproject.toml"
            )
        yield Finding("helper", _unless_served(case), f"{where};{whose} {called.fault}", install)
    elif called.helper is Helper.OURS:
        yield Finding("helper", Status.OK, f"{where} and runs Hotsplit ({called.location})")
    elif called.helper is Helper.FOREIGN:
        yield Finding(
            "helper",
            Status.WARNING,
            f"{where} and finds a package powerinfer that is neither Hotsplit's nor upstream's ({called.location})",
            f"hotsplit engine install --force, if it is not wanted ({install})",
        )
    elif called.unreadable_index:
        yield Finding(
            "helper",
            _unless_served(case),
            f"{where} and runs upstream's helper with a gguf package that numbers I32 differently from the engine, "
            f"so the engine cannot read what it writes ({called.location})",
            f"hotsplit engine install --force ({install})",
        )
    elif case.geometry.value is not None and case.geometry.value.n_layer >= _UPSTREAM_SORTS_WRONG_FROM:
        yield Finding(
            "helper",
            _unless_served(case),
            f"{where} and runs upstream's helper, which sorts activation_10.pt before activation_2.pt and so gives "
            f"layers the neurons of other layers ({called.location})",
            f"hotsplit engine install --force ({install})",
        )
    else:
        yield Finding(
            "helper",
            Status.WARNING,
            f"{where} and runs upstream's helper, whose index is refused as soon as a little less VRAM is free "
            f"({called.location})",
            f"hotsplit engine install --force ({install})",
        )


def check_index(case: Case) -> Iterator[Finding]:
    """An index that is already there: valid, for this model and these statistics, and small enough to be used."""
    if not case.can_split:
        return
    export = _export(case, "write it again")
    if case.index is None:
        yield Finding(
            "index",
            Status.OK,
            f"{case.index_path.name} is not there yet; the engine will ask its helper for one",
            "" if case.in_the_way_of_export else f"or write it now: {case.export_command}",
        )
        return
    index = case.index.value
    if index is None:
        if not case.index_path.is_file():  # a folder, or a link to nothing: nothing that writing could replace
            export = f"remove {shlex.quote(str(case.index_path))}, then {export}"
        yield Finding("index", Status.PROBLEM, f"broken: {case.index.fault}", export)
        return
    lines = [*index.faults, *index.stale]
    for line in lines[:_MAX_SHOWN]:
        yield Finding("index", Status.PROBLEM, f"{case.index_path}: {line}", export)
    if len(lines) > _MAX_SHOWN:
        yield Finding("index", Status.PROBLEM, f"{case.index_path}: … {len(lines) - _MAX_SHOWN} more like it", export)
    if lines:
        return
    hot_neurons = sum(layer.hot_neurons for layer in index.layers)
    available_bytes = case.ffn_budget_bytes
    if not hot_neurons:
        yield Finding("index", Status.PROBLEM, f"{case.index_path}: empty, it puts no neuron on the GPU", export)
    elif not available_bytes and available_bytes is not None:
        return  # said of the space already: the engine has nothing for neurons
    elif available_bytes is not None and index.vram_capacity_bytes > available_bytes:
        # The engine then asks its helper for another one, if it can (3093-3137).
        yield Finding(
            "index",
            Status.WARNING if _can_make_another(case) else Status.PROBLEM,
            f"{case.index_path}: wants {format_bytes(index.vram_capacity_bytes)} for the FFN, but only "
            f"{format_bytes(available_bytes)} will be left, so the engine will not use it",
            f"{_more(case, index.vram_capacity_bytes - available_bytes)}, or {export}",
        )
    else:
        yield Finding(
            "index",
            Status.OK,
            f"{case.index_path.name}: {hot_neurons:,} hot neurons, {format_bytes(index.vram_capacity_bytes)}",
        )


def _more(case: Case, n_bytes: int) -> str:
    """Returns how to give the engine so many bytes more."""
    if case.vram_budget_bytes is None:
        return f"free {format_bytes(n_bytes)} of VRAM"
    return f"start the engine with {format_bytes(n_bytes)} more of --vram-budget"


def _export(case: Case, doing: str) -> str:
    """Returns how to write the index, after what is in the way of it."""
    first = case.in_the_way_of_export
    return f"{f'fix {listed(first)} first, then ' if first else ''}{doing}: {case.export_command}"


def _unless_served(case: Case) -> Status:
    """How bad it is that the engine could not make an index: nothing yet, as long as the one that is there serves."""
    return Status.WARNING if case.index_serves else Status.PROBLEM


def _can_make_another(case: Case) -> bool:
    called = case.engine_python
    return (
        called.python is not None
        and called.fault is None
        and not called.unreadable_index
        and case.statistics.value is not None
        and not unsafe_characters(str(case.model))
        and os.access(case.index_path.parent, os.W_OK)
    )


CHECKS: tuple[Check, ...] = (
    check_gpu,
    check_model,
    check_kernels,
    check_space,
    check_gain,
    check_folder,
    check_statistics,
    check_path,
    check_helper,
    check_index,
)


def examine(case: Case) -> list[Finding]:
    """Returns what every check found, in the order of `CHECKS`."""
    return [finding for check in CHECKS for finding in check(case)]
