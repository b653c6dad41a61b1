"""What a plan of experts is worth: covered on the text it was chosen from, and on text it was not.

Sources of the notes: KTransformers' document `experts-sched-Tutorial.md` (Qwen3-Next-80B on four RTX 4090), and the
figures of adrianhoehne/llama.cpp on an RTX 2060. They are what others measured, never a promise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from planner.activations.expert_counts.recorded import Halves
from planner.activations.expert_counts.workload import Workload
from planner.base.errors import NoAnswerError
from planner.base.record import Record, replace
from planner.engines.experts.engine import ExpertEngine
from planner.placement.expert_choice.candidates import Array, Candidates, Choice, Room
from planner.placement.expert_choice.most_covered import most_covered

BREAK_EVEN = 0.459
DYNAMIC_BETTER_BELOW = 0.6


class LaterHalf(Record):
    """A choice from the earlier part of a recording, tried on the later part, with the same room.

    Attributes:
        covered: share of the later part's choices.
        where: how the recording was cut.
        in_order: whether the first part is known to be the earlier one.
    """

    covered: float
    where: str
    in_order: bool


class Verdict(Record):
    """What the plan is worth. All shares are of choices, 0 to 1.

    Attributes:
        chosen_from: of each workload that the plan was chosen from.
        tried_on: of each workload that took no part in the choice; empty where there is none.
        left_out: for each workload what a choice from all the others covers of it; empty for a single workload.
        later_half: for each workload, see `LaterHalf`; None is unknown, the file is one sum.
        matrix: `matrix[a][b]` is what a choice from workload a alone covers of workload b; rows and columns in the
            order of `chosen_from`, then `tried_on`; empty for a single workload.
        random: what as many experts drawn at random cover in the mean.
        engine_default: what as many experts cover by the engine's own choice without counts; None is unknown.
        share_of_experts: how many of all experts are placed.
        notes: what others measured, with the source.
    """

    chosen_from: dict[str, float]
    tried_on: dict[str, float]
    left_out: dict[str, float]
    later_half: dict[str, LaterHalf | None]
    matrix: tuple[tuple[float, ...], ...]
    random: float
    engine_default: dict[str, float] | None
    share_of_experts: float
    notes: tuple[str, ...]

    @property
    def worst_unseen(self) -> tuple[str, float] | None:
        """The least share of text that the choice did not know, and which it is; None where that is unknown."""
        if self.tried_on:
            name = min(self.tried_on, key=lambda each: self.tried_on[each])
            return f"workload {name!r}, which it was not chosen from", self.tried_on[name]
        if self.left_out:
            name = min(self.left_out, key=lambda each: self.left_out[each])
            return f"workload {name!r}, chosen from the others alone", self.left_out[name]
        halves = {name: half for name, half in self.later_half.items() if half is not None}
        if not halves:
            return None
        name = min(halves, key=lambda each: halves[each].covered)
        part = "later part" if halves[name].in_order else "other part"
        return f"the {part} of {name!r} ({halves[name].where})", halves[name].covered


class Judge:
    """Judges choices from the same counts; what each takes to choose from other text is sorted once for all.

    Args:
        engine: for its default choice and what is known about it.
        candidates: of the workloads that the plan was chosen from.
        workloads: those that the plan was chosen from.
        tried_on: others of the same model.
    """

    def __init__(
        self,
        engine: ExpertEngine,
        candidates: Candidates,
        workloads: Sequence[Workload],
        tried_on: Sequence[Workload],
    ) -> None:
        self._engine = engine
        self._candidates = candidates
        self._everything = {each.name: np.concatenate(each.counts) for each in (*workloads, *tried_on)}
        self._chosen_from = tuple(each.name for each in workloads)
        self._tried_on = tuple(each.name for each in tried_on)
        self._alone = {}
        if len(self._everything) > 1:
            self._alone = {name: _of_one(candidates, name, counts) for name, counts in self._everything.items()}
        self._others = {}
        if len(workloads) > 1:
            for position, workload in enumerate(workloads):
                others = [place for place in range(len(workloads)) if place != position]
                self._others[workload.name] = _some(candidates, others)
        self._halves = {each.name: _earlier(candidates, each) for each in workloads}

    def verdict(self, choice: Choice, room: Room) -> Verdict:
        """Returns what a choice is worth.

        Args:
            choice: the plan's.
            room: what the engine had room for.
        """
        everything = self._everything
        number, share = int(choice.chosen.sum()), float(choice.chosen.mean())
        default = None
        if self._engine.default_choice == "uniform":
            chosen = _uniform(self._candidates, number)
            default = {name: _share(counts, chosen) for name, counts in everything.items()}
        elif self._engine.default_choice == "random":
            default = dict.fromkeys(everything, share)
        matrix = []
        for alone in self._alone.values():
            chosen = _chosen(alone, room)
            matrix.append(tuple(_share(other, chosen) for other in everything.values()))
        return Verdict(
            chosen_from=dict(zip(self._chosen_from, choice.covered, strict=True)),
            tried_on={name: _share(everything[name], choice.chosen) for name in self._tried_on},
            left_out={name: _share(everything[name], _chosen(each, room)) for name, each in self._others.items()},
            later_half={name: None if half is None else _later(*half, room) for name, half in self._halves.items()},
            matrix=tuple(matrix),
            random=share,
            engine_default=default,
            share_of_experts=share,
            notes=tuple(_notes(self._engine, share)),
        )


def _some(candidates: Candidates, places: Sequence[int]) -> Candidates:
    return replace(
        candidates,
        counts=candidates.counts[list(places)],
        names=tuple(candidates.names[place] for place in places),
        weights=tuple(candidates.weights[place] for place in places),
    )


def _chosen(candidates: Candidates, room: Room) -> Array:
    return most_covered(candidates, room).chosen


def _share(counts: Array, chosen: Array) -> float:
    total = float(counts.sum(dtype=np.float64))
    return float(counts[chosen].sum(dtype=np.float64)) / total if total else 0.0


def _uniform(candidates: Candidates, number: int) -> Array:
    """Returns experts 0, 1, … of each layer, as many in all; the remainder goes to the first layers."""
    each, more = divmod(number, len(candidates.layers))
    most = each + (np.arange(len(candidates.layers)) < more)
    return np.asarray(candidates.expert < most[candidates.layer])


def _of_one(candidates: Candidates, name: str, counts: Array) -> Candidates:
    return replace(candidates, counts=counts[None], names=(name,), weights=(1.0,))


def _earlier(candidates: Candidates, workload: Workload) -> tuple[Candidates, Array, Halves] | None:
    """Returns the earlier part to choose from, the counts of the later one, and how the recording was cut."""
    halves = workload.halves
    if halves is None:
        return None
    first, second = np.concatenate(halves.first), np.concatenate(halves.second)
    if not first.any() or not second.any():
        return None
    return _of_one(candidates, workload.name, first), second, halves


def _later(earlier: Candidates, later: Array, halves: Halves, room: Room) -> LaterHalf | None:
    try:
        chosen = _chosen(earlier, room)
    except NoAnswerError:
        return None
    return LaterHalf(_share(later, chosen), halves.where, halves.in_order)


def _notes(engine: ExpertEngine, share: float) -> list[str]:
    found = []
    if engine.name == "ktransformers":
        side = "below" if share < DYNAMIC_BETTER_BELOW else "not below"
        found.append(
            f"{share:.0%} of the experts are on the GPU, {side} the 60 % under which KTransformers' own run-time "
            "update (--kt-enable-dynamic-expert-update) was faster than any fixed set in the one published measurement "
            "(KTransformers, experts-sched-Tutorial.md: Qwen3-Next-80B, four RTX 4090)"
        )
    if engine.name == "exllamav3":
        found.append("exllamav3 goes on swapping experts at run time unless EXL3_MOE_CPU_SWAP=0")
    found.append(
        f"break-even was {BREAK_EVEN:.1%} covered in the one published measurement (adrianhoehne/llama.cpp, RTX 2060: "
        "22.2 tokens/s without a cache, 26.1 at 62.5 % covered); another GPU, model or engine has another"
    )
    return found
