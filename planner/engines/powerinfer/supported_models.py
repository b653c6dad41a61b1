"""Which models the engine can split, and what to say and advise where it cannot.

The file alone shows whether it can: the magic `PWRI`, and the predictors without which nothing can be skipped
(`docs/engine.md`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.engines.powerinfer.kernel_limits import FFN_TYPES, unknown_ffn_types

if TYPE_CHECKING:
    from planner.engines.powerinfer.geometry import Geometry

PUBLISHED = "ReLU-LLaMA, ProSparse, Bamboo, Falcon or OPT"
"""The models that are published with predictors in the engine's format (its README, section "Model Weights")."""

ENGINE_SPLITS_NOT = "is none that the engine splits"
MIXTURE = "this is a mixture of experts"
"""How a line begins that refuses a model, for whoever has to tell it from a damaged file."""


def can_split(geometry: Geometry) -> bool:
    """Whether the engine splits this file: it is one of PowerInfer's, and has the predictors."""
    return geometry.is_powerinfer and geometry.has_predictors


def why_not_split(geometry: Geometry) -> str | None:
    """Returns a line that says why the engine splits no neurons of this file and what to do; None when it does."""
    if can_split(geometry):
        return None
    what = "an ordinary GGUF file" if not geometry.is_powerinfer else "a file without predictors"
    return (
        f"{geometry.source}: {what}, of which the engine puts no neuron on the GPU; the figures are those of the model "
        "after conversion, less its predictors, whose size is not known. Convert the ReLU version of the model with "
        f"PowerInfer's convert.py and its predictors ({PUBLISHED} come with them); models with SiLU or GELU are not "
        "sparse: run those with llama.cpp"
    )


def condition(geometry: Geometry) -> str:
    """Returns under which condition the engine will do as the account says, such as `after conversion`; often none."""
    if not can_split(geometry):
        return "after conversion"
    if geometry.objections:
        return "once the engine can load the file"
    if unknown_ffn_types(geometry):
        return f"with FFN weights of {' or '.join(FFN_TYPES)}"
    return ""


def refused_architecture(name: str, n_expert: int, source: str) -> str:
    """Returns what is said of a model file whose architecture the engine's sparse loader does not have.

    Args:
        name: the value of `general.architecture`.
        n_expert: experts of each layer, 0 for a model without.
        source: the file.
    """
    what = f"architecture {name[:80]!r}" + (f", a mixture of {n_expert} experts," if n_expert else "")
    known = ", ".join(sorted(ARCHITECTURES))
    why = f"{ENGINE_SPLITS_NOT} ({known}, with ReLU: models with SiLU or GELU are not sparse)"
    return f"{source}: {what} {why}; {advice(n_expert > 0)}"


def advice(mixture: bool) -> str:
    """Returns what to use instead of a model that the engine cannot split.

    Args:
        mixture: whether it is a mixture of experts, of which llama.cpp can leave whole experts in host memory
            (`--n-cpu-moe`, since its pull request 15077).
    """
    instead = (
        "--n-cpu-moe N leaves the experts of N layers"
        if mixture
        else "-ngl N puts only N layers on the GPU and leaves the rest"
    )
    return (
        f"use {PUBLISHED} as published for PowerInfer, or run this one with llama.cpp, whose {instead} in host memory"
    )
