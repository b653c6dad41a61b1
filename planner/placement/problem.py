"""The placement problem and its answer as plain data: what is asked of the solver, and what it replies.

The program is that of the paper (PowerInfer, SOSP'24, section 6.3), see `docs/formulation.md`.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from fractions import Fraction

from planner.activations.hotness import Hotness
from planner.base.errors import InputError
from planner.base.record import Record
from planner.placement.objectives import RELATIVE_GAP

SOLVERS = ("highs", "cbc")


def split_threshold(
    neuron_bytes: int, n_ff: int, *, gpu_bytes_per_s: float, host_bytes_per_s: float, sync_s: float
) -> int:
    """Returns C_l, the number of hot neurons from which splitting a layer pays for the synchronisation it causes.

    Paper, section 6.3, communication constraint: `C_l * T_gpu + T_sync <= C_l * T_cpu` with `T = M / Bandwidth`, so
    `C_l = ceil(T_sync / (M / Bandwidth_cpu - M / Bandwidth_gpu))`. Computed without rounding.

    Args:
        neuron_bytes: M, the bytes of one neuron of the layer.
        n_ff: the neurons of the layer.
        gpu_bytes_per_s: memory bandwidth of the GPU.
        host_bytes_per_s: memory bandwidth of the host.
        sync_s: T_sync, seconds lost for each layer that works on both sides.

    Returns:
        C_l; `n_ff + 1`, more than the layer has, where splitting never pays (a GPU that is no faster).

    Raises:
        InputError: a bandwidth is not positive and finite, or `sync_s` is negative or not finite.
    """
    for name, value in (("GPU", gpu_bytes_per_s), ("host", host_bytes_per_s)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} bandwidth: expected a positive number of bytes per second, found {value}")
    if not (math.isfinite(sync_s) and sync_s >= 0):
        raise InputError(f"synchronisation time: expected seconds, 0 or more, found {sync_s}")
    if sync_s == 0:
        return 0
    saved_s = Fraction(neuron_bytes) / Fraction(host_bytes_per_s) - Fraction(neuron_bytes) / Fraction(gpu_bytes_per_s)
    if saved_s <= 0:
        return n_ff + 1
    return min(n_ff + 1, math.ceil(Fraction(sync_s) / saved_s))


class Problem(Record, eq=False):
    """What is to be placed and where.

    Attributes:
        hotness: the sorted statistics; its layers are the layers of the problem.
        neuron_bytes: b_l, bytes of one neuron in each layer.
        ffn_bytes: V, the VRAM there is for hot neurons.
        host_bytes: H, the host memory there is for cold neurons; None when it is not limited.
        thresholds: C_l, the fewest hot neurons a split layer may have (0 and 1 allow everything); None for no
            thresholds. A layer whose C_l is more than its n_ff stays off.
        granularity: hot neurons come in multiples of this, or are all n_ff of the layer.
        unit: what the impacts in `hotness` count, for people.
        placed: what is placed, for people: the word for one, and for several.

    Raises:
        InputError: the lengths disagree or a number is out of range.
    """

    hotness: Hotness
    neuron_bytes: tuple[int, ...]
    ffn_bytes: int
    host_bytes: int | None = None
    thresholds: tuple[int, ...] | None = None
    granularity: int = 1
    unit: str = "activations"
    placed: tuple[str, str] = ("neuron", "neurons")

    def __post_init__(self) -> None:
        layers = self.hotness.n_layer
        if len(self.neuron_bytes) != layers:
            raise InputError(
                f"neuron bytes: expected one number for each of {layers} layers, found {len(self.neuron_bytes)}"
            )
        for layer, size_bytes in enumerate(self.neuron_bytes):
            if size_bytes < 1:
                raise InputError(f"neuron bytes of layer {layer}: expected 1 or more, found {size_bytes}")
        if self.ffn_bytes < 0:
            raise InputError(f"VRAM for hot neurons: expected 0 bytes or more, found {self.ffn_bytes}")
        if self.host_bytes is not None and self.host_bytes < 0:
            raise InputError(f"host memory for cold neurons: expected 0 bytes or more, found {self.host_bytes}")
        if self.thresholds is not None:
            if len(self.thresholds) != layers:
                raise InputError(f"thresholds: expected one for each of {layers} layers, found {len(self.thresholds)}")
            for layer, threshold in enumerate(self.thresholds):
                if threshold < 0:
                    raise InputError(f"threshold of layer {layer}: expected 0 neurons or more, found {threshold}")
        if self.granularity < 1:
            raise InputError(f"granularity: expected 1 neuron or more, found {self.granularity}")
        if self.total_bytes >= 1 << 62:
            raise InputError(f"all neurons together: expected less than 2^62 bytes, found {self.total_bytes}")

    @property
    def n_ff(self) -> tuple[int, ...]:
        """The neurons of each layer."""
        return self.hotness.n_ff

    @property
    def total_bytes(self) -> int:
        """The bytes of all neurons of all layers."""
        return self.bytes_of(self.n_ff)

    @property
    def least_bytes(self) -> int:
        """W, the fewest bytes that must be hot because the host cannot hold them (0 without a host limit)."""
        return 0 if self.host_bytes is None else max(0, self.total_bytes - self.host_bytes)

    def bytes_of(self, solved_list: Sequence[int]) -> int:
        """Returns the VRAM bytes of a solved list."""
        return sum(size * count for size, count in zip(self.neuron_bytes, solved_list, strict=True))

    def faults_of(self, solved_list: Sequence[int]) -> list[str]:
        """Returns which constraints a solved list breaks, one line each, in exact integers; empty if it breaks none."""
        faults = []
        for layer, (count, n_ff) in enumerate(zip(solved_list, self.n_ff, strict=True)):
            if not 0 <= count <= n_ff:
                faults.append(f"layer {layer}: {count} hot neurons of {n_ff}")
            if count % self.granularity and count != n_ff:
                faults.append(f"layer {layer}: {count} hot neurons is no multiple of {self.granularity}")
            if self.thresholds is not None and 0 < count < self.thresholds[layer]:
                faults.append(f"layer {layer}: {count} hot neurons is under the threshold of {self.thresholds[layer]}")
        used_bytes = self.bytes_of(solved_list)
        if used_bytes > self.ffn_bytes:
            faults.append(f"vram: {used_bytes} bytes used of {self.ffn_bytes}")
        if used_bytes < self.least_bytes:
            faults.append(f"host: {self.total_bytes - used_bytes} bytes used of {self.host_bytes}")
        return faults


class SolverOptions(Record):
    """How to solve.

    Attributes:
        solver: "highs" or "cbc", both through pulp.
        time_limit_s: stop after this many seconds with the best answer so far; None to go on until it is proven.
        relative_gap: what counts as optimal. Branching and the settlement of the last neurons usually prove far less,
            mostly nothing at all; only what they leave open is refined no further than this.
        confirm: pose the reduced ILP to the solver also where the price has already proven the answer. It cannot
            change the answer; a sweep over many budgets turns it off.
        explain: say why the answer is as it is. That takes as long as the placement; a sweep turns it off, too.
    """

    solver: str = "highs"
    time_limit_s: float | None = None
    relative_gap: float = RELATIVE_GAP
    confirm: bool = True
    explain: bool = True

    def __post_init__(self) -> None:
        if self.solver not in SOLVERS:
            raise InputError(f"solver: expected one of {', '.join(SOLVERS)}, found {self.solver!r}")
        if self.time_limit_s is not None and not (math.isfinite(self.time_limit_s) and self.time_limit_s > 0):
            raise InputError(f"time limit: expected more than 0 seconds, found {self.time_limit_s}")
        if not 0 <= self.relative_gap < 1:
            raise InputError(f"relative gap: expected 0 or more and under 1, found {self.relative_gap}")


class SolverStatus(enum.Enum):
    """What is known about the answer; the values are what a plan file says."""

    OPTIMAL = "optimal"
    """Proven to the relative gap that was asked for."""
    FEASIBLE = "feasible"
    """Every constraint holds, but the time ran out before the gap was closed as far as asked."""
    INFEASIBLE = "infeasible"
    """Proven: no list holds all constraints."""
    NOTHING_FOUND = "nothing found"
    """The time ran out without an answer and without a proof that there is none."""
    ERROR = "error"
    """The solver failed."""


class Explanation(Record):
    """Why the answer is what it is.

    Attributes:
        binding: the constraint that stops the next neuron: "vram", "host", or "nothing" when everything fits.
        price_per_byte: activations that one more byte of VRAM would cover at the margin.
        next_gib_share: the share of all activations that one more GiB of VRAM would add, from 0 to 1; with thresholds
            an estimate that lets a layer be switched on in part.
        switched_off: layers without hot neurons only because of their threshold.
        proof: "price" when bytes and sorting prove the bound, "solver" when it rests on the solver's bound.
        solver: which solver was asked, such as "HiGHS"; None when none was needed.
        text: all of it in a sentence or two.
    """

    binding: str
    price_per_byte: float
    next_gib_share: float
    switched_off: tuple[int, ...]
    proof: str
    solver: str | None
    text: str


class Infeasibility(Record):
    """Which constraint cannot hold, and by how much.

    Attributes:
        constraint: "host" when too much would stay on the host.
        short_bytes: the bytes that are missing.
        text: one line for people.
    """

    constraint: str
    short_bytes: int
    text: str


class Solution(Record):
    """The answer with its proof.

    Attributes:
        status: what is known about it.
        solved_list: hot neurons of each layer; empty when there is no answer.
        objective: activations covered by the hot neurons, sum of F_l(solved_list[l]).
        upper_bound: no list that holds the constraints covers more than this.
        relative_gap: (upper_bound - objective) / upper_bound. Sums of impacts that are no whole numbers are
            rounded, and the bound is raised by that, so it is seldom 0 then, but about 1e-12.
        hit_rate: objective as a share of all activations; 0 when nothing was activated at all.
        used_bytes: VRAM bytes of the hot neurons.
        host_bytes: host memory bytes of the cold neurons.
        explanation: why; None when there is no answer, or when nobody asked.
        infeasibility: set exactly when the status is INFEASIBLE.
    """

    status: SolverStatus
    solved_list: tuple[int, ...]
    objective: float
    upper_bound: float
    relative_gap: float
    hit_rate: float
    used_bytes: int
    host_bytes: int
    explanation: Explanation | None = None
    infeasibility: Infeasibility | None = None
