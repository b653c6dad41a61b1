"""The verdict on a study of experts: its sentences, word for word, and which cell it is about."""

from __future__ import annotations

from typing import Any

import pytest

from planner.engines.account import Account, Budget, EngineState
from planner.studies.answer import TargetResult
from planner.studies.experts_answer import ExpertAnswer, ExpertState
from planner.studies.experts_verdict import expert_verdict_of

GIB = 1 << 30
RECORD = (
    "What that covers of the choices is unknown: record counts of your own text with `hotsplit profile`, or with the "
    "engine, and give them as `statistics`."
)


def account(budget_bytes: int, missing_bytes: int = 0) -> Account:
    return Account(
        state=EngineState.SPLIT, state_words="", budget=Budget("option", budget_bytes, 0, ""),
        budget_bytes=budget_bytes, dense_bytes=0, kv_cache_bytes=0, reserve_bytes=0, units_bytes=budget_bytes,
        missing_bytes=missing_bytes, dense_total_bytes=0, units_total_bytes=0, kv_total_bytes=0, uncharged_bytes=0,
        reserve=(), context=0, kv_type="f16", lines=(),
    )  # fmt: skip


def answer(gpu: str, gib: int, experts: int, **more: Any) -> ExpertAnswer:
    """Returns the answer for a card of so many GiB that holds so many of 100 experts."""
    state = ExpertState.ALL_ON_GPU if experts == 100 else ExpertState.SPLIT if experts else ExpertState.NO_EXPERT
    values: dict[str, Any] = {
        "name": f"base / {gpu}", "scenario": "base", "engine": "slots", "model": "moe", "quantisation": "Q4_K",
        "gpu": gpu, "gpu_name": gpu, "tp": 1, "context": 512, "price": None, "state": state, "placed": (experts,),
        "n_expert": (100,), "account": account(gib * GIB),
    }  # fmt: skip
    return ExpertAnswer(**{**values, **more})


def aimed(found: float | None, wanted: float = 0.5) -> dict[str, Any]:
    """Returns a target for the covered share, and what was found of it."""
    met = found is not None and found >= wanted
    covered = {} if found is None else {"covered": {"code": found}, "mean": found, "random": 0.25}
    return {"targets": (TargetResult("covered", wanted, found, met),), **covered}


def test_without_targets_the_smallest_gpu_that_holds_every_expert_comes_first() -> None:
    found = expert_verdict_of([answer("a", 8, 30), answer("b", 48, 100), answer("c", 24, 100)])
    assert found.sentences == ("Smallest GPU that holds every expert: c.", "No choice of experts is needed there.")
    assert (found.state, found.cell) == ("all_on_gpu", "base / c")


def test_where_none_holds_every_expert_the_most_is_named_and_what_to_record() -> None:
    found = expert_verdict_of([answer("a", 8, 30), answer("b", 12, 60)])
    assert found.sentences == (
        "No GPU here holds every expert. Most: b.",
        "It holds 60 of 100 experts, covered unknown.",
        RECORD,
    )
    assert (found.state, found.cell) == ("split", "base / b")


def test_one_cell_says_what_its_experts_cover() -> None:
    known = {"covered": {"code": 0.75, "prose": 0.5}, "mean": 0.625, "random": 0.3}
    assert expert_verdict_of([answer("a", 8, 30, **known)]).sentences == (
        "a.",
        "It holds 30 of 100 experts, which cover 50.0% of the choices of prose; as many at random would cover 30.0%.",
    )
    assert expert_verdict_of([answer("a", 8, 0)]).sentences[1] == (
        "All that is no expert fits; there is no room for an expert."
    )


def test_without_prices_the_smallest_that_meets_is_named_and_prices_are_asked_for() -> None:
    cells = [answer("a", 8, 20, **aimed(0.4)), answer("c", 24, 80, **aimed(0.9)), answer("b", 16, 40, **aimed(0.6))]
    found = expert_verdict_of(cells)
    assert found.sentences == (
        "Smallest GPU that meets the targets: b (give every GPU a `price` to compare by price).",
        "It holds 40 of 100 experts, which cover 60.0% of the choices of code; as many at random would cover 25.0%.",
    )
    assert (found.state, found.cell) == ("meets", "base / b")


def test_with_prices_the_cheapest_is_named_and_counts_for_every_card() -> None:
    two = answer("a", 12, 80, tp=2, price=400.0, **aimed(0.9))
    one = answer("b", 24, 80, price=700.0, **aimed(0.8))
    assert expert_verdict_of([two, one]).sentences[0] == "Cheapest that meets the targets: b at 700."
    assert expert_verdict_of([two]).sentences[0] == "Cheapest that meets the targets: 2 x a at 400 each."


def test_where_nothing_meets_the_nearest_is_named_with_what_it_misses() -> None:
    found = expert_verdict_of([answer("a", 8, 20, **aimed(0.3)), answer("b", 16, 40, **aimed(0.4))])
    assert found.sentences == (
        "Nothing here meets the targets.",
        "Nearest: b, misses covered (40 of 100 experts, which cover 40.0% of the choices of code; as many at random "
        "would cover 25.0%).",
    )
    assert expert_verdict_of([answer("a", 8, 20, **aimed(None))]).sentences == (
        "Nothing here meets the targets.",
        "Nearest: a, misses covered unknown (20 of 100 experts, covered unknown).",
        RECORD,
    )


def test_several_models_are_each_given_their_best() -> None:
    cells = [
        answer("a", 8, 100),
        answer("b", 16, 100),
        answer("b", 16, 30, model="other", engine="ktransformers"),
    ]
    assert expert_verdict_of(cells).sentences == (
        "Smallest GPU that holds every expert: a, moe Q4_K, slots.",
        "moe: a, Q4_K, slots; other: no GPU here holds every expert.",
    )


def test_what_does_not_fit_says_what_is_missing() -> None:
    small = answer("a", 8, 0, state=ExpertState.DOES_NOT_FIT, account=account(8 * GIB, missing_bytes=3 * GIB))
    assert expert_verdict_of([small]).sentences == (
        "Nothing here fits. Nearest: a: 3.0 GiB of VRAM are missing for all that is no expert.",
    )
    unsuitable = answer("a", 8, 0, state=ExpertState.UNSUITABLE, account=None, why="no")
    assert expert_verdict_of([unsuitable]).sentences == ("No engine of this study takes its models.",)
    assert expert_verdict_of([]).sentences == ("The study has no cells.",)
    # What an engine does not take is no answer where another engine takes it.
    assert expert_verdict_of([unsuitable, answer("b", 16, 100)]).cell == "base / b"


@pytest.mark.parametrize("targets", [{}, aimed(0.9)])
def test_json_has_the_same_sentences(targets: dict[str, Any]) -> None:
    found = expert_verdict_of([answer("a", 8, 20, **targets)])
    assert found.to_dict() == {"sentences": list(found.sentences), "state": found.state, "cell": found.cell}
