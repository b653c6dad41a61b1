"""What is measured: each phase of the walk from a model folder to an index, beside what a user would use instead.

A phase is a function that prepares and returns what is timed. `@phase(NAME)` registers ours, `@beside(NAME, RIVAL)`
what it is compared with; both are called by turns.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import gguf
import numpy as np
import torch

from benchmarks.cases import Bench
from benchmarks.released_formulation import RELEASED_GROUP, solve_with_cbc
from exporter.powerinfer.index_format import IndexedLayer
from exporter.powerinfer.index_writer import write_index
from exporter.powerinfer.verify import verify_index
from exporter.select import Selector
from planner.activations.folder import read_statistics
from planner.activations.hotness import Hotness
from planner.catalogue.entries import load_catalogue
from planner.model_files.header import read_header
from planner.placement.solve import solve
from planner.studies.study import study_of
from planner.studies.sweep import sweep

Work = Callable[[], object]
Prepare = Callable[[Bench], Work]
P = TypeVar("P", bound=Prepare)

SWEEP_CELLS = 50


@dataclass
class Phase:
    """One phase.

    Attributes:
        prepare: returns what is timed.
        rivals: what to compare with, by name.
        slow: the rivals that take half a minute, so one round is enough and a smoke run does without.
        needs_cuda: whether it is left out where torch finds no GPU.
    """

    prepare: Prepare
    rivals: dict[str, Prepare] = field(default_factory=dict)
    slow: set[str] = field(default_factory=set)
    needs_cuda: bool = False


PHASES: dict[str, Phase] = {}


def phase(name: str, *, needs_cuda: bool = False) -> Callable[[P], P]:
    """Registers a phase, in the order of the walk."""

    def register(prepare: P) -> P:
        PHASES[name] = Phase(prepare, needs_cuda=needs_cuda)
        return prepare

    return register


def beside(name: str, rival: str, *, slow: bool = False) -> Callable[[P], P]:
    """Registers what a phase is compared with."""

    def register(prepare: P) -> P:
        PHASES[name].rivals[rival] = prepare
        if slow:
            PHASES[name].slow.add(rival)
        return prepare

    return register


@phase("read header")
def _read_header(bench: Bench) -> Work:
    model = bench.model
    return lambda: read_header(model)


@beside("read header", "gguf.GGUFReader")
def _gguf_reader(bench: Bench) -> Work:
    path = _as_gguf(bench)
    return lambda: gguf.GGUFReader(path)


@phase("read statistics")
def _read_statistics(bench: Bench) -> Work:
    return lambda: read_statistics(bench.activations)


@beside("read statistics", "torch.load")
def _torch_load(bench: Bench) -> Work:
    paths = sorted(bench.activations.glob("*.pt"))
    return lambda: [torch.load(path, weights_only=True) for path in paths]


@phase("build")
def _build(bench: Bench) -> Work:
    values = bench.statistics.values
    return lambda: bench.problem(Hotness.from_values(values))


@beside("build", "numpy.sort")
def _numpy_sort(bench: Bench) -> Work:
    values = bench.statistics.values
    return lambda: [np.cumsum(np.sort(each)[::-1], dtype=np.float64) for each in values]


@phase("solve")
def _solve(bench: Bench) -> Work:
    problem = bench.problem(bench.planning.hotness)
    return lambda: solve(problem)


@beside("solve", "released formulation, CBC", slow=True)
def _released_formulation(bench: Bench) -> Work:
    problem = bench.problem(bench.planning.hotness)
    return lambda: solve_with_cbc(problem, RELEASED_GROUP)


@phase("select")
def _select(bench: Bench) -> Work:
    return lambda: _selected(bench, "cpu")


@beside("select", "torch.topk")
def _topk(bench: Bench) -> Work:
    pairs = [
        (torch.from_numpy(np.require(values, requirements=["C", "A", "W"])), hot_neurons)
        for values, hot_neurons in zip(bench.statistics.values, bench.solved_list, strict=True)
    ]
    return lambda: [torch.topk(tensor, hot_neurons).indices.sort().values for tensor, hot_neurons in pairs]


@phase("select on CUDA", needs_cuda=True)
def _select_cuda(bench: Bench) -> Work:
    expected = _selected(bench, "cpu")
    for ours, theirs in zip(_selected(bench, "cuda"), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    return lambda: _selected(bench, "cuda")


@beside("select on CUDA", "the CPU")
def _select_cpu(bench: Bench) -> Work:
    return lambda: _selected(bench, "cpu")


@phase("write")
def _write(bench: Bench) -> Work:
    layers, buckets = _layers(bench), _selected(bench, "cpu")
    output = bench.folder / "written.gpuidx"
    return lambda: write_index(output, layers, buckets, bench.planning.plan.vram_required_bytes)


@beside("write", "gguf.GGUFWriter and flush")
def _gguf_writer(bench: Bench) -> Work:
    layers, buckets = _layers(bench), _selected(bench, "cpu")
    output = bench.folder / "written.gguf"

    def write() -> None:
        writer = gguf.GGUFWriter(output, "generic.gpu_index")
        for layer, bucket in zip(layers, buckets, strict=True):
            mask = np.zeros(layer.n_ff, dtype=np.int32)
            mask[bucket] = 1
            writer.add_tensor(layer.gpu_idx_name, mask)
            writer.add_tensor(layer.gpu_bucket_name, bucket)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        # Ours ends with both on disk.
        for path in (output, output.parent):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)

    return write


@phase("verify")
def _verify(bench: Bench) -> Work:
    path, geometry, statistics, plan = bench.index, bench.geometry, bench.statistics, bench.planning.plan

    def verify() -> None:
        faults = verify_index(path, geometry=geometry, statistics=statistics, plan=plan)
        if faults:
            raise AssertionError(faults)

    return verify


@phase("sweep")
def _sweep(bench: Bench) -> Work:
    catalogue = load_catalogue()
    budgets = [f"{int(bench.budget_bytes * (1 + cell / 100))}B" for cell in range(SWEEP_CELLS)]
    study = study_of(
        {
            "models": {"file": str(bench.model.resolve())},
            "gpus": {"bandwidth": "1000 GB/s", "budget": budgets},
            "hosts": {"bandwidth": "80 GB/s"},
        },
        catalogue,
    )
    return lambda: sweep(study.cells, catalogue, processes=1)


def _layers(bench: Bench) -> list[IndexedLayer]:
    return [
        IndexedLayer(label, len(values), hot_neurons)
        for label, values, hot_neurons in zip(
            bench.statistics.labels, bench.statistics.values, bench.solved_list, strict=True
        )
    ]


def _selected(bench: Bench, device: str) -> list[np.ndarray]:
    return Selector(device).select_all(bench.statistics.values, bench.statistics.n_ff, bench.solved_list)


def _as_gguf(bench: Bench) -> Path:
    """Returns the model with an ordinary file's magic, which is all that today's reader wants."""
    path = bench.folder / "ordinary.gguf"
    with open(bench.model, "rb") as model, open(path, "wb") as copy:
        header = read_header(bench.model)
        copy.write(b"GGUF" + model.read(header.data_offset)[4:])
        copy.truncate(header.file_bytes)
    return path
