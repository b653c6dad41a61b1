"""Which engines take a model, in which form: what a refusal says to do instead."""

from __future__ import annotations

from planner.engines.experts.engine import FORMS, ExpertEngine
from planner.engines.registry import engine_named, engines_of_experts
from planner.model_files.moe.model import MoeModel


def expert_engines() -> tuple[ExpertEngine, ...]:
    """Returns the engines that place experts."""
    found = [engine_named(name) for name in engines_of_experts()]
    return tuple(engine for engine in found if isinstance(engine, ExpertEngine))


def engines_for(moe: MoeModel, *, refused_by: str | None = None) -> str:
    """Returns which engines take this model as it is, which in another form, and which never, in one line.

    Args:
        moe: the model.
        refused_by: the engine whose reason was given already.
    """
    here, other, never = [], [], []
    for engine in expert_engines():
        knows = engine.architectures is None or moe.architecture in engine.architectures
        note = ", read in a pull request only" if engine.caution else ""
        if moe.form in engine.forms and knows:
            here.append(f"--engine {engine.name}{note}")
        elif not knows and engine.name != refused_by and moe.form in engine.forms:
            never.append(f"--engine {engine.name}, which does not know the architecture {moe.architecture[:80]!r}")
        elif moe.form not in engine.forms and engine.architectures is None and not engine.caution:
            other.append(f"--engine {engine.name} with {' or '.join(FORMS[form] for form in engine.forms)}")
    takes = f"this model as it is: {', '.join(here) if here else 'no engine here'}"
    parts = [takes, *([f"in another form: {', '.join(other)}"] if other else ())]
    return "; ".join([*parts, *([f"not: {', '.join(never)}"] if never else ())])
