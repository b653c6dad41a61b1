"""How far two halves of the text agree: ranks with ties, the sets an index would hold, the sentence."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from exporter.profile.split_half import (
    Agreement,
    Counts,
    LayerAgreement,
    compare_halves,
    hottest_overlap,
    rank_correlation,
    text_factor,
)


def counts(*values: int) -> Counts:
    return np.array(values, dtype=np.int64)


def mean_ranks(values: list[int]) -> list[Fraction]:
    """The definition, element by element: how many are smaller, plus the middle of those that are equal."""
    return [
        Fraction(sum(other < value for other in values)) + Fraction(sum(other == value for other in values) - 1, 2)
        for value in values
    ]


def spearman_by_definition(first: list[int], second: list[int]) -> float | None:
    a, b = mean_ranks(first), mean_ranks(second)
    middle = Fraction(len(first) - 1, 2)
    covariance = sum((x - middle) * (y - middle) for x, y in zip(a, b, strict=True))
    spread = sum((x - middle) ** 2 for x in a) * sum((y - middle) ** 2 for y in b)
    return None if spread == 0 else float(covariance) / math.sqrt(spread)


SAME_LENGTH = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 6), min_size=n, max_size=n) for _ in range(2)])
)


@given(SAME_LENGTH)
def test_rank_correlation_is_the_definition_ties_included(pair: tuple[list[int], list[int]]) -> None:
    first, second = pair
    expected = spearman_by_definition(first, second)
    found = rank_correlation(counts(*first), counts(*second))
    if expected is None:
        assert found is None
    else:
        assert found == pytest.approx(expected, abs=1e-12)


def test_rank_correlation_worked_by_hand() -> None:
    # Ranks less their mean: (-1.5, 0, 0, 1.5) and (-1.5, 0.5, -0.5, 1.5), so 4.5 / sqrt(4.5 * 5); the formula of
    # squared differences, which ties make wrong, would say 0.95.
    assert rank_correlation(counts(1, 2, 2, 4), counts(1, 3, 2, 4)) == pytest.approx(4.5 / math.sqrt(22.5), abs=1e-12)


@given(st.lists(st.integers(0, 1 << 40), min_size=2, max_size=40).filter(lambda values: len(set(values)) > 1))
def test_rank_correlation_with_itself_is_exactly_one(values: list[int]) -> None:
    array = counts(*values)
    assert rank_correlation(array, array) == 1.0
    assert rank_correlation(array, array * 3 + 1) == 1.0
    assert rank_correlation(array, array.max() - array) == -1.0


def test_rank_correlation_needs_something_to_rank() -> None:
    assert rank_correlation(counts(0, 0, 0), counts(1, 2, 3)) is None
    assert rank_correlation(counts(5), counts(5)) is None


def test_hottest_overlap_counts_the_sets_an_index_would_hold() -> None:
    first = counts(9, 8, 7, 6, 5, 4, 3, 2, 1, 0)
    second = counts(9, 0, 8, 1, 2, 3, 4, 5, 6, 7)
    assert hottest_overlap(first, second, 0.2) == 0.5
    assert hottest_overlap(first, second, 0.1) == 1.0
    # Ties go to the lowest number: {0, 1} of the first, {1, 2} of the second.
    assert hottest_overlap(counts(1, 1, 1, 1), counts(0, 1, 1, 1), 0.5) == 0.5
    # Also where a sort that is not stable would mix them up: 200 of 1000 neurons that never fired, against the first.
    assert hottest_overlap(np.zeros(1000, dtype=np.int64), -np.arange(1000), 0.2) == 1.0
    # A share of less than one neuron is one neuron.
    assert hottest_overlap(counts(0, 3), counts(4, 3), 0.1) == 0.0


def test_compare_halves_looks_at_every_layer() -> None:
    agreement = compare_halves(
        (counts(1, 2, 3), counts(0, 0, 0)), (counts(3, 2, 1), counts(0, 0, 1)), by_documents=True
    )
    assert [layer.rank for layer in agreement.layers] == [-1.0, None]
    assert agreement.lowest == (0, -1.0)
    assert agreement.hottest(0) == 0.0


@pytest.mark.parametrize(
    ("ranks", "sentence"),
    [
        ((0.99, 0.981), "rank agreement of halves 0.98 (lowest, layer 1): enough"),
        ((0.95,), "rank agreement of halves 0.95 (lowest, layer 0): enough"),
        (
            (0.9499, 0.99),
            "rank agreement of halves 0.94 (lowest, layer 0): use more text, about 2 times as much for 0.95",
        ),
        (
            (None, 0.81),
            "rank agreement of halves 0.81 (lowest, layer 1): use more text, about 5 times as much for 0.95",
        ),
        ((-0.1, 0.9), "rank agreement of halves -0.10 (lowest, layer 0): use more text"),
        ((None, None), "rank agreement of halves cannot be measured, no layer's neurons differ: use more text"),
        ((), "rank agreement of halves cannot be measured, the text is a single window of tokens: use more text"),
    ],
)
def test_sentence_is_judged_by_the_lowest_layer(ranks: tuple[float | None, ...], sentence: str) -> None:
    agreement = Agreement(tuple(LayerAgreement(rank, (1.0, 1.0)) for rank in ranks), by_documents=True)
    assert agreement.sentence() == sentence
    assert agreement.enough == sentence.endswith(": enough")


def test_sentence_says_when_the_halves_share_documents() -> None:
    agreement = Agreement((LayerAgreement(0.99, (1.0, 1.0)),), by_documents=False)
    assert agreement.sentence() == (
        "rank agreement of halves 0.99 (lowest, layer 0): enough for more of the same document; use more documents to "
        "know about others"
    )


def test_text_factor_is_the_spearman_brown_formula() -> None:
    # A test of reliability r made n times as long has n r / (1 + (n - 1) r); solved for n at 0.95.
    for rank in (0.3, 0.6, 0.81, 0.94):
        n = text_factor(rank)
        assert n is not None
        assert n * rank / (1 + (n - 1) * rank) == pytest.approx(0.95)
    assert text_factor(0.97) == 1.0
    assert text_factor(0.0) is None


def test_text_factor_foretells_what_more_text_gives() -> None:
    """Neurons with fixed firing rates, drawn anew: the estimate from a little text comes true on that much more."""
    rng = np.random.default_rng(7)
    rates = rng.beta(0.6, 4.0, size=4000)

    def halves_agree(tokens: int) -> float:
        rank = rank_correlation(rng.binomial(tokens, rates), rng.binomial(tokens, rates))
        assert rank is not None
        return rank

    factor = text_factor(halves_agree(40))
    assert factor is not None
    assert 0.93 < halves_agree(round(40 * factor)) < 0.99
