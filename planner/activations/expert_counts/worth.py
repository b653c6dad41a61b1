"""What recorded counts are worth before anybody plans: what the hottest experts cover, here and on other text.

All of it is plain data, the same for equal counts. "Covered" is the share of choices that fall on the chosen experts;
chosen are, of all experts of all layers, those that were chosen most (of equals the lower layer and number).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.activations.expert_counts.recorded import Array
from planner.activations.expert_counts.workload import Workload
from planner.base.errors import InputError
from planner.base.record import Record

SHARES = (0.1, 0.2, 0.3, 0.5, 0.8)
# The share at which workloads are tried on one another, and at which stability is asked for.
TRIED_AT = 0.2
_SEED = 20261128
_RESAMPLES = 6
# A table of counts whose experts differ no more than chance makes them differ has a chi-square of one for each degree
# of freedom. Counts of routers that were read correctly exceed it by far even for balanced models.
_MAX_CHI_SQUARE = 1.5
# Of Mixtral-8x7B, where there is nothing to win, the hottest quarter covers 1.02 to 1.2 times what random ones do.
_EVEN = 1.25
# Of 40 x 256 experts, the choice from 1,024 tokens covered 0.580 and that from all 0.585 (from 256 tokens 0.568).
_FEW_TOKENS = 1024
_MAX_LOST = 0.01
_EQUAL_SUMS = 1e-9


class Covered(Record):
    """What some of the experts cover.

    Attributes:
        share: of all experts, by number.
        experts: how many these are.
        hottest: share of choices on the hottest of all layers; as much as any choice of that many can cover.
        random: what as many experts drawn at random cover in the mean.
        uniform: what experts 0, 1, … of each layer cover, KTransformers' default; None for neurons.
    """

    share: float
    experts: int
    hottest: float
    random: float
    uniform: float | None


class Stability(Record):
    """How much the choice owes to chance, by drawing as many choices again from the counts themselves.

    This is not a test on other text: the draws know the same text.

    Attributes:
        share: of all experts that is chosen.
        draws: how often it was drawn.
        same: mean share of the chosen experts that two draws have in common.
        lost: mean share of choices that a choice from a draw loses against the choice from the counts.
    """

    share: float
    draws: int
    same: float
    lost: float


class Later(Record):
    """A choice from one part of a recording, tried on the other part.

    Attributes:
        share: of all experts that is chosen.
        covered: on the later part, chosen from the earlier one.
        own: on the later part, chosen from itself: the most that is possible there.
        random: what as many experts at random cover.
        where: how the recording was cut.
        in_order: whether the first part is known to be the earlier one.
    """

    share: float
    covered: float
    own: float
    random: float
    where: str
    in_order: bool


class Worth(Record):
    """What the counts of one workload are worth.

    Attributes:
        name: of the workload.
        unit: `expert` or `neuron`.
        layers: absolute numbers of the layers with choices.
        experts: of all these layers together.
        choices: sum of all counts.
        tokens: that were routed; None where no file says so.
        n_expert_used: experts for each token (k); None where no file says so.
        covered: by the hottest experts, for each of `SHARES`.
        stability: see there; None for fractions, which are not numbers of choices.
        later: see there; None where the files are sums.
        chi_square: of the counts against equal use of all experts, for each degree of freedom; about 1 where they
            differ by chance alone. None for fractions.
        notes: what the files do not say or have lost.
        warnings: what makes the counts look wrong or too few.
    """

    name: str
    unit: str
    layers: tuple[int, ...]
    experts: int
    choices: float
    tokens: int | None
    n_expert_used: int | None
    covered: tuple[Covered, ...]
    stability: Stability | None
    later: Later | None
    chi_square: float | None
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


class Tried(Record):
    """Choices from each workload, tried on each.

    Attributes:
        share: of all experts that is chosen.
        names: of the workloads.
        covered: `covered[a][b]` is what the choice from workload a covers of workload b.
        random: what as many experts at random cover.
    """

    share: float
    names: tuple[str, ...]
    covered: tuple[tuple[float, ...], ...]
    random: float


def worth_of(workload: Workload, *, n_layer: int | None = None) -> Worth:
    """Judges the counts of one workload.

    Args:
        workload: the counts.
        n_layer: layers of the model with experts; without it, missing ones are noticed by gaps between those there are.
    """
    flat = np.concatenate(workload.counts)
    whole = flat.dtype.kind != "f"
    stability, chi_square = None, None
    if whole and workload.choices > 0:
        chi_square = _chi_square(workload.counts)
        stability = _stability(workload.counts, flat)
    return Worth(
        name=workload.name,
        unit=workload.unit,
        layers=workload.layers,
        experts=flat.size,
        choices=workload.choices,
        tokens=_tokens(workload),
        n_expert_used=workload.n_expert_used,
        covered=tuple(_covered(workload, flat, share) for share in SHARES),
        stability=stability,
        later=_later(workload),
        chi_square=chi_square,
        notes=workload.notes,
        warnings=tuple(_warnings(workload, n_layer, chi_square, stability)),
    )


def warnings_of(workload: Workload, *, n_layer: int | None = None) -> tuple[str, ...]:
    """Returns what makes the counts of one workload look wrong, without the slower resampling of `worth_of`.

    Args:
        workload: the counts.
        n_layer: layers of the model with experts.
    """
    whole = workload.counts[0].dtype.kind != "f" and workload.choices > 0
    return tuple(_warnings(workload, n_layer, _chi_square(workload.counts) if whole else None, None))


def tried(workloads: Sequence[Workload], share: float = TRIED_AT) -> Tried:
    """Returns what the choice from each workload covers of each.

    Raises:
        InputError: the workloads differ in layers or experts, or `share` is out of range.
    """
    if not 0 < share <= 1:
        raise InputError(f"share of experts: expected more than 0 and at most 1, found {share}")
    first = workloads[0]
    for other in workloads[1:]:
        if other.layers != first.layers or [row.size for row in other.counts] != [row.size for row in first.counts]:
            raise InputError(
                f"workloads {first.name!r} and {other.name!r} have other layers or experts; a choice from one means "
                "nothing on the other"
            )
    flats = [np.concatenate(workload.counts) for workload in workloads]
    number = _number(flats[0].size, share)
    chosen = [hottest(flat, number) for flat in flats]
    return Tried(
        share,
        tuple(workload.name for workload in workloads),
        tuple(tuple(share_of(flat, each) for flat in flats) for each in chosen),
        number / flats[0].size,
    )


def hottest(counts: Array, number: int) -> Array:
    """Returns the positions of the `number` highest counts; of equals, the first."""
    return np.argsort(-counts, kind="stable")[:number]


def share_of(counts: Array, chosen: Array) -> float:
    """Returns the share of all choices that falls on `chosen`; 0 where nothing was chosen at all."""
    total = float(counts.sum(dtype=np.float64))
    return float(counts[chosen].sum(dtype=np.float64)) / total if total else 0.0


def _number(experts: int, share: float) -> int:
    """Returns how many experts a share of them is, at least one."""
    return max(1, math.floor(experts * share + 1e-9))


def _covered(workload: Workload, flat: Array, share: float) -> Covered:
    number = _number(flat.size, share)
    uniform = None
    if workload.unit == "expert":
        # As KTransformers does: the same number of each layer, and one more in the first layers.
        each, more = divmod(number, len(workload.counts))
        first = [counts[: each + (place < more)].sum() for place, counts in enumerate(workload.counts)]
        uniform = float(sum(first)) / workload.choices if workload.choices else 0.0
    return Covered(share, number, share_of(flat, hottest(flat, number)), number / flat.size, uniform)


def _chi_square(counts: Sequence[Array]) -> float:
    """Returns the chi-square of all layers against equal use of the experts of each, for each degree of freedom."""
    total, freedom = 0.0, 0
    for row in counts:
        mean = float(row.sum(dtype=np.float64)) / row.size
        if mean > 0 and row.size > 1:
            total += float(((row - mean) ** 2).sum()) / mean
            freedom += row.size - 1
    return total / freedom if freedom else 0.0


def _stability(counts: Sequence[Array], flat: Array) -> Stability:
    """Draws the choices of each layer again, from its own counts, always with the same random numbers."""
    generator = np.random.default_rng(_SEED)
    number = _number(flat.size, TRIED_AT)
    own = share_of(flat, hottest(flat, number))
    marks, lost = [], []
    for _ in range(_RESAMPLES):
        drawn = [generator.multinomial(int(row.sum()), row / row.sum()) if row.any() else row for row in counts]
        chosen = hottest(np.concatenate(drawn), number)
        mark = np.zeros(flat.size, dtype=bool)
        mark[chosen] = True
        marks.append(mark)
        lost.append(own - share_of(flat, chosen))
    same = [float((a & b).sum()) / number for a, b in zip(marks[::2], marks[1::2], strict=True)]
    return Stability(TRIED_AT, _RESAMPLES, float(np.mean(same)), float(np.mean(lost)))


def _later(workload: Workload) -> Later | None:
    halves = workload.halves
    if halves is None:
        return None
    first, second = np.concatenate(halves.first), np.concatenate(halves.second)
    if not first.any() or not second.any():
        return None
    number = _number(first.size, TRIED_AT)
    return Later(
        TRIED_AT,
        share_of(second, hottest(first, number)),
        share_of(second, hottest(second, number)),
        number / first.size,
        halves.where,
        halves.in_order,
    )


def _tokens(workload: Workload) -> int | None:
    """Returns the tokens that were routed: as a file says, or the choices of a layer by k."""
    if workload.tokens is not None or not workload.n_expert_used:
        return workload.tokens
    sums = {float(row.sum()) for row in workload.counts}
    tokens, rest = divmod(sums.pop(), workload.n_expert_used)
    return int(tokens) if not sums and not rest else None


def _warnings(
    workload: Workload, n_layer: int | None, chi_square: float | None, stability: Stability | None
) -> list[str]:
    """Returns what makes the counts look wrong."""
    if not workload.choices > 0:
        return ["all counts are zero: nothing was recorded; record while the model answers"]
    found = []
    if workload.unit == "expert":
        found += _wrong_sums(workload)
        present = set(workload.layers)
        missing = sorted(set(range(min(present), max(present) + 1)) - present)
        if missing:
            names = ", ".join(str(layer) for layer in missing[:8]) + (", …" if len(missing) > 8 else "")
            found.append(f"layers {names} have no counts between others that have: were they not recorded?")
        if n_layer is not None and len(present) != n_layer:
            found.append(f"{len(present)} layers have counts, and the model has {n_layer} with experts")
    flat = np.concatenate(workload.counts)
    number = _number(flat.size, TRIED_AT)
    covered = share_of(flat, hottest(flat, number))
    why = "either this model has little to win, or the recorder did not read the router's choices"
    if chi_square is not None and chi_square <= _MAX_CHI_SQUARE:
        found.append(
            f"the counts are as even as chance makes them (chi-square {chi_square:.2f} for each degree of freedom): "
            f"{why}"
        )
    elif covered < _EVEN * number / flat.size and workload.unit == "expert":
        found.append(
            f"the counts are nearly even (the hottest {number} of {flat.size} experts cover {covered:.1%}, random ones "
            f"{number / flat.size:.1%}): {why}"
        )
    tokens = _tokens(workload)
    if tokens is not None and tokens < _FEW_TOKENS:
        found.append(f"{tokens} tokens are few: the choice still changes much with more, up to some {_FEW_TOKENS}")
    elif stability is not None and stability.lost > _MAX_LOST:
        found.append(
            f"too little was recorded: drawn again from the same counts, the choice loses {stability.lost:.1%} of all "
            "choices by chance alone"
        )
    return found


def _wrong_sums(workload: Workload) -> list[str]:
    """Returns what is wrong with the choices of the layers: each token makes k of them in every layer."""
    sums = {layer: float(row.sum()) for layer, row in zip(workload.layers, workload.counts, strict=True)}
    least, most = min(sums, key=lambda layer: sums[layer]), max(sums, key=lambda layer: sums[layer])
    if workload.counts[0].dtype.kind == "f":
        return []
    if sums[most] - sums[least] > _EQUAL_SUMS * sums[most]:
        return [
            f"layer {least} has {sums[least]:.0f} choices and layer {most} has {sums[most]:.0f}: every token is routed "
            "in every layer, so that they should be equal"
        ]
    used: Any = workload.n_expert_used
    if used and sums[least] % used:
        return [f"each layer has {sums[least]:.0f} choices, which is no multiple of the {used} for each token"]
    if used and workload.tokens is not None and sums[least] != used * workload.tokens:
        return [
            f"each layer has {sums[least]:.0f} choices; {workload.tokens} tokens with {used} each make "
            f"{used * workload.tokens}"
        ]
    return []
