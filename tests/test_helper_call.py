"""The helper is asked for what is left, yet must keep what a plan made beforehand keeps."""

from __future__ import annotations

import pytest

from planner.base.units import GIB, MIB
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import automatic_budget, stated_budget
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import Geometry, geometry_from_dimensions
from planner.engines.powerinfer.helper_call import left_for_neurons
from planner.engines.powerinfer.uncharged import Reserve

_7B = geometry_from_dimensions(Dimensions("llama", 32, 4096, 11008, 32, 32000))


def waste_bytes(geometry: Geometry) -> int:
    return Reserve(geometry, context=512, batch=512, kv_half_bytes=0, kv_halves=0).dense_waste_bytes


@pytest.mark.parametrize("free_gib", [12, 16, 20])
@pytest.mark.parametrize("context", [512, 1024])
def test_with_the_automatic_budget_it_keeps_what_a_plan_keeps(free_gib: int, context: int) -> None:
    budget = automatic_budget(free_gib * GIB)
    plan = account_for(_7B, budget, context=512)
    cache_bytes = 2 * _7B.n_layer * context * _7B.n_embd_gqa * 2
    offer_bytes = budget.budget_bytes - _7B.dense_bytes - cache_bytes
    free_bytes = free_gib * GIB - budget.context_bytes - _7B.dense_bytes - waste_bytes(_7B)
    left = left_for_neurons(_7B, offer_bytes, free_bytes)
    assert left.ffn_bytes + left.kept_bytes == offer_bytes
    if context == 512:
        assert left.ffn_bytes == plan.units_bytes
    assert left.credit_bytes <= 256 * MIB


def test_nothing_known_of_the_gpu_keeps_what_a_plan_with_a_stated_budget_keeps() -> None:
    plan = account_for(_7B, stated_budget(12 * GIB), context=512)
    left = left_for_neurons(_7B, plan.units_bytes + plan.reserve_bytes, None)
    assert (left.ffn_bytes, left.kept_bytes) == (plan.units_bytes, plan.reserve_bytes)
    assert left.credit_bytes == 0


def test_memory_far_beyond_the_budget_pays_for_everything() -> None:
    assert left_for_neurons(_7B, 3 * GIB, 40 * GIB).kept_bytes == 0
