"""Which tensors of the files fill a weight, where the files hold it in parts or under another name.

transformers 5 keeps the experts of a layer in one weight, files hold each expert by itself: `experts.3.up_proj.weight`
is rows of `experts.gate_up_proj`. Parts are read straight into their places, so no expert is in memory twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING

from planner.base.record import Record

if TYPE_CHECKING:
    import torch


class Rename(Record):
    """A name in the files that differs from the model's.

    Attributes:
        pattern: a regular expression, found anywhere in the name.
        name: what stands there in the model.
    """

    pattern: str
    name: str


class Join(Record):
    """Weights of single experts that the model keeps as one.

    Attributes:
        sources: how the names of an expert's weights end in the files, `*` for its number; in the order of their rows.
        target: how the name of the model's weight ends, [experts, rows of all sources, columns].
    """

    sources: tuple[str, ...]
    target: str


class Part(Record):
    """A tensor of the files and where it goes.

    Attributes:
        stored: its name in the files.
        expert: number of its expert; None for a weight that the files hold as one.
        source: which of the weights that are joined for an expert it is, from 0.
        n_sources: how many these are.
    """

    stored: str
    expert: int | None = None
    source: int = 0
    n_sources: int = 1

    def place(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns the part of `weight` that it fills, contiguous as `weight` is."""
        if self.expert is None:
            return weight
        rows = weight.shape[1] // self.n_sources
        return weight[self.expert, self.source * rows : (self.source + 1) * rows]


def find_parts(
    stored: Iterable[str], shapes: Mapping[str, Sequence[int]], prefix: str, rules: Sequence[Rename | Join]
) -> dict[str, tuple[Part, ...]]:
    """Returns what fills each weight of a model; weights that nothing or not everything is found for are left out.

    Args:
        stored: names of the tensors in the files.
        shapes: shape of each weight of the model by its name.
        prefix: what may stand before the model's names in the files.
        rules: how names and parts in the files differ from the model's.
    """
    whole: dict[str, Part] = {}
    joined: dict[str, dict[tuple[int, int], Part]] = {}
    for name in stored:
        own = name.removeprefix(prefix)
        if own not in shapes:
            for rule in rules:
                if isinstance(rule, Rename):
                    own = re.sub(rule.pattern, rule.name, own)
        if own in shapes:
            whole.setdefault(own, Part(name))
            continue
        for target, part in _parts(name, own, rules):
            assert part.expert is not None
            joined.setdefault(target, {})[part.expert, part.source] = part
    found: dict[str, tuple[Part, ...]] = {name: (part,) for name, part in whole.items()}
    for target, parts in joined.items():
        if target in whole or target not in shapes:
            continue
        shape, n_sources = shapes[target], next(iter(parts.values())).n_sources
        if len(shape) != 3 or shape[1] % n_sources or len(parts) != shape[0] * n_sources:
            continue
        if {*parts} == {*product(range(shape[0]), range(n_sources))}:
            found[target] = tuple(parts[key] for key in sorted(parts))
    return found


def _parts(name: str, own: str, rules: Sequence[Rename | Join]) -> Iterable[tuple[str, Part]]:
    for rule in rules:
        if not isinstance(rule, Join):
            continue
        for number, source in enumerate(rule.sources):
            # No file has a billion experts; a longer number is a name that somebody made up.
            pattern = re.escape(source).replace(r"\*", "([0-9]{1,9})") + "$"
            if match := re.search(pattern, own):
                yield own[: match.start()] + rule.target, Part(name, int(match[1]), number, len(rule.sources))
