"""Answers of what-if cells against arithmetic done here, and against what `plan` says for the same files."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from planner.base.errors import InputError, NoAnswerError
from planner.catalogue.entries import Catalogue
from planner.engines.powerinfer.budget import DEFAULT_CONTEXT_BYTES, ENGINE_MARGIN_BYTES
from planner.planning import make_plan
from planner.studies.answer import CellPath
from planner.studies.cell_request import cell_request
from planner.studies.evaluator import CellEvaluator, Machine
from planner.studies.study import Study, load_study, study_of
from planner.studies.sweep import sweep
from tests import model_files
from tests.tiny_cells import (
    CONTEXT_BYTES,
    DENSE_BYTES,
    GIB,
    KV_BYTES,
    N_EMBD,
    N_FF,
    N_LAYER,
    N_VOCAB,
    NEURON_BYTES,
    TINY,
    ask,
    cells_of,
)


def test_a_cell_by_hand(catalogue: Catalogue) -> None:
    (answer,) = ask(catalogue)
    assert answer.path is CellPath.SPLIT
    sizes = answer.bytes
    assert (sizes.dense, sizes.kv_cache, sizes.reserve) == (DENSE_BYTES, KV_BYTES, 0)
    assert sizes.ffn == sizes.hot == 1024 * NEURON_BYTES
    assert sizes.vram == DEFAULT_CONTEXT_BYTES + DENSE_BYTES + KV_BYTES + 1024 * NEURON_BYTES
    # A quarter of all neurons, layers alike: the declared curve says what they catch.
    assert answer.solved_list == (256,) * N_LAYER
    assert answer.hit_rate == pytest.approx(0.75, abs=1e-3)
    assert answer.proof is not None
    assert answer.proof.status == "optimal"
    assert answer.proof.covered / answer.proof.total == answer.hit_rate
    assert answer.proof.upper_bound >= answer.proof.covered
    active_bytes = 0.25 * N_LAYER * N_FF * NEURON_BYTES
    gpu_bytes = DENSE_BYTES + KV_BYTES + active_bytes * answer.hit_rate
    host_bytes = active_bytes * (1 - answer.hit_rate)
    assert answer.tokens_per_s == pytest.approx(1 / (gpu_bytes / 100e9 + host_bytes / 10e9), rel=1e-6)
    embedding_bytes = N_EMBD * N_VOCAB * 2
    assert sizes.host == 3 * 1024 * NEURON_BYTES + embedding_bytes


def test_one_more_gib_is_what_a_gib_more_brings(catalogue: Catalogue) -> None:
    study = {"models": "relu-llama-70b", "quantisations": "Q4_0", "solvers": {}, "reserve": {"total": 0}}
    gpu = {"budget": ["16GiB", "17GiB", "60GiB"], "bandwidth": 1000}
    less, more, whole = ask(catalogue, **study, gpus=gpu)
    assert less.next_gib is not None
    assert less.hit_rate is not None
    assert more.hit_rate is not None
    assert less.next_gib.hit_rate == pytest.approx(more.hit_rate - less.hit_rate, abs=1e-12)
    assert less.tokens_per_s is not None
    assert more.tokens_per_s is not None
    assert less.next_gib.tokens_per_s == pytest.approx(more.tokens_per_s - less.tokens_per_s, rel=1e-9)
    assert whole.path is CellPath.ALL_ON_GPU
    assert whole.next_gib is not None
    assert (whole.next_gib.hit_rate, whole.next_gib.tokens_per_s) == (0, 0)


def test_the_engines_paths(catalogue: Catalogue) -> None:
    everything = DENSE_BYTES + KV_BYTES + N_LAYER * N_FF * NEURON_BYTES
    budgets = [everything, everything - 1, DENSE_BYTES + KV_BYTES, DENSE_BYTES - 1]
    gpu = {"budget": [f"{size}B" for size in budgets], "bandwidth": 100}
    answers = ask(catalogue, gpus=gpu)
    assert [answer.path.value for answer in answers] == ["all_on_gpu", "split", "dense_only", "dense_incomplete"]
    assert [answer.hit_rate for answer in answers[::2]] == [1.0, 0.0]
    assert answers[3].bytes.missing == 1
    assert answers[3].notes[0] == "the dense part is short of 1 B, so the engine gives neurons nothing"


def test_the_budget_of_a_board_is_less_context_and_margin(catalogue: Catalogue) -> None:
    gpu = {"vram": "8GiB", "bandwidth": 100, "context": "100MiB"}
    (answer,) = ask(catalogue, gpus=gpu)
    assert answer.bytes.budget == 8 * GIB - CONTEXT_BYTES - ENGINE_MARGIN_BYTES
    (same,) = ask(catalogue, gpus={"free": "8GiB", "bandwidth": 100, "context": "100MiB"})
    assert same.bytes == answer.bytes


@pytest.mark.parametrize(
    ("gpu", "free_mib", "words"),
    [
        ({"catalogue": "rtx-5070-ti"}, 16_303 - 495, "that the driver keeps (known for rtx-5070-ti)"),
        ({"catalogue": "rtx-4080"}, 16_376 - 498, "but 498.0 MiB that the driver keeps (a default)"),
        ({"catalogue": "rtx-4080", "vram": "8GiB"}, 8192 - 498, "but 498.0 MiB that the driver keeps (a default)"),
        ({"catalogue": "rtx-5070-ti", "reserved": "100MiB"}, 16_203, "but 100.0 MiB that the driver keeps (the study)"),
        ({"catalogue": "rtx-5070-ti", "reserved": 0}, 16_303, "memory on the board, all of it free, less 612.0 MiB"),
        ({"catalogue": "rtx-5070-ti", "free": "8GiB"}, 8192, "free memory, less 612.0 MiB"),
        ({"vram": "8GiB", "bandwidth": 100}, 8192, "memory on the board, all of it free, less 612.0 MiB"),
        ({"catalogue": "gb10-dgx-spark"}, 124_610, "memory on the board, all of it free, less 612.0 MiB"),
    ],
)
def test_a_card_starts_from_what_the_driver_leaves(
    catalogue: Catalogue, gpu: dict[str, Any], free_mib: int, words: str
) -> None:
    study = {"models": "bamboo-7b", "quantisations": "Q4_0", "gpus": gpu, "hosts": "ddr5-5600-dual"}
    (answer,) = sweep(study_of(study, catalogue).cells, catalogue)
    assert answer.bytes.free == free_mib << 20
    assert answer.bytes.budget == (free_mib - 612 - 256) << 20
    assert words in dict(answer.basis)["budget"]


def test_a_card_has_its_own_cuda_context_where_it_is_known(catalogue: Catalogue) -> None:
    gpus = ["rtx-4060-ti-16gb", {"catalogue": "rtx-4060-ti-16gb", "context": "200MiB", "name": "own"}]
    study = {"models": "bamboo-7b", "quantisations": "Q4_0", "gpus": gpus, "hosts": "ddr5-5600-dual"}
    known, own = sweep(study_of(study, catalogue).cells, catalogue)
    assert known.bytes.budget == (16_380 - 436 - 107 - 256) << 20
    assert "less 107.0 MiB CUDA context (known for rtx-4060-ti-16gb) and 256 MiB" in dict(known.basis)["budget"]
    assert own.bytes.budget == (16_380 - 436 - 200 - 256) << 20
    assert "less 200.0 MiB CUDA context (the study) and 256 MiB" in dict(own.basis)["budget"]


def test_with_the_logs_ranks_falcon_40b_in_f16_is_not_whole_on_24_gb(catalogue: Catalogue) -> None:
    study = {"models": "falcon-40b", "gpus": ["rtx-3090", "rtx-4090"], "hosts": "ddr5-5600-dual"}
    for answer in sweep(study_of(study, catalogue).cells, catalogue):
        assert answer.path is CellPath.DENSE_INCOMPLETE


def test_a_host_that_is_too_small_does_not_fit(catalogue: Catalogue) -> None:
    embedding_bytes = N_EMBD * N_VOCAB * 2
    cold_bytes = 3 * 1024 * NEURON_BYTES
    enough, short, tiny = ask(
        catalogue,
        hosts=[
            {"bandwidth": 10, "memory": f"{cold_bytes + embedding_bytes}B"},
            {"bandwidth": 10, "memory": f"{cold_bytes + embedding_bytes - 1}B"},
            {"bandwidth": 10, "memory": "1B"},
        ],
    )
    assert enough.path is CellPath.SPLIT
    assert (short.path, short.bytes.missing, short.hit_rate, short.tokens_per_s) == (
        CellPath.DOES_NOT_FIT,
        1,
        None,
        None,
    )
    assert short.notes[0] == "the host cannot hold what the GPU does not"
    assert tiny.path is CellPath.DOES_NOT_FIT
    assert tiny.bytes.missing == cold_bytes + embedding_bytes - 1


def test_targets_are_judged_one_by_one(catalogue: Catalogue) -> None:
    targets = {"hit_rate": 0.7, "tokens_per_second": 1e6, "vram": "1GiB"}
    (answer,) = ask(catalogue, targets=targets)
    assert [(target.name, target.met) for target in answer.targets] == [
        ("hit_rate", True),
        ("tokens_per_second", False),
        ("vram", True),
    ]
    assert answer.verdict == "misses"
    assert ask(catalogue, targets={"hit_rate": 0.7})[0].verdict == "meets"
    assert ask(catalogue)[0].verdict == ""


def test_opt_reads_its_embedding_on_the_host(catalogue: Catalogue) -> None:
    study: dict[str, Any] = {"models": "opt-6.7b", "gpus": {"budget": 80, "bandwidth": 1000}}
    (answer,) = ask(catalogue, **study, quantisations="F16", solvers={})
    assert answer.path is CellPath.ALL_ON_GPU
    assert answer.speed is not None
    embedding_bytes = 50272 * 4096 * 2
    assert answer.speed.host_read_bytes == embedding_bytes


def test_more_vram_is_never_worse_where_the_cache_stays(catalogue: Catalogue) -> None:
    gpu = {"catalogue": "rtx-4090", "vram": {"from": "2GiB", "to": "60GiB", "step": "1.7GiB"}}
    answers = ask(
        catalogue,
        models=["relu-llama-70b", "opt-30b", "falcon-40b"],
        gpus=gpu,
        quantisations="Q4_0",
        solvers={},
        reserve={},
        speed={},
    )
    for model in ("relu-llama-70b", "opt-30b", "falcon-40b"):
        of_model = [answer for answer in answers if answer.model == model]
        assert of_model[-1].hit_rate == 1
        for less, more in itertools.pairwise(of_model):
            if less.bytes.kv_cache == more.bytes.kv_cache:
                assert (more.hit_rate or 0) >= (less.hit_rate or 0)
                assert (more.tokens_per_s or 0) >= (less.tokens_per_s or 0) * (1 - 1e-12)


def test_statistics_are_sorted_once_and_torch_stays_away(catalogue: Catalogue, monkeypatch: Any) -> None:
    from planner.activations.hotness import Hotness

    sorted_models: list[int] = []
    original = Hotness.from_values.__func__  # type: ignore[attr-defined]

    def counting(cls: type[Hotness], values: Any) -> Hotness:
        sorted_models.append(len(values))
        found: Hotness = original(cls, values)
        return found

    monkeypatch.setattr(Hotness, "from_values", classmethod(counting))
    gpu = {"catalogue": "t4", "vram": {"from": "8GiB", "to": "16GiB", "step": "1GiB"}}
    ask(catalogue, models=[TINY, "bamboo-7b"], gpus=gpu, contexts=[64, 128], quantisations=["F16", "Q4_0"])
    assert sorted_models == [N_LAYER, 32]


@pytest.fixture
def study(tmp_path: Path) -> Study:
    """A study of a model file with its own statistics, on several kinds of GPU."""
    rng = np.random.default_rng(7)
    (tmp_path / "m" / "activation").mkdir(parents=True)
    for layer in range(3):
        counts = torch.from_numpy(rng.integers(0, 10_000, 1536))
        torch.save(counts, tmp_path / "m" / "activation" / f"activation_{layer}.pt")
    model = model_files.llama(n_layer=3, n_embd=256, n_ff=1536, n_vocab=64)
    model.write(tmp_path / "m" / "tiny.powerinfer.gguf")
    file = tmp_path / "study.yaml"
    file.write_text(
        "models: {file: m/tiny.powerinfer.gguf, name: tiny}\n"
        "gpus:\n  - {name: a, bandwidth: 100, budget: [16MiB, 18MiB, 2]}\n  - {catalogue: t4, context: 100MiB}\n"
        "  - {name: small, bandwidth: 100, vram: 376MiB, context: 100MiB}\n"
        "hosts: [{bandwidth: 20}, {bandwidth: 20, memory: 4GiB, name: limited}]\n"
        "contexts: [64, 512]\nsolvers: [highs, {granularity: 96}, {threshold: 200}]\n"
    )
    return load_study(file)


def test_a_cell_equals_what_plan_says_for_the_same_inputs(study: Study) -> None:
    answers = sweep(study.cells, study.catalogue)
    compared = set()
    for answer in answers:
        request = cell_request(study, answer.name)
        if answer.path is CellPath.DENSE_INCOMPLETE:
            with pytest.raises(NoAnswerError):
                make_plan(request)
            continue
        plan = make_plan(request).plan
        assert plan.solved_list == answer.solved_list
        assert plan.hit_rate == answer.hit_rate
        assert plan.budget is not None
        assert plan.budget.units_bytes == answer.bytes.ffn
        assert plan.budget.budget_bytes == answer.bytes.budget
        compared.add(answer.path)
    assert {CellPath.SPLIT, CellPath.ALL_ON_GPU} <= compared


def test_only_files_with_statistics_of_their_own_can_be_planned(study: Study, catalogue: Catalogue) -> None:
    declared = study_of({"models": "bamboo-7b", "gpus": "t4", "hosts": "pc-low"}, catalogue)
    with pytest.raises(InputError) as caught:
        cell_request(declared, None)
    assert str(caught.value) == (
        "study: base / bamboo-7b / F16 / t4 / pc-low / 512: found a model without a file, expected `file:` to plan or "
        "export it; `hotsplit whatif` answers without one"
    )
    figures = study_of(
        {
            "models": {"file": str(study.cells[0].model.file), "name": "f", "statistics": "relullama-7b"},
            "gpus": "t4",
            "hosts": "pc-low",
        },
        catalogue,
    )
    with pytest.raises(InputError) as caught:
        cell_request(figures, None)
    assert str(caught.value) == (
        "study: base / f / as in file / t4 / pc-low / 512: found statistics that are figures, expected a folder of "
        "activation_<L>.pt: figures do not say which neurons are hot"
    )


def test_a_derived_threshold_needs_the_bandwidth(catalogue: Catalogue) -> None:
    (answer,) = ask(catalogue, solvers={"sync_us": 5, "granularity": 1})
    # C = ceil(T_sync / (M / host - M / GPU)), M = 768 bytes, 10 and 100 GB/s.
    least = -(-5e-6 // (NEURON_BYTES / 10e9 - NEURON_BYTES / 100e9))
    assert least == 73
    assert all(count == 0 or count >= least for count in answer.solved_list)


# ---- one memory for GPU and host ------------------------------------------------------------------------------------

_EMBEDDING_BYTES = N_EMBD * N_VOCAB * 2
_WHOLE_BYTES = DENSE_BYTES + KV_BYTES + N_LAYER * N_FF * NEURON_BYTES + _EMBEDDING_BYTES


def _share(monkeypatch: pytest.MonkeyPatch, available_bytes: int, *, shared: bool = True) -> None:
    """Makes this machine one with `available_bytes`, of which the kernel calls all but 1 MiB free."""
    from planner.hardware.gpu import Gpu, MemoryBasis
    from planner.hardware.host import HostMemory
    from planner.studies import sweep as module

    basis = MemoryBasis.HOST_MEMORY if shared else MemoryBasis.NVML_V2
    gpu = Gpu(0, "NVIDIA GB10", "GPU-1", 2 * available_bytes, available_bytes - (1 << 20), None, basis, 0)
    memory = HostMemory(2 * available_bytes, available_bytes, "/proc/meminfo", available_bytes - (1 << 20))
    monkeypatch.setattr(module, "choose_gpu", lambda: gpu)
    monkeypatch.setattr(module, "host_memory", lambda: memory)


_ONE_MACHINE: dict[str, Any] = {
    "gpus": {
        "device": "this machine",
        "bandwidth": 273,
        "budget": f"{DENSE_BYTES + KV_BYTES + 1024 * NEURON_BYTES}B",
    },
    "hosts": {"device": "this machine", "bandwidth": 273, "name": "h"},
}


def test_notes_about_this_machines_gpu_stand_with_the_cells_that_use_it(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planner.hardware.gpu import Gpu, MemoryBasis
    from planner.studies import sweep as module

    gpu = Gpu(0, "A card", "GPU-1", 8 * GIB, 7 * GIB, None, MemoryBasis.NVML_V2, 0, notes=("two GPUs are alike",))
    monkeypatch.setattr(module, "choose_gpu", lambda: gpu)
    here = {"device": "this machine", "bandwidth": 273}
    with_note, without = ask(catalogue, gpus=[here, {"name": "other", "vram": "8GiB", "bandwidth": 100}])
    assert with_note.notes[-1] == "two GPUs are alike"
    assert "two GPUs are alike" not in without.notes


def test_a_stated_budget_is_used_besides_the_context_that_the_study_states(catalogue: Catalogue) -> None:
    gpu = {"budget": "1GiB", "bandwidth": 100}
    guessed, stated = ask(catalogue, gpus=[{**gpu, "name": "a"}, {**gpu, "name": "b", "context": "100MiB"}])
    assert (guessed.bytes.budget, stated.bytes.budget) == (GIB, GIB)
    assert guessed.bytes.vram - stated.bytes.vram == DEFAULT_CONTEXT_BYTES - CONTEXT_BYTES


def test_this_machines_gpu_has_the_rates_of_the_catalogue(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    from planner.hardware.gpu import Gpu, MemoryBasis
    from planner.studies import sweep as module

    title = "NVIDIA GeForce RTX 4090 Laptop GPU"
    gpu = Gpu(0, title, "GPU-1", 16 * GIB, 7 * GIB, None, MemoryBasis.NVML_V2, 0)
    monkeypatch.setattr(module, "choose_gpu", lambda: gpu)
    (answer,) = ask(catalogue, gpus={"device": "this machine"})
    assert answer.gpu_name == f"{title} (this machine)"
    assert answer.vram_bytes == 7 * GIB
    assert dict(answer.basis)["speed"].startswith("bytes read for a token over 576 GB/s GPU, 10 GB/s host")
    (cell,) = cells_of(catalogue, gpus={"device": "this machine"})
    # PCI Express 4.0 with 16 lanes: 16 GT/s each, 128 bits of 130 are data.
    link = CellEvaluator(catalogue, Machine(gpu, None)).gpu(cell).pcie_bytes_per_s
    assert link == pytest.approx(16e9 / 8 * 16 * 128 / 130, rel=1e-3)
    # A size that the study states counts in place of what is free.
    (sized,) = ask(catalogue, gpus={"device": "this machine", "vram": "4GiB"})
    assert sized.vram_bytes == 4 * GIB
    assert sized.bytes.budget == 4 * GIB - DEFAULT_CONTEXT_BYTES - ENGINE_MARGIN_BYTES


def test_one_memory_is_not_spent_twice(catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch) -> None:
    # Every byte is on one side or the other, and CUDA's context comes on top.
    needed_bytes = DEFAULT_CONTEXT_BYTES + _WHOLE_BYTES
    _share(monkeypatch, needed_bytes)
    (answer,) = ask(catalogue, **_ONE_MACHINE)
    assert answer.path is CellPath.SPLIT
    assert answer.bytes.hot == 1024 * NEURON_BYTES
    assert answer.bytes.vram + answer.bytes.host == needed_bytes
    assert dict(answer.basis)["memory"] == f"one for GPU and host, {needed_bytes / 2**20:.1f} MiB available"
    _share(monkeypatch, needed_bytes - 1)
    (answer,) = ask(catalogue, **_ONE_MACHINE)
    assert (answer.path, answer.hit_rate, answer.bytes.missing) == (CellPath.DOES_NOT_FIT, None, 1)
    assert answer.notes[0] == (
        f"GPU and host share {needed_bytes / 2**20:.1f} MiB of memory, which is 1 B too little for both"
    )


def test_a_gpu_with_memory_of_its_own_leaves_the_host_its_own(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the host must hold: three quarters of the neurons and the embeddings. It need not hold the GPU's part too.
    host_bytes = 3 * 1024 * NEURON_BYTES + _EMBEDDING_BYTES
    _share(monkeypatch, host_bytes, shared=False)
    (answer,) = ask(catalogue, **_ONE_MACHINE)
    assert (answer.path, answer.bytes.host) == (CellPath.SPLIT, host_bytes)
    _share(monkeypatch, host_bytes, shared=True)
    (answer,) = ask(catalogue, **_ONE_MACHINE)
    assert answer.bytes.missing == DEFAULT_CONTEXT_BYTES + _WHOLE_BYTES - host_bytes


def test_one_memory_counts_only_where_a_cell_has_both_sides_of_it(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    _share(monkeypatch, 1 << 20)
    (answer,) = ask(catalogue, gpus=_ONE_MACHINE["gpus"])
    assert answer.path is CellPath.SPLIT
    assert "memory" not in dict(answer.basis)


def test_a_plan_of_one_memory_that_is_too_small_is_refused(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    file = study.path.with_name("one.yaml")
    file.write_text(
        "models: {file: m/tiny.powerinfer.gguf, name: tiny}\n"
        "gpus: {device: this machine, bandwidth: 273, budget: 32MiB}\n"
        "hosts: {device: this machine, bandwidth: 273, name: h}\n"
    )
    _share(monkeypatch, 1 << 30)
    assert any(make_plan(cell_request(load_study(file), None)).plan.solved_list)
    _share(monkeypatch, 1 << 20)
    with pytest.raises(NoAnswerError) as caught:
        cell_request(load_study(file), None)
    cell = load_study(file).cells[0].name
    said = re.fullmatch(
        re.escape(f"{file}: {cell}: GPU and host share 1.0 MiB of memory, which is ")
        + r"([0-9.]+) MiB too little for both",
        str(caught.value),
    )
    assert said is not None, str(caught.value)
    assert 612 < float(said[1]) < 700  # CUDA's context and a model of some MiB


ONE_AT_A_TIME: tuple[tuple[dict[str, Any], dict[str, Any]], ...] = (
    ({"quantisations": "F16"}, {"quantisations": "Q8_0"}),
    ({}, {"models": [{**TINY, "dimensions": {**TINY["dimensions"], "n_ff": N_FF // 2}}]}),
    ({}, {"models": [{**TINY, "statistics": {"hotness": {"hot_share": 0.25, "activation_share": 0.9}}}]}),
    ({}, {"gpus": {"budget": f"{DENSE_BYTES + KV_BYTES + 512 * NEURON_BYTES}B", "bandwidth": 100, "name": "g"}}),
    ({"kv_type": "f16"}, {"kv_type": "f32"}),
    ({"reserve": {"total": 0}}, {"reserve": {"total": 300 * NEURON_BYTES}}),
    ({"contexts": 256}, {"contexts": 128}),
    ({"solvers": {"granularity": 1}}, {"solvers": {"granularity": 1, "objective": "host-reads"}}),
    ({"solvers": {"granularity": 1}}, {"solvers": {"granularity": 7}}),
    ({"solvers": {"granularity": 1}}, {"solvers": {"granularity": 1, "threshold": 300}}),
    (
        {"solvers": {"granularity": 1, "sync_us": 25}},
        {"solvers": {"granularity": 1, "sync_us": 25}, "hosts": {"bandwidth": 30, "name": "h"}},
    ),
    (
        {"solvers": {"granularity": 1, "sync_us": 25}},
        {
            "solvers": {"granularity": 1, "sync_us": 25},
            "gpus": {"budget": f"{DENSE_BYTES + KV_BYTES + 1024 * NEURON_BYTES}B", "bandwidth": 15, "name": "g"},
        },
    ),
    ({}, {"hosts": {"bandwidth": 10, "name": "h", "memory": "1MiB"}}),
)


@pytest.mark.parametrize(("one", "other"), ONE_AT_A_TIME)
def test_what_is_kept_for_one_cell_answers_no_other(
    catalogue: Catalogue, one: dict[str, Any], other: dict[str, Any]
) -> None:
    cells = [cell for changes in (one, other) for cell in cells_of(catalogue, **changes)]
    alone = [CellEvaluator(catalogue, Machine(None, None)).answer(cell) for cell in cells]
    evaluator = CellEvaluator(catalogue, Machine(None, None))
    assert [evaluator.answer(cell) for cell in cells] == alone
    assert (alone[0].bytes, alone[0].solved_list, alone[0].proof) != (
        alone[1].bytes,
        alone[1].solved_list,
        alone[1].proof,
    )
