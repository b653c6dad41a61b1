"""Where the engine's budget comes from."""

from __future__ import annotations

from planner.base.units import GIB, MIB
from planner.engines.account import KnownGpu
from planner.engines.powerinfer.budget import DEFAULT_CONTEXT_BYTES, automatic_budget, stated_budget


def test_the_automatic_budget_is_what_is_free_less_context_and_margin() -> None:
    budget = automatic_budget(24 * GIB, KnownGpu(total_bytes=25 * GIB, context_bytes=107 * MIB, uuid="GPU-1", name="A"))
    assert budget.budget_bytes == 24 * GIB - (107 + 256) * MIB
    assert (budget.source, budget.gpu_uuid, budget.gpu_name, budget.wraps) == ("nvml", "GPU-1", "A", False)
    assert budget.slack_bytes == 256 * MIB


def test_the_context_is_taken_large_where_it_is_not_known() -> None:
    assert automatic_budget(24 * GIB).budget_bytes == 24 * GIB - 612 * MIB - 256 * MIB
    assert DEFAULT_CONTEXT_BYTES == 612 * MIB


def test_the_engines_subtraction_wraps_under_256_mib() -> None:
    exact = automatic_budget(363 * MIB, KnownGpu(context_bytes=107 * MIB))
    assert (exact.budget_bytes, exact.wraps) == (0, False)
    short = automatic_budget(363 * MIB - 1, KnownGpu(context_bytes=107 * MIB))
    assert (short.budget_bytes, short.wraps) == (0, True)


def test_a_stated_budget_has_no_margin() -> None:
    assert stated_budget(8 * GIB).budget_bytes == 8 * GIB
    assert stated_budget(8 * GIB).slack_bytes is None
    assert stated_budget(8 * GIB, KnownGpu(context_bytes=GIB), free_bytes=10 * GIB).slack_bytes == GIB
    assert stated_budget(8 * GIB, KnownGpu(context_bytes=GIB), free_bytes=8 * GIB).slack_bytes == -GIB
