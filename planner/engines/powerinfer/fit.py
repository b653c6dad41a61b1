"""What fits, asked backwards: the least VRAM for an aim, and the largest context for a budget.

Every answer is an inversion of `planner.engines.powerinfer.account` or of the placement program, checked with the thing
it inverts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from planner.activations.hotness import Floats, Hotness, Ints
from planner.base.errors import InputError
from planner.base.record import Record, set_fields
from planner.base.request_values import as_bytes, as_count
from planner.engines.account import Budget, EngineState
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.account import PowerInferAccount, account_for, kv_half_bytes
from planner.engines.powerinfer.budget import DEFAULT_CONTEXT_BYTES, ENGINE_MARGIN_BYTES
from planner.engines.powerinfer.defaults import DEFAULT_BATCH, DEFAULT_KV_TYPE
from planner.engines.powerinfer.geometry import Geometry
from planner.engines.powerinfer.uncharged import Reserve
from planner.placement.problem import Problem, SolverOptions
from planner.placement.solve import solve

SHARES = (0.50, 0.80, 0.90, 0.95, 0.99)
# No context is longer; keeps the search short for models without attention heads worth the name.
_MAX_CONTEXT = 1 << 24
# More, of everything, than adding up a hundred million floats can be off.
_ROUNDING = 1e-8


class Demand(Record):
    """The VRAM that one aim takes at least.

    Attributes:
        ffn_bytes: bytes of neurons.
        budget_bytes: the engine's `--vram-budget`.
        free_bytes: what NVML must call free for the engine's automatic budget to do.
    """

    ffn_bytes: int
    budget_bytes: int
    free_bytes: int


class Settings(Record):
    """What an account depends on besides model and budget; see `planner.engines.powerinfer.account.account_for`."""

    context: int
    kv_type: str = DEFAULT_KV_TYPE
    batch: int = DEFAULT_BATCH
    reserve_options: ReserveOptions | None = None
    context_bytes: int = DEFAULT_CONTEXT_BYTES

    def __post_init__(self) -> None:
        set_fields(
            self,
            context=as_count(self.context, "context"),
            batch=as_count(self.batch, "batch"),
            context_bytes=as_bytes(self.context_bytes, "context_bytes"),
        )

    def account(self, geometry: Geometry, budget: Budget, *, context: int | None = None) -> PowerInferAccount:
        """Returns the account of `budget` under these settings, at another context if one is given."""
        return account_for(
            geometry,
            budget,
            context=self.context if context is None else context,
            kv_type=self.kv_type,
            batch=self.batch,
            reserve_options=self.reserve_options,
        )


def dense_demand(geometry: Geometry, settings: Settings) -> Demand:
    """Returns what the whole dense part takes, with the KV cache in host memory: below it no neuron is on the GPU."""
    return _charged_demand(geometry.dense_bytes, _reserve(geometry, settings, kv_halves=0), settings)


def cache_demand(geometry: Geometry, settings: Settings) -> Demand:
    """Returns what the dense part and both halves of the KV cache take."""
    halves_bytes = 2 * kv_half_bytes(geometry, settings.context, settings.kv_type)
    reserve = _reserve(geometry, settings, kv_halves=2)
    return _charged_demand(geometry.dense_bytes + halves_bytes, reserve, settings)


def ffn_demand(geometry: Geometry, settings: Settings, ffn_bytes: int) -> Demand:
    """Returns the least VRAM that gives neurons `ffn_bytes`, with the whole KV cache on the GPU as well.

    Less can do when the KV cache stays in host memory, but that is no aim of anybody: a budget so chosen loses its
    neurons to the cache as soon as a little more is free.
    """
    charged_bytes = geometry.dense_bytes + 2 * kv_half_bytes(geometry, settings.context, settings.kv_type)
    reserve = _reserve(geometry, settings, kv_halves=2)

    def needed_bytes(slack_bytes: int) -> int:
        # Everything at once may take less than nearly everything: no bucket, no spare row, a smaller graph.
        return charged_bytes + min(
            wanted + max(0, reserve.total_bytes(wanted) - slack_bytes)
            for wanted in (ffn_bytes, max(ffn_bytes, geometry.ffn_bytes))
        )

    automatic_bytes = needed_bytes(ENGINE_MARGIN_BYTES) + ENGINE_MARGIN_BYTES + settings.context_bytes
    return Demand(ffn_bytes, needed_bytes(0), automatic_bytes)


def least_ffn_bytes(
    hotness: Hotness, neuron_bytes: Sequence[int], shares: Sequence[float], *, granularity: int = 1
) -> tuple[int, ...]:
    """Returns for each share of all activations the fewest bytes of neurons whose best placement covers it.

    By price: steps of `granularity` neurons in the order of activations a byte are a fractional optimum at every
    point, so the answer is at least the point where they reach the share and at most one step more. In between it is
    bisected with the placement program itself.

    Args:
        hotness: the sorted statistics.
        neuron_bytes: bytes of one neuron of each layer.
        shares: 0 to 1 each.
        granularity: neurons come in multiples of this or are all of the layer.

    Raises:
        InputError: a share outside 0 to 1.
    """
    for share in shares:
        if not 0 <= share <= 1:
            raise InputError(f"share of activations is {share}; expected 0 to 1")
    order = _price_order(hotness, neuron_bytes, granularity)
    return tuple(
        _least_bytes(hotness, tuple(neuron_bytes), share * hotness.total, granularity, order) for share in shares
    )


def _least_bytes(hotness: Hotness, sizes: tuple[int, ...], target: float, granularity: int, order: _PriceOrder) -> int:
    if target <= 0:
        return 0
    low_bytes, high_bytes = order.bracket(target)

    def reaches(ffn_bytes: int) -> bool:
        problem = Problem(hotness=hotness, neuron_bytes=sizes, ffn_bytes=ffn_bytes, granularity=granularity)
        return solve(problem, SolverOptions(confirm=False)).objective >= target

    unit_bytes = math.gcd(*(size * step for size, step in zip(sizes, _steps(hotness, granularity), strict=True)))
    low, high = low_bytes // unit_bytes, -(-high_bytes // unit_bytes)
    total = sum(size * n_ff for size, n_ff in zip(sizes, hotness.n_ff, strict=True)) // unit_bytes
    while high < total and not reaches(high * unit_bytes):
        low, high = high, min(total, 2 * high)
    while high - low > 0:
        middle = (low + high) // 2
        if reaches(middle * unit_bytes):
            high = middle
        else:
            low = middle + 1
    return high * unit_bytes


def largest_context(geometry: Geometry, settings: Settings, budget: Budget) -> int:
    """Returns the most tokens of context whose KV cache is wholly on the GPU, with room for what is not charged.

    The neurons may then all be on the host. 0 when not even one token's cache fits.
    """

    def fits(context: int) -> bool:
        account = settings.account(geometry, budget, context=context)
        if account.state is EngineState.DENSE_INCOMPLETE or not (account.v_on_gpu and account.k_on_gpu):
            return False
        slack_bytes = budget.slack_bytes or 0
        return account.reserve_bytes + max(0, slack_bytes) >= account.uncharged_bytes

    low, high = 0, min(_MAX_CONTEXT, ((1 << 32) - 1) // geometry.n_layer)
    while high > low:
        middle = (low + high + 1) // 2
        if fits(middle):
            low = middle
        else:
            high = middle - 1
    return low


def _reserve(geometry: Geometry, settings: Settings, *, kv_halves: int) -> Reserve:
    half_bytes = kv_half_bytes(geometry, settings.context, settings.kv_type)
    real_half_bytes = kv_half_bytes(geometry, settings.context or geometry.context_train or 0, settings.kv_type)
    return Reserve(
        geometry,
        context=settings.context,
        batch=settings.batch,
        kv_half_bytes=real_half_bytes,
        kv_halves=kv_halves,
        uncharged_kv_bytes=kv_halves * (real_half_bytes - half_bytes),
        options=settings.reserve_options,
    )


def _charged_demand(charged_bytes: int, reserve: Reserve, settings: Settings) -> Demand:
    """What the engine charges is the budget; what is not charged must be free beside it all the same."""
    beside_bytes = max(ENGINE_MARGIN_BYTES, reserve.total_bytes(0))
    return Demand(0, charged_bytes, charged_bytes + beside_bytes + settings.context_bytes)


def _steps(hotness: Hotness, granularity: int) -> list[int]:
    """Returns what every count of hot neurons of a layer is a multiple of."""
    return [math.gcd(granularity, n_ff) for n_ff in hotness.n_ff]


class _PriceOrder(Record):
    """The steps of all layers in the order of activations a byte.

    Attributes:
        covered: shape (steps,): activations of all steps up to this one.
        spent_bytes: shape (steps,): their bytes.
    """

    covered: Floats
    spent_bytes: Ints

    def bracket(self, target: float) -> tuple[int, int]:
        """Returns bytes that are too few or just enough, and bytes that are enough but for what sums have rounded."""
        surely_not, reached = np.searchsorted(self.covered, [target - _ROUNDING * self.covered[-1], target]).tolist()
        high_bytes = int(self.spent_bytes[min(reached, self.spent_bytes.size - 1)])
        # A step of the price order may do that the fractional optimum takes only in part.
        low_bytes = int(self.spent_bytes[surely_not - 2]) if surely_not >= 2 else 0
        return low_bytes, high_bytes


def _price_order(hotness: Hotness, neuron_bytes: Sequence[int], granularity: int) -> _PriceOrder:
    covered, spent_bytes = [np.empty(0)], [np.empty(0, np.int64)]
    for layer, (n_ff, size_bytes) in enumerate(zip(hotness.n_ff, neuron_bytes, strict=True)):
        if n_ff:
            starts = np.arange(0, n_ff, granularity)
            covered.append(np.add.reduceat(hotness.layer(layer), starts, dtype=np.float64))
            spent_bytes.append(np.minimum(granularity, n_ff - starts) * size_bytes)
    each_covered, each_bytes = np.concatenate(covered), np.concatenate(spent_bytes)
    order = np.argsort(-each_covered / each_bytes, kind="stable")
    return _PriceOrder(np.cumsum(each_covered[order]), np.cumsum(each_bytes[order]))
