"""What counts are worth: figures counted anew, and a warning for each way in which counts look wrong."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from planner.activations.expert_counts.workload import Workload, read_workload
from planner.activations.expert_counts.worth import SHARES, tried, worth_of
from planner.base.errors import InputError
from planner.base.record import as_builtins, replace
from tests.expert_tables import real, workload

SAMPLES = Path(__file__).parent / "data" / "recorded"
WHY = "either this model has little to win, or the recorder did not read the router's choices"


def skewed(layers: int = 4, experts: int = 16, choices: int = 400_000, seed: int = 1) -> list[list[int]]:
    chance = np.random.default_rng(seed)
    return [chance.multinomial(choices, chance.dirichlet(np.full(experts, 0.4))).tolist() for _ in range(layers)]


def test_what_the_hottest_cover_beside_random_and_the_default() -> None:
    rows = skewed(3, 10)
    found = worth_of(workload("w", rows))
    everything = sorted((count for row in rows for count in row), reverse=True)
    total = sum(everything)
    assert tuple(each.share for each in found.covered) == SHARES
    for each in found.covered:
        number = math.floor(30 * each.share + 1e-9)
        assert each.experts == number
        assert each.hottest == pytest.approx(sum(everything[:number]) / total)
        assert each.random == pytest.approx(number / 30)
        # KTransformers' default: the first experts of each layer, what does not divide goes to the first layers.
        firsts = [number // 3 + (layer < number % 3) for layer in range(3)]
        assert each.uniform == pytest.approx(sum(sum(row[:k]) for row, k in zip(rows, firsts, strict=True)) / total)
    assert (found.layers, found.experts, found.choices) == ((0, 1, 2), 30, total)
    assert found.warnings == ()


def test_the_matrix_of_real_texts() -> None:
    """OLMoE at 25 %: arxiv on itself 59.3 %, on books 16.9 %; books on code 9.1 %."""
    table = real("olmoe-1b-7b")
    found = tried(list(table.values()), 0.25)
    assert found.names == ("arxiv", "book", "c4", "github", "tulu", "wikipedia")
    assert found.random == 0.25
    assert [round(found.covered[a][b], 3) for a, b in ((0, 0), (0, 1), (1, 3))] == [0.593, 0.169, 0.091]
    for column, own in enumerate(found.names):
        assert max(row[column] for row in found.covered) == found.covered[found.names.index(own)][column]


def test_workloads_of_other_models_are_not_tried() -> None:
    with pytest.raises(InputError) as caught:
        tried([workload("a", [[1, 2]]), workload("b", [[1, 2, 3]])])
    assert str(caught.value) == (
        "workloads 'a' and 'b' have other layers or experts; a choice from one means nothing on the other"
    )


def test_the_later_part_is_tried_on_its_own() -> None:
    found = worth_of(read_workload(str(SAMPLES / "sglang-buffer16.pt"))).later
    assert found is not None
    assert (found.in_order, found.where, found.share) == (True, "passes 1 to 1 and 2 to 10", 0.2)
    import torch

    passes = torch.load(SAMPLES / "sglang-buffer16.pt", weights_only=True)["logical_count"][:, 1:].numpy()
    first, second = passes[0].ravel(), passes[1:].sum(0).ravel()
    chosen = np.argsort(-first, kind="stable")[:9]
    assert found.covered == pytest.approx(second[chosen].sum() / second.sum())
    assert found.own == pytest.approx(np.sort(second)[::-1][:9].sum() / second.sum())
    assert found.random == pytest.approx(9 / 48)
    assert worth_of(read_workload(str(SAMPLES / "imatrix.gguf"))).later is None


def test_stability_grows_with_what_was_recorded_and_is_the_same_twice() -> None:
    rows = np.array(skewed(6, 64, 1_000_000))
    lost = []
    for divisor in (20_000, 1_000, 1):
        found = worth_of(workload("w", (rows // divisor).tolist()))
        assert found.stability is not None
        assert found == worth_of(workload("w", (rows // divisor).tolist()))
        lost.append(found.stability.lost)
        assert 0 <= found.stability.same <= 1
    assert lost == sorted(lost, reverse=True)
    assert lost[0] > 0.01
    assert 0 <= lost[2] < 1e-4
    few = worth_of(workload("w", (rows // 20_000).tolist()))
    assert few.warnings[-1] == (
        f"too little was recorded: drawn again from the same counts, the choice loses {lost[0]:.1%} of all choices by "
        "chance alone"
    )


def test_fractions_are_not_drawn_again() -> None:
    found = worth_of(read_workload(str(SAMPLES / "exllamav3-profile.json")))
    assert (found.stability, found.chi_square) == (None, None)


def test_plain_data_comes_out() -> None:
    found = as_builtins(worth_of(read_workload(str(SAMPLES / "trace.csv"))))
    assert found["later"]["where"] == "the earlier and the later half of each layer's lines"


def warned(given: Workload, **options: int) -> list[str]:
    return list(worth_of(given, **options).warnings)


def test_counts_as_even_as_chance() -> None:
    chance = np.random.default_rng(3)
    rows = [chance.multinomial(100_000, np.full(32, 1 / 32)).tolist() for _ in range(8)]
    found = worth_of(workload("w", rows))
    assert found.chi_square == pytest.approx(1.0, abs=0.2)
    assert found.warnings[0] == (
        f"the counts are as even as chance makes them (chi-square {found.chi_square:.2f} for each degree of freedom): "
        f"{WHY}"
    )


def test_counts_that_are_nearly_even() -> None:
    """Mixtral's are real, and nothing can be won with them; a recorder that misreads the choices gives the same."""
    found = worth_of(real("mixtral-8x7b")["arxiv"])
    covered = found.covered[1]
    assert found.warnings == (
        f"the counts are nearly even (the hottest 4 of 24 experts cover {covered.hottest:.1%}, random ones 16.7%): "
        f"{WHY}",
    )
    assert [worth_of(each).warnings for each in real("olmoe-1b-7b").values()] == [()] * 6


def test_nothing_recorded() -> None:
    assert warned(workload("w", [[0, 0], [0, 0]])) == [
        "all counts are zero: nothing was recorded; record while the model answers"
    ]


def test_layers_that_are_missing() -> None:
    rows = skewed(3)
    given = replace(workload("w", rows), layers=(1, 2, 5))
    assert warned(given) == ["layers 3, 4 have no counts between others that have: were they not recorded?"]
    assert warned(workload("w", rows), n_layer=4) == ["3 layers have counts, and the model has 4 with experts"]
    assert warned(workload("w", rows), n_layer=3) == []


def test_sums_that_differ() -> None:
    rows = skewed(2)
    rows[1][0] += 7
    assert warned(workload("w", rows)) == [
        "layer 0 has 400000 choices and layer 1 has 400007: every token is routed in every layer, so that they should "
        "be equal"
    ]


def test_sums_that_do_not_fit_the_tokens() -> None:
    given = workload("w", skewed(2))
    assert warned(replace(given, n_expert_used=8, tokens=50_000)) == []
    assert warned(replace(given, n_expert_used=7)) == [
        "each layer has 400000 choices, which is no multiple of the 7 for each token"
    ]
    assert warned(replace(given, n_expert_used=8, tokens=49_999)) == [
        "each layer has 400000 choices; 49999 tokens with 8 each make 399992"
    ]


def test_few_tokens() -> None:
    found = worth_of(read_workload(str(SAMPLES / "imatrix-fused.gguf")))
    assert found.tokens == 512
    assert found.warnings == ("512 tokens are few: the choice still changes much with more, up to some 1024",)


def test_neurons_get_the_same_verdict_without_the_engines_default() -> None:
    given = replace(workload("w", [[5, 0, 1, 9], [1, 1, 8, 0]]), unit="neuron")
    found = worth_of(given)
    assert {each.uniform for each in found.covered} == {None}
    assert not any("every token is routed" in warning for warning in found.warnings)
