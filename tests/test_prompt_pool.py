from __future__ import annotations

import itertools

import pytest

from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import geometry_from_dimensions
from planner.engines.powerinfer.prompt_pool import prompt_pool


@pytest.mark.parametrize(
    ("dimensions", "batch", "dips_at"),
    [
        # From 376 rows on, what the pool grew to for a row's numbers (2048 bytes and 5 %) holds the output's result.
        (Dimensions("llama", 1, 512, 1024, 4, 4000), 101, [376]),
        (Dimensions("falcon", 1, 512, 1024, 4, 4000), 128, [477]),
        (Dimensions("llama", 1, 256, 1024, 4, 1000, quantisation="Q4_0"), 512, []),
        # Up to 100 tokens no matrix is multiplied as a whole; one token needs no pool.
        (Dimensions("opt", 1, 256, 1024, 4, 1000), 64, []),
        (Dimensions("opt", 1, 256, 1024, 4, 1000), 1, []),
    ],
)
def test_work_buffers_suffice_for_any_number_of_neurons_up_to_the_most(
    dimensions: Dimensions, batch: int, dips_at: list[int]
) -> None:
    geometry = geometry_from_dimensions(dimensions)
    pool = prompt_pool(geometry, batch, 512)
    exact = [pool.bytes_of(rows) for rows in range(max(geometry.n_ff) + 1)]
    assert [rows for rows in range(1, len(exact)) if exact[rows] < exact[rows - 1]] == dips_at
    assert [pool.most_bytes(rows) for rows in range(len(exact))] == list(itertools.accumulate(exact, max))


def test_budgets_of_one_prompt_share_their_pool() -> None:
    geometry = geometry_from_dimensions(Dimensions("llama", 2, 512, 1024, 4, 4000))
    again = geometry_from_dimensions(Dimensions("llama", 2, 512, 1024, 4, 4000))
    assert prompt_pool(geometry, 128, 512) is prompt_pool(again, 128, 512)
    assert prompt_pool(geometry, 128, 512) is not prompt_pool(geometry, 128, 513)
