from __future__ import annotations

import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

from planner.base.errors import InputError
from planner.catalogue.entries import Catalogue
from planner.engines.powerinfer.budget import ENGINE_MARGIN_BYTES
from planner.studies.evaluator import CellEvaluator
from planner.studies.study import study_of
from planner.studies.sweep import sweep
from tests.tiny_cells import (
    GIB,
    N_LAYER,
    TINY,
    ask,
)


def test_a_gpu_without_bandwidth_has_no_speed_and_says_why(catalogue: Catalogue, monkeypatch: Any) -> None:
    from planner.hardware.vram import Gpu, MemoryBasis
    from planner.studies import sweep as module

    here = Gpu(0, "NVIDIA Something", "GPU-1", 8 * GIB, 6 * GIB, 2 * GIB, MemoryBasis.NVML_V2, 0, (8, 9), None)
    monkeypatch.setattr(module, "choose_gpu", lambda: here)
    (answer,) = ask(catalogue, gpus="this machine")
    assert answer.gpu == "NVIDIA Something (this machine)"
    assert answer.speed is None
    assert "no speed: the GPU's bandwidth is not known; give it in the study (gpus: bandwidth)" in answer.notes
    known = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-1", 24_564 << 20, 6 * GIB, 0, MemoryBasis.NVML_V2, 0, (8, 9), None)
    monkeypatch.setattr(module, "choose_gpu", lambda: known)
    (answer,) = ask(catalogue, gpus="this machine")
    assert answer.speed is not None
    # NVML's free memory has no part of what the driver keeps, and `plan` takes the same CUDA context for this machine.
    assert answer.bytes.budget == 6 * GIB - (428 << 20) - ENGINE_MARGIN_BYTES


@pytest.mark.parametrize(("total_mib", "gb_per_s"), [(10_240, 760), (12_288, 912), (20_480, None)])
def test_this_machine_finds_its_entry_by_name_and_total(
    catalogue: Catalogue, monkeypatch: Any, total_mib: int, gb_per_s: int | None
) -> None:
    from planner.hardware.vram import Gpu, MemoryBasis
    from planner.studies import sweep as module

    card = Gpu(0, "NVIDIA GeForce RTX 3080", "GPU-1", total_mib << 20, 6 * GIB, 0, MemoryBasis.NVML_V2, 0, (8, 6), None)
    monkeypatch.setattr(module, "choose_gpu", lambda: card)
    (answer,) = ask(catalogue, gpus="this machine")
    speed = dict(answer.basis).get("speed")
    assert (None if speed is None else speed.startswith(f"bytes read for a token over {gb_per_s} GB/s GPU")) is (
        None if gb_per_s is None else True
    )


def test_processes_change_nothing(catalogue: Catalogue) -> None:
    gpu = {"catalogue": "t4", "vram": {"from": "8GiB", "to": "16GiB", "step": "2GiB"}}
    study = study_of({"models": [TINY, "bamboo-7b"], "gpus": gpu, "hosts": "pc-low"}, catalogue)
    counted: list[int] = []
    assert sweep(study.cells, catalogue, processes=2, progress=counted.append) == sweep(study.cells, catalogue)
    assert sum(counted) == len(study.cells) == 10


def test_a_fault_in_another_process_reads_the_same(catalogue: Catalogue, tmp_path: Path) -> None:
    (tmp_path / "stats").mkdir()
    for layer in range(N_LAYER):
        torch.save(torch.ones(3), tmp_path / "stats" / f"activation_{layer}.pt")
    faulty = {**TINY, "statistics": {"folder": str(tmp_path / "stats")}}
    gpu = {"catalogue": "t4", "vram": ["8GiB", "9GiB"]}
    study = study_of({"models": faulty, "gpus": gpu, "hosts": "pc-low"}, catalogue)
    messages = []
    for processes in (1, 2):
        with pytest.raises(InputError) as caught:
            sweep(study.cells, catalogue, processes=processes)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    assert "activation_0.pt" in messages[0]


def test_this_machine_without_a_gpu_says_what_to_write(catalogue: Catalogue, monkeypatch: Any) -> None:
    from planner.studies import sweep as module

    def none() -> None:
        raise InputError("no GPU")

    monkeypatch.setattr(module, "choose_gpu", none)
    with pytest.raises(InputError) as caught:
        ask(catalogue, gpus="this machine")
    assert str(caught.value) == (
        "gpu 'this machine': no GPU; in a study that is gpus: {budget: 8GiB, bandwidth: 936 GB/s}"
    )


def test_a_sweep_does_not_import_torch() -> None:
    import subprocess

    program = (
        "import sys\nfrom planner.catalogue.entries import load_catalogue\nfrom planner.studies.study import study_of\n"
        "from planner.studies.sweep import sweep\nc = load_catalogue()\n"
        "sweep(study_of({'models': 'bamboo-7b', 'gpus': 't4', 'hosts': 'pc-low'}, c).cells, c)\n"
        "print('torch' in sys.modules, 'pulp' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split()[0] == "False"


def test_results_of_finished_models_are_let_go(catalogue: Catalogue, monkeypatch: Any) -> None:
    from planner.studies import sweep as module

    alive: list[weakref.ref[Any]] = []
    seen: list[tuple[str, int]] = []

    class Watched(CellEvaluator):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            alive.append(weakref.ref(self))

        def answer(self, cell: Any) -> Any:
            seen.append((cell.model.label, sum(each() is not None for each in alive)))
            return super().answer(cell)

    monkeypatch.setattr(module, "CellEvaluator", Watched)
    study = study_of({"models": [TINY, "bamboo-7b"], "gpus": ["t4", "rtx-4090"], "hosts": "pc-low"}, catalogue)
    sweep(study.cells, catalogue)
    assert [number for _, number in seen] == [1, 1, 1, 1]
    assert len({label for label, _ in seen[:2]}) == len({label for label, _ in seen[2:]}) == 1
    assert len(alive) == 2
    # A model that comes back keeps its results until its last cell.
    alive.clear()
    first, second = study.cells[0], study.cells[2]
    sweep([first, second, study.cells[1], study.cells[3]], catalogue)
    assert len(alive) == 1
