"""A model small enough to count by hand, and the way tests ask about it."""

from __future__ import annotations

from typing import Any

from planner.catalogue.entries import Catalogue
from planner.studies.answer import Answer
from planner.studies.study import Cell, study_of
from planner.studies.sweep import sweep

GIB = 1 << 30
CONTEXT_BYTES = 100 << 20

# A model small enough to count by hand: 4 layers, every matrix F16, all layers with one declared curve.
N_LAYER, N_EMBD, N_FF, RANK, N_VOCAB = 4, 128, 1024, 32, 64
NEURON_BYTES = 3 * N_EMBD * 2
DENSE_BYTES = N_LAYER * (4 * N_EMBD * N_EMBD * 2 + 2 * N_EMBD * 4 + (N_EMBD * RANK + RANK * N_FF) * 2) + (
    N_EMBD * 4 + N_EMBD * N_VOCAB * 2
)
KV_BYTES = 2 * N_LAYER * 256 * N_EMBD * 2
TINY: dict[str, Any] = {
    "name": "tiny",
    "active_share": 0.25,
    "statistics": {"hotness": {"hot_share": 0.25, "activation_share": 0.75}},
    "dimensions": {
        "architecture": "llama",
        "n_layer": N_LAYER,
        "n_embd": N_EMBD,
        "n_ff": N_FF,
        "n_head": 4,
        "n_vocab": N_VOCAB,
        "predictor_rank": RANK,
    },
}


def cells_of(catalogue: Catalogue, **changes: Any) -> tuple[Cell, ...]:
    """Returns the cells of a study of the tiny model, with some of its keys changed."""
    study: dict[str, Any] = {
        "models": [TINY],
        "gpus": {"budget": f"{DENSE_BYTES + KV_BYTES + 1024 * NEURON_BYTES}B", "bandwidth": 100, "name": "g"},
        "hosts": {"bandwidth": 10, "name": "h"},
        "contexts": 256,
        "solvers": {"granularity": 1},
        "reserve": {"total": 0},
        "speed": {"gpu_efficiency": 1, "host_efficiency": 1, "layer_us": 0, "sync_us": 0},
    }
    return tuple(study_of({**study, **changes}, catalogue).cells)


def ask(catalogue: Catalogue, **changes: Any) -> tuple[Answer, ...]:
    """Returns the answers of such a study."""
    return sweep(cells_of(catalogue, **changes), catalogue, processes=1)
