"""How fast a placement decodes: bytes read for one token on each side over bandwidth, plus what every layer loses.

Decoding one token reads every weight that takes part once. So, for each layer,

    attention, predictors, norms, KV    dense bytes / bandwidth of the side they are on
    FFN                                 the neurons that fire, hot ones on the GPU and cold ones on the host; how much
                                        of the two runs at the same time is a parameter
    transfer                            the layer's input to the host and its result back, n_embd float32 each
    synchronisation                     once for each layer that works on both sides
    launching                           once for each layer

and the output matrix at the end. On the host, the cores may be slower than the memory: rows of neurons lie apart, and
some types take much arithmetic (`planner.studies.cpu_rates`). Which neurons fire follows from activation sparsity:
`active_share` of a layer's neurons for one token. How many of those are hot is the layer's hit rate, because the
statistics count firings: the hot neurons make `hit_rate` of all firings, so they make that share of the neurons that
fire for an average token.

Predictors also select neurons that do not fire (`false_share`). Their gate and up rows are read, too, and half of their
down rows where the activations are kept as F16: relu(gate) is 0 and up as often negative as not, and the engine skips
+0.0 but not -0.0 (`ggml.c`, `ggml_compute_forward_mul_mat_axpy`, compares the bits of an F16). For Q4_0 it compares
whole numbers, and skips both.

What the model leaves out: the prompt (it decodes only) and caches.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence

from planner.base.errors import InputError
from planner.base.record import Record
from planner.studies.cpu_rates import CpuRates

_FLOAT32_BYTES = 4


class SpeedParameters(Record):
    """What bandwidth and bytes do not say. One set for all models; `docs/speed.md` tells how each was chosen.

    Attributes:
        gpu_efficiency: share of the GPU's bandwidth that reading weights reaches.
        host_efficiency: share of the host's bandwidth that reading weights reaches.
        layer_s: seconds lost in every layer to starting kernels.
        sync_s: seconds lost in every layer in which both sides work, on top of that.
        overlap: how much of the faster side's FFN time is hidden behind the slower side's, 0 to 1. The paper's engine
            overlaps them; the released one starts the GPU's part from the threads that do the host's. With 0,
            more VRAM is never slower.
        active_share: share of a layer's neurons that fire for a token, for models of which nothing is known.
        false_share: share of the neurons that predictors select and that do not fire. 0: nobody has published it.
    """

    gpu_efficiency: float = 0.95
    host_efficiency: float = 0.75
    layer_s: float = 75e-6
    sync_s: float = 350e-6
    overlap: float = 0.0
    active_share: float = 0.20
    false_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("gpu_efficiency", "host_efficiency", "active_share"):
            value = getattr(self, name)
            if not 0 < value <= 1:
                raise InputError(f"speed: {name}: found {value}, expected more than 0 and at most 1")
        if not 0 <= self.overlap <= 1:
            raise InputError(f"speed: overlap: found {self.overlap}, expected 0 to 1")
        if not 0 <= self.false_share < 1:
            raise InputError(f"speed: false_share: found {self.false_share}, expected 0 or more and less than 1")
        for name in ("layer_s", "sync_s"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise InputError(f"speed: {name}: found {value}, expected seconds, 0 or more")


class Bandwidths(Record):
    """What the memories and the link between them carry, in bytes per second.

    Attributes:
        gpu_bytes_per_s: the GPU's memory.
        host_bytes_per_s: the host's memory.
        link_bytes_per_s: one direction of the link; None leaves transfer out.
        cpu: the host's cores.
    """

    gpu_bytes_per_s: float
    host_bytes_per_s: float
    link_bytes_per_s: float | None = None
    cpu: CpuRates = CpuRates()

    def __post_init__(self) -> None:
        for name in ("gpu_bytes_per_s", "host_bytes_per_s", "link_bytes_per_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise InputError(f"speed: {name}: found {value}, expected a positive number of bytes per second")


class Work(Record):
    """What lies where, for one model and one placement. Sizes are bytes.

    Attributes:
        n_embd: the width of the model.
        dense_gpu_bytes: dense tensors on the GPU.
        dense_host_bytes: dense tensors on the host that a token reads whole (an output matrix that is the token
            embedding included, the embedding itself not: a token reads one row of it).
        kv_gpu_bytes: the part of the KV cache on the GPU that a token reads.
        kv_host_bytes: the part on the host.
        ffn_bytes: shape (layers,), all neurons of each layer.
        hot_bytes: shape (layers,), the hot neurons of each layer.
        hit_rates: shape (layers,), the share of each layer's activations that its hot neurons make.
        active_share: share of a layer's neurons that fire for a token.
        rows: the rows of one neuron, (type, bytes) each, the down row last; empty where they are not known, and then
            they are read like a stream.
        gated: whether the first row is a gate's.
        dense_types: the types of all dense tensors, (type, bytes) each; empty where they are not known.
    """

    n_embd: int
    dense_gpu_bytes: int
    dense_host_bytes: int
    kv_gpu_bytes: int
    kv_host_bytes: int
    ffn_bytes: Sequence[int]
    hot_bytes: Sequence[int]
    hit_rates: Sequence[float]
    active_share: float
    rows: Sequence[tuple[str, int]] = ()
    gated: bool = False
    dense_types: Sequence[tuple[str, int]] = ()


class Bound(enum.Enum):
    """What most of a token's time goes to; the values are what answers say."""

    GPU = "GPU bandwidth"
    HOST = "host bandwidth"
    SYNC = "synchronisation"
    LAUNCH = "launching"
    TRANSFER = "transfer"


class SpeedEstimate(Record):
    """One token's time and where it goes. Seconds; the parts add up to `token_s`.

    Attributes:
        tokens_per_s: decode speed.
        token_s: seconds a token.
        gpu_s: waiting for the GPU's memory.
        host_s: waiting for the host: its memory or its cores.
        sync_s: launching and synchronisation.
        transfer_s: activations over the link.
        bound: the largest of the four; where that is `sync_s`, the larger of its two parts, so that a model that is
            completely on the GPU is never called bound by synchronisation.
        gpu_read_bytes: bytes the GPU reads for a token, on average.
        host_read_bytes: bytes the host reads for a token, on average.
        launch_s: of `sync_s`, launching kernels, once for each layer.
        slow_tokens_per_s, fast_tokens_per_s: the ends of the range that assumed inputs leave; None where nobody asked.
        basis: the inputs by name, and whether each is measured, published, stated or assumed.
    """

    tokens_per_s: float
    token_s: float
    gpu_s: float
    host_s: float
    sync_s: float
    transfer_s: float
    bound: Bound
    gpu_read_bytes: int
    host_read_bytes: int
    launch_s: float
    slow_tokens_per_s: float | None = None
    fast_tokens_per_s: float | None = None
    basis: tuple[tuple[str, str], ...] = ()


def estimate(work: Work, bandwidths: Bandwidths, parameters: SpeedParameters) -> SpeedEstimate:
    """Returns how fast the placement decodes.

    Raises:
        InputError: the sequences differ in length, or there is no work at all.
    """
    if not len(work.ffn_bytes) == len(work.hot_bytes) == len(work.hit_rates):
        raise InputError("speed: expected bytes and hit rates for the same layers")
    gpu_rate = bandwidths.gpu_bytes_per_s * parameters.gpu_efficiency
    host_rate = bandwidths.host_bytes_per_s * parameters.host_efficiency
    cpu = bandwidths.cpu
    gpu_read: float = work.dense_gpu_bytes + work.kv_gpu_bytes
    host_read: float = work.dense_host_bytes + work.kv_host_bytes
    gpu_s = gpu_read / gpu_rate
    host_s = cpu.stream_s([*_dense_by_type(work), ("F16", work.kv_host_bytes)], host_rate)
    crossing = 0
    for layer_bytes, hot_bytes, hit_rate in zip(work.ffn_bytes, work.hot_bytes, work.hit_rates, strict=True):
        hot_fire, cold_fire = _active_bytes(layer_bytes, hot_bytes, hit_rate, work.active_share)
        hot_read = on_host_s = cold_read = 0.0
        for kind, row_bytes, part, times in _row_parts(work, parameters.false_share):
            cold_bytes = (layer_bytes - hot_bytes) * part
            read_bytes = min(cold_bytes, cold_fire * part * times)
            hot_read += min(hot_bytes * part, hot_fire * part * times)
            cold_read += read_bytes
            on_host_s += cpu.rows_s(kind, row_bytes, read_bytes, cold_bytes, host_rate)
        gpu_read += hot_read
        host_read += cold_read
        on_gpu_s = hot_read / gpu_rate
        gpu_s += on_gpu_s * (1 - parameters.overlap) if on_gpu_s < on_host_s else on_gpu_s
        host_s += on_host_s if on_gpu_s < on_host_s else on_host_s * (1 - parameters.overlap)
        if cold_read and (hot_read or work.dense_gpu_bytes):
            crossing += 1
    launch_s, crossing_s = len(work.ffn_bytes) * parameters.layer_s, crossing * parameters.sync_s
    sync_s = launch_s + crossing_s
    link = bandwidths.link_bytes_per_s
    transfer_s = crossing * 2 * work.n_embd * _FLOAT32_BYTES / link if link else 0.0
    token_s = gpu_s + host_s + sync_s + transfer_s
    if token_s <= 0:
        raise InputError("speed: expected a model with weights, found none")
    waiting = Bound.LAUNCH if launch_s > crossing_s else Bound.SYNC
    parts = {Bound.GPU: gpu_s, Bound.HOST: host_s, waiting: sync_s, Bound.TRANSFER: transfer_s}
    return SpeedEstimate(
        tokens_per_s=1 / token_s,
        token_s=token_s,
        gpu_s=gpu_s,
        host_s=host_s,
        sync_s=sync_s,
        transfer_s=transfer_s,
        bound=max(parts, key=lambda part: parts[part]),
        gpu_read_bytes=round(gpu_read),
        host_read_bytes=round(host_read),
        launch_s=launch_s,
    )


def _active_bytes(layer_bytes: int, hot_bytes: int, hit_rate: float, active_share: float) -> tuple[float, float]:
    """Returns the bytes of the neurons that fire for a token: hot ones, cold ones.

    A side cannot read more than it holds: where the statistics would have more hot neurons fire than there are, the
    rest of the firing ones are cold, and the other way round.
    """
    active = layer_bytes * active_share
    cold_bytes = layer_bytes - hot_bytes
    hot_read = min(hot_bytes, max(active * hit_rate, active - cold_bytes))
    return hot_read, active - hot_read


def _dense_by_type(work: Work) -> Sequence[tuple[str, float]]:
    """Returns the dense bytes on the host by type, as if each type had the same share on both sides."""
    total = sum(n_bytes for _, n_bytes in work.dense_types)
    if not total:
        return [("", work.dense_host_bytes)]
    return [(kind, n_bytes * work.dense_host_bytes / total) for kind, n_bytes in work.dense_types]


def _row_parts(work: Work, false_share: float) -> Sequence[tuple[str, int, float, float]]:
    """Returns for each row of a neuron: type, bytes, its part of the neuron, rows read for each neuron that fires."""
    selected = 1 / (1 - false_share)
    total = sum(row_bytes for _, row_bytes in work.rows)
    if not total:
        return [("", 0, 1.0, selected)]
    parts = [(kind, row_bytes, row_bytes / total, selected) for kind, row_bytes in work.rows]
    kind, row_bytes, part, _ = parts[-1]
    minus_zero = work.gated and kind != "Q4_0"
    return [*parts[:-1], (kind, row_bytes, part, 1 + (selected - 1) / 2 if minus_zero else 1.0)]
