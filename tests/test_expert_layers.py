"""What a header says of a layer, for each of its experts."""

from __future__ import annotations

from planner.base.units import GIB
from planner.engines.account import EngineState
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import stated_budget
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.expert_layers import per_entry, with_experts
from planner.engines.powerinfer.geometry import geometry_from_dimensions

_MODEL = geometry_from_dimensions(Dimensions("llama", 2, 4096, 14336, 32, 32000))
_LABELS = ("0.0", "0.1", "0.2", "1.0", "1.1", "1.2")


def test_experts_have_their_layers_figures() -> None:
    labels = ("0.0", "0.1", "1.0", "1.1")
    assert per_entry((10, 20), labels) == (10, 10, 20, 20)
    assert per_entry((10, 20, 30, 40), labels) == (10, 20, 30, 40)
    assert per_entry((10, 20), ("0", "1")) == (10, 20)
    assert per_entry((10, 20), ()) == (10, 20)


def test_a_model_without_experts_stays_as_it_is() -> None:
    assert with_experts(_MODEL, ("0", "1"), (14336, 14336)) is _MODEL
    # Statistics of other layers are told elsewhere.
    assert with_experts(_MODEL, ("0.0", "1.0", "2.0"), (5, 5, 5)) is _MODEL


def test_the_experts_weigh_what_each_of_them_weighs() -> None:
    n_ff = (14336, 14336, 100, 14336, 14336, 200)
    whole = with_experts(_MODEL, _LABELS, n_ff)
    assert whole.n_ff == n_ff
    assert whole.ffn_bytes == 3 * 4096 * 2 * sum(n_ff)
    assert (whole.n_layer, whole.dense_bytes, whole.fingerprint) == (2, _MODEL.dense_bytes, _MODEL.fingerprint)


def test_room_for_one_expert_of_each_layer_is_not_room_for_all() -> None:
    budget = stated_budget(_MODEL.dense_bytes + _MODEL.ffn_bytes + GIB)
    options = ReserveOptions(total_bytes=0)
    assert account_for(_MODEL, budget, reserve_options=options).state is EngineState.ALL_ON_GPU
    whole = with_experts(_MODEL, _LABELS, (14336,) * 6)
    account = account_for(whole, budget, reserve_options=options)
    assert (account.state, account.units_total_bytes) == (EngineState.SPLIT, 3 * _MODEL.ffn_bytes)
