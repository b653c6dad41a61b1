"""From files to a plan, against arithmetic done here by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from planner.base.errors import InputError, NoAnswerError
from planner.base.record import replace
from planner.base.units import GIB, MIB, format_bytes
from planner.engines.account import KnownGpu
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.budget import ENGINE_MARGIN_BYTES, automatic_budget
from planner.hardware.vram import Gpu, MemoryBasis
from planner.placement.problem import SolverOptions
from planner.placement.threshold import ThresholdRule
from planner.planning import PlanRequest, make_plan
from planner.plans.plan import PlannedBudget
from tests import model_files

N_LAYER, N_EMBD, N_FF, RANK, N_VOCAB = 12, 64, 96, 32, 40
NEURON_BYTES = 3 * N_EMBD * 2
# In every layer four attention matrices, a norm, two predictors and a norm; then the norm and matrix of the output.
DENSE_BYTES = N_LAYER * (4 * N_EMBD * N_EMBD * 2 + N_EMBD * 4 + (N_EMBD * RANK + RANK * N_FF) * 2 + N_EMBD * 4) + (
    N_EMBD * 4 + N_EMBD * N_VOCAB * 2
)
KV_CACHE_BYTES = 2 * N_LAYER * 512 * N_EMBD * 2
HOT_IN_EACH_LAYER = 8
NO_RESERVE = ReserveOptions(total_bytes=0)


def hot_set(layer: int) -> range:
    """Neurons that are hot in one layer and in no other."""
    return range(layer * HOT_IN_EACH_LAYER, (layer + 1) * HOT_IN_EACH_LAYER)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A 12-layer model whose layers have disjoint hot sets; text order of the file names would mix them up."""
    folder = tmp_path / "a model, größer"
    (folder / "activation").mkdir(parents=True)
    for layer in range(N_LAYER):
        counts = np.ones(N_FF, np.int64)
        counts[hot_set(layer)] = 1000 + layer
        torch.save(torch.from_numpy(counts), folder / "activation" / f"activation_{layer}.pt")
    llama = model_files.llama(n_layer=N_LAYER, n_embd=N_EMBD, n_ff=N_FF, rank=RANK, n_vocab=N_VOCAB)
    return llama.write(folder / "tiny.powerinfer.gguf")


def request(model: Path, ffn_bytes: int, **changes: object) -> PlanRequest:
    """A request whose budget leaves exactly `ffn_bytes` for neurons."""
    asked = PlanRequest(model=model, vram_budget_bytes=DENSE_BYTES + KV_CACHE_BYTES + ffn_bytes, reserve=NO_RESERVE)
    return replace(asked, **changes)


def test_layers_pair_with_their_own_statistics_and_the_budget_is_filled(model: Path) -> None:
    hot_neurons = N_LAYER * HOT_IN_EACH_LAYER
    planning = make_plan(request(model, hot_neurons * NEURON_BYTES))
    assert planning.plan.solved_list == (HOT_IN_EACH_LAYER,) * N_LAYER
    assert planning.plan.vram_required_bytes == hot_neurons * NEURON_BYTES
    caught = sum(HOT_IN_EACH_LAYER * (1000 + layer) for layer in range(N_LAYER))
    total = caught + N_LAYER * (N_FF - HOT_IN_EACH_LAYER)
    assert planning.plan.hit_rate == pytest.approx(caught / total, rel=1e-15)
    assert planning.covered == tuple(HOT_IN_EACH_LAYER * (1000.0 + layer) for layer in range(N_LAYER))
    assert planning.plan.solver is not None
    assert planning.plan.solver.objective == planning.plan.solver.upper_bound == caught
    assert planning.plan.solver.relative_gap == 0
    assert planning.plan.contradictions() == []


def test_the_account_of_the_plan(model: Path) -> None:
    budget = make_plan(request(model, 12_345)).plan.budget
    assert budget is not None
    assert budget == PlannedBudget(
        source="option",
        gpu_uuid=None,
        budget_bytes=DENSE_BYTES + KV_CACHE_BYTES + 12_345,
        charges={"dense_bytes": DENSE_BYTES, "kv_cache_bytes": KV_CACHE_BYTES, "reserve_bytes": 0},
        units_bytes=12_345,
    )


def test_the_same_inputs_give_the_same_plan(model: Path) -> None:
    asked = request(model, 50 * NEURON_BYTES)
    assert make_plan(asked).plan == make_plan(asked).plan


def test_where_everything_fits_everything_is_hot_and_that_is_said(model: Path) -> None:
    planning = make_plan(request(model, N_LAYER * N_FF * NEURON_BYTES))
    assert planning.plan.solved_list == (N_FF,) * N_LAYER
    assert planning.plan.hit_rate == 1
    assert "the whole model fits this budget, so a split into hot and cold neurons gains nothing" in planning.notes


def test_where_no_neuron_fits_the_plan_is_empty_and_that_is_said(model: Path) -> None:
    planning = make_plan(request(model, NEURON_BYTES - 1))
    assert planning.plan.solved_list == (0,) * N_LAYER
    assert (
        "no neuron is on the GPU: what is left for neurons holds no group of them; "
        "the first needs 1 bytes (1 B) more: raise --vram-budget, free VRAM or lower --context"
    ) in planning.notes


def test_where_the_threshold_keeps_every_layer_off_that_is_said(model: Path) -> None:
    planning = make_plan(request(model, 19 * NEURON_BYTES, threshold=ThresholdRule(neurons=20)))
    assert planning.plan.solved_list == (0,) * N_LAYER
    assert (
        "no neuron is on the GPU: no layer has room for as many as its threshold asks for; "
        f"the first needs {NEURON_BYTES} bytes ({format_bytes(NEURON_BYTES)}) more: "
        "raise --vram-budget, free VRAM or lower --context, or lower --threshold"
    ) in planning.notes


def test_a_gpu_that_is_nearly_full_is_more_than_a_budget_of_nothing(model: Path) -> None:
    budget = automatic_budget(300 * MIB, KnownGpu(context_bytes=100 * MIB))
    with pytest.raises(NoAnswerError) as caught:
        make_plan(replace(request(model, 0), vram_budget_bytes=None, budget=budget))
    assert str(caught.value) == (
        f"{model}: the GPU has 314572800 bytes (300.0 MiB) free, which leaves less than the engine's margin of 256 MiB "
        "after CUDA's context: its subtraction wraps around there, and it would treat VRAM as unlimited and run "
        "out of memory; free VRAM, or give --vram-budget to both"
    )


def test_a_dense_part_that_does_not_fit_says_what_is_missing(model: Path) -> None:
    asked = replace(request(model, 0), vram_budget_bytes=DENSE_BYTES - 5000)
    with pytest.raises(NoAnswerError) as caught:
        make_plan(asked)
    assert str(caught.value) == (
        f"{model}: the dense part needs {DENSE_BYTES} bytes, the budget is {DENSE_BYTES - 5000}: 5000 bytes (4.9 KiB) "
        "are missing, and the engine then puts no neuron on the GPU; free VRAM or raise --vram-budget"
    )


def test_thresholds_hold(model: Path) -> None:
    threshold = ThresholdRule(neurons=20)
    planning = make_plan(request(model, 50 * NEURON_BYTES, threshold=threshold))
    assert sum(planning.plan.solved_list) == 50
    assert all(hot == 0 or hot >= 20 for hot in planning.plan.solved_list)


def test_host_memory_that_cannot_hold_the_cold_neurons_is_no_answer(model: Path) -> None:
    cold_bytes = (N_LAYER * N_FF - 10) * NEURON_BYTES
    assert make_plan(request(model, 10 * NEURON_BYTES, host_bytes=cold_bytes)).plan.solved_list
    with pytest.raises(NoAnswerError, match="1 byte"):
        make_plan(request(model, 10 * NEURON_BYTES, host_bytes=cold_bytes - 1))


def test_groups_are_what_is_asked_for(model: Path) -> None:
    planning = make_plan(request(model, 50 * NEURON_BYTES, granularity=7))
    assert all(hot % 7 == 0 for hot in planning.plan.solved_list)
    assert planning.granularity == 7


@pytest.mark.parametrize(("matrix", "granularity"), [(model_files.F16, 32), (model_files.Q4_0, 256)])
def test_models_that_the_engine_runs_get_groups_that_it_computes(tmp_path: Path, matrix: int, granularity: int) -> None:
    (tmp_path / "activation").mkdir()
    for layer in range(2):
        torch.save(torch.arange(1024), tmp_path / "activation" / f"activation_{layer}.pt")
    model = model_files.llama(n_ff=1024, matrix=matrix).write(tmp_path / "m.gguf")
    whole = make_plan(PlanRequest(model, vram_budget_bytes=GIB, reserve=NO_RESERVE)).account
    asked = PlanRequest(
        model,
        vram_budget_bytes=whole.dense_bytes + whole.kv_cache_bytes + whole.units_total_bytes * 6 // 10,
        reserve=NO_RESERVE,
    )
    planning = make_plan(asked)
    assert planning.granularity == granularity
    assert 0 < sum(planning.plan.solved_list) < 2048
    assert all(hot % granularity == 0 for hot in planning.plan.solved_list)


def test_weights_that_the_engine_cannot_compute_sparse_are_named(model: Path) -> None:
    file = model_files.llama(n_layer=N_LAYER, n_embd=N_EMBD, n_ff=N_FF, rank=RANK, n_vocab=N_VOCAB)
    file.with_tensor("blk.3.ffn_up.weight", (N_EMBD, N_FF), model_files.Q8_0).write(model)
    note = f"{model}: FFN weights of type Q8_0; the engine's sparse kernels know F16 and Q4_0 only"
    assert note in make_plan(request(model, 1000)).notes


def test_statistics_may_lie_elsewhere_and_strangers_in_the_folder_are_noted(model: Path) -> None:
    folder = model.parent / "activation"
    (folder / "README.md").write_text("hello", encoding="utf-8")
    moved = folder.rename(model.parent / "elsewhere")
    planning = make_plan(request(model, 1000, activations=moved))
    assert f"{moved}: README.md is not an activation_<L>.pt file, ignored" in planning.notes
    assert [told.path for told in planning.plan.statistics] == [str(moved)]
    with pytest.raises(InputError) as caught:
        make_plan(request(model, 1000))
    assert str(folder) in str(caught.value)


def test_experts_are_planned_as_layers_with_their_layer_s_bytes(model: Path) -> None:
    folder = model.parent / "experts"
    folder.mkdir()
    for layer in range(N_LAYER):
        for expert in range(2):
            counts = torch.arange(N_FF) + 100 * expert
            torch.save(counts, folder / f"activation_{layer}_{expert}.pt")
    plan = make_plan(request(model, 40 * NEURON_BYTES, activations=folder)).plan
    assert plan.labels[:3] == ("0.0", "0.1", "1.0")
    assert [group.units for group in plan.groups] == [N_FF] * 2 * N_LAYER
    assert [group.unit_bytes for group in plan.groups] == [NEURON_BYTES] * 2 * N_LAYER
    assert sum(plan.solved_list) == 40
    assert sum(plan.solved_list[::2]) == 0


def test_free_memory_is_read_when_no_budget_is_given(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Gpu(0, "GeForce", "GPU-1", 8 * GIB, 7 * GIB, GIB, MemoryBasis.NVML_V2, 0, notes=("a note",))
    monkeypatch.setattr("planner.hardware.vram.choose_gpu", lambda selector: gpu if selector == "0" else None)
    planning = make_plan(replace(request(model, 0), vram_budget_bytes=None, gpu="0"))
    assert planning.plan.budget is not None
    assert planning.plan.budget.source == "nvml"
    assert planning.plan.budget.gpu_uuid == "GPU-1"
    context_bytes = planning.account.budget.context_bytes
    assert planning.plan.budget.budget_bytes == 7 * GIB - context_bytes - ENGINE_MARGIN_BYTES
    assert "a note" in planning.notes


@pytest.mark.parametrize("solver", ["highs", "cbc"])
def test_the_solver_is_the_one_that_was_asked_for(model: Path, solver: str) -> None:
    plan = make_plan(request(model, 77 * NEURON_BYTES + 5, solver=SolverOptions(solver=solver))).plan
    assert plan.solver is not None
    assert plan.solver.name == solver
    assert sum(plan.solved_list) == 77


def test_threshold_rules_come_from_complete_options() -> None:
    rule = ThresholdRule.from_options(neurons=None, sync_us=50, gpu_gb_per_s=1000, host_gb_per_s=50)
    # 50 µs over (24,576 bytes at 50 GB/s less the same at 1,000 GB/s) = 107.08…
    assert rule.for_layers((24_576,), (11_008,)) == (108,)
    assert ThresholdRule.from_options(neurons=7, sync_us=None, gpu_gb_per_s=None, host_gb_per_s=None).for_layers(
        (1, 2), (3, 4)
    ) == (7, 7)
    nothing = ThresholdRule.from_options(neurons=None, sync_us=None, gpu_gb_per_s=None, host_gb_per_s=None)
    assert nothing.for_layers((1,), (3,)) is None


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            {"neurons": 7, "sync_us": 1.0, "gpu_gb_per_s": None, "host_gb_per_s": None},
            "--threshold and --sync-time: give the threshold or what to derive it from, not both",
        ),
        (
            {"neurons": None, "sync_us": None, "gpu_gb_per_s": 1000.0, "host_gb_per_s": None},
            "--gpu-bandwidth: a derived threshold also needs --sync-time, --host-bandwidth",
        ),
    ],
)
def test_incomplete_threshold_options_are_refused(options: dict[str, float | None], line: str) -> None:
    with pytest.raises(InputError) as caught:
        ThresholdRule.from_options(**options)  # type: ignore[arg-type]
    assert str(caught.value) == line
