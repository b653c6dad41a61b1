"""What an estimated speed rests on: which inputs are measured, published, stated or assumed, and its range.

An assumed input has a low and a high value with a source (`docs/speed.md`). The range is the estimate with all of them
at the slow end, and with all of them at the fast end.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from planner.base.record import Record, replace
from planner.studies.cpu_rates import CpuRates
from planner.studies.speed import Bandwidths, SpeedEstimate, SpeedParameters, Work, estimate

# The factor within which the default rates of a core predicted the ten timings of `docs/speed.md`, rounded up.
_RATES_WITHIN = 1.35
_CORES = (6, 24)


class Basis(enum.Enum):
    """Where an input comes from; the values are what answers say."""

    MEASURED = "measured"
    PUBLISHED = "published"
    STATED = "stated"
    ASSUMED = "assumed"


class Inputs(Record):
    """Everything that one estimate is made of, with where each part comes from, by name."""

    work: Work
    bandwidths: Bandwidths
    parameters: SpeedParameters
    basis: tuple[tuple[str, Basis], ...]


def estimate_range(inputs: Inputs) -> SpeedEstimate:
    """Returns the estimate with its range and basis.

    Raises:
        InputError: as `planner.studies.speed.estimate`.
    """
    assumed = [name for name, basis in inputs.basis if basis is Basis.ASSUMED]
    slow = fast = inputs
    for name in assumed:
        slow, fast = _ENDS[name](slow, False), _ENDS[name](fast, True)
    point = estimate(inputs.work, inputs.bandwidths, inputs.parameters)
    ends = [estimate(end.work, end.bandwidths, end.parameters).tokens_per_s for end in (slow, fast)]
    return replace(
        point,
        slow_tokens_per_s=min(point.tokens_per_s, *ends),
        fast_tokens_per_s=max(point.tokens_per_s, *ends),
        basis=tuple((name, basis.value) for name, basis in inputs.basis),
    )


def basis_words(speed: SpeedEstimate) -> str:
    """Returns the basis by kind: `published: GPU bandwidth, host bandwidth; assumed: cores`."""
    kinds = [(basis.value, [name for name, of in speed.basis if of == basis.value]) for basis in Basis]
    return "; ".join(f"{kind}: {', '.join(names)}" for kind, names in kinds if names)


def range_words(speed: SpeedEstimate) -> str:
    """Returns the range, such as `9.1 to 14.2 tokens/s`; one figure where nothing that matters is assumed."""
    slow, fast = f"{speed.slow_tokens_per_s:.2f}", f"{speed.fast_tokens_per_s:.2f}"
    return f"{slow} tokens/s" if slow == fast else f"{slow} to {fast} tokens/s"


def _host_efficiency(inputs: Inputs, fast: bool) -> Inputs:
    value = 0.90 if fast else 0.60
    return replace(inputs, parameters=replace(inputs.parameters, host_efficiency=value))


def _sync(inputs: Inputs, fast: bool) -> Inputs:
    return replace(inputs, parameters=replace(inputs.parameters, sync_s=200e-6 if fast else 500e-6))


def _active_share(inputs: Inputs, fast: bool) -> Inputs:
    return replace(inputs, work=replace(inputs.work, active_share=0.10 if fast else 0.40))


def _cores(inputs: Inputs, fast: bool) -> Inputs:
    return _with_cpu(inputs, replace(inputs.bandwidths.cpu, cores=_CORES[fast]))


def _gather(inputs: Inputs, fast: bool) -> Inputs:
    cpu, factor = inputs.bandwidths.cpu, _RATES_WITHIN if fast else 1 / _RATES_WITHIN
    points = tuple(replace(point, core_bytes_per_s=point.core_bytes_per_s * factor) for point in cpu.gather)
    return _with_cpu(inputs, replace(cpu, gather=points, stream_bytes_per_s=cpu.stream_bytes_per_s * factor))


def _arithmetic(inputs: Inputs, fast: bool) -> Inputs:
    cpu, factor = inputs.bandwidths.cpu, _RATES_WITHIN if fast else 1 / _RATES_WITHIN
    return _with_cpu(inputs, replace(cpu, arithmetic=tuple((kind, rate * factor) for kind, rate in cpu.arithmetic)))


def _with_cpu(inputs: Inputs, cpu: CpuRates) -> Inputs:
    return replace(inputs, bandwidths=replace(inputs.bandwidths, cpu=cpu))


_ENDS: dict[str, Callable[[Inputs, bool], Inputs]] = {
    "host efficiency": _host_efficiency,
    "cores": _cores,
    "scattered rows": _gather,
    "arithmetic": _arithmetic,
    "synchronisation": _sync,
    "active share": _active_share,
}
