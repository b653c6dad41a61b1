"""How fast a host's cores read and compute weights: whole matrices, scattered rows, and arithmetic by type.

The defaults are measurements of one core of a server that streams 33 GB/s: rows of a matrix larger than the caches,
a random share of them, in ascending order. Two cores at once reached the same each. Seconds, bytes, bytes per second.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

from planner.base.errors import InputError
from planner.base.record import Record

# For hosts of which nobody says how many cores they have.
DEFAULT_CORES = 16


class Gather(Record):
    """How fast scattered rows are read.

    Attributes:
        row_bytes: length of a row.
        share: which share of the rows is read, more than 0 and less than 1.
        core_bytes_per_s: what one core reads.
        all_bytes_per_s: what all cores read together; None where that is the cores' sum.
    """

    row_bytes: int
    share: float
    core_bytes_per_s: float
    all_bytes_per_s: float | None = None

    def rate(self, cores: int) -> float:
        """Returns what so many cores read together."""
        return min(cores * self.core_bytes_per_s, self.all_bytes_per_s or math.inf)


DEFAULT_GATHER = tuple(
    Gather(row_bytes, share, gigabytes * 1e9)
    for row_bytes, rates in {
        1152: {0.05: 6.4, 0.50: 10.2},
        4096: {0.05: 8.7, 0.50: 13.6},
        8192: {0.05: 10.0, 0.15: 11.7, 0.30: 13.3, 0.50: 15.5},
        16384: {0.05: 12.7, 0.50: 18.6},
    }.items()
    for share, gigabytes in rates.items()
)


class CpuRates(Record):
    """The cores of a host.

    Attributes:
        cores: how many of them compute.
        stream_bytes_per_s: what one core reads of whole matrices.
        gather: scattered rows, measured at some lengths and shares.
        arithmetic: by type of the weights, bytes of them that one core computes with; types that are missing are
            computed as fast as they are read.
    """

    cores: int = DEFAULT_CORES
    stream_bytes_per_s: float = 33e9
    gather: tuple[Gather, ...] = DEFAULT_GATHER
    arithmetic: tuple[tuple[str, float], ...] = (("Q4_0", 9e9),)

    def __post_init__(self) -> None:
        if self.cores < 1:
            raise InputError(f"speed: cores: found {self.cores}, expected 1 or more")
        rates = [self.stream_bytes_per_s, *(rate for _, rate in self.arithmetic)]
        rates += [point.core_bytes_per_s for point in self.gather]
        rates += [point.all_bytes_per_s for point in self.gather if point.all_bytes_per_s is not None]
        for rate in rates:
            if not (math.isfinite(rate) and rate > 0):
                raise InputError(f"speed: host: found {rate}, expected a positive number of bytes per second")
        if any(point.row_bytes < 1 or not 0 < point.share < 1 for point in self.gather):
            raise InputError("speed: gather: expected rows of at least one byte and shares between 0 and 1")

    def stream_s(self, weights: Iterable[tuple[str, float]], memory_bytes_per_s: float) -> float:
        """Returns the time for whole matrices, given as (type, bytes): reading hides arithmetic, or the other way."""
        rate = min(memory_bytes_per_s, self.cores * self.stream_bytes_per_s)
        return sum(max(n_bytes / rate, n_bytes * self._arithmetic_s(kind)) for kind, n_bytes in weights)

    def rows_s(
        self, kind: str, row_bytes: int, read_bytes: float, held_bytes: float, memory_bytes_per_s: float
    ) -> float:
        """Returns the time for some rows of a matrix.

        Rows that lie apart are waited for, so their arithmetic comes on top; all rows together are a stream.

        Args:
            kind: type of the weights.
            row_bytes: length of a row.
            read_bytes: what is read, at most `held_bytes`.
            held_bytes: the whole matrix.
            memory_bytes_per_s: what the host's memory gives at most.
        """
        if not read_bytes:
            return 0.0
        stream_s = self.stream_s([(kind, held_bytes)], memory_bytes_per_s)
        share = min(1.0, read_bytes / held_bytes)
        if share == 1 or not self.gather or not row_bytes:
            return stream_s * share
        cores_s = self._gather_s(share, row_bytes) * held_bytes + read_bytes * self._arithmetic_s(kind)
        return max(read_bytes / memory_bytes_per_s, cores_s)

    def _arithmetic_s(self, kind: str) -> float:
        """Returns the time for a byte of this type on all cores; 0 where nothing is known."""
        return next((1 / (self.cores * rate) for name, rate in self.arithmetic if name == kind), 0.0)

    def _gather_s(self, share: float, row_bytes: int) -> float:
        """Returns the time that the cores take to read a share of a matrix, for each byte of the whole.

        Between measured shares it is a straight line, and between measured lengths one over the logarithm. Beyond both
        ends, lengths count as the last one and shares have the last one's bandwidth.
        """
        lengths = sorted({point.row_bytes for point in self.gather})
        whole_s = 1 / (self.cores * self.stream_bytes_per_s)
        times = []
        for length in lengths:
            measured = [point for point in self.gather if point.row_bytes == length]
            points = [(0.0, 0.0), *((point.share, point.share / point.rate(self.cores)) for point in measured)]
            points.append((1.0, whole_s))
            times.append(_between(sorted(points), share))
        return _between([(math.log(length), s) for length, s in zip(lengths, times, strict=True)], math.log(row_bytes))


def _between(points: Sequence[tuple[float, float]], x: float) -> float:
    """Returns the height at `x` of the lines through points that are sorted; the end points' heights beyond them."""
    if x <= points[0][0]:
        return points[0][1]
    for (left, low), (right, high) in itertools.pairwise(points):
        if x <= right:
            return low + (high - low) * (x - left) / (right - left)
    return points[-1][1]
