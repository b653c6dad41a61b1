"""Tangents to the layers' curves: the outer approximation that the solver is given instead of every neuron."""

from __future__ import annotations

import numpy as np

from planner.activations.hotness import Ints
from planner.placement.lagrangian import Curves


class Tangents:
    """Where each layer's curve is touched. A tangent lies along one step, so with every step the curve is exact.

    Attributes:
        layers: the layers that have steps at all.
    """

    def __init__(self, curves: Curves) -> None:
        self.layers: tuple[int, ...] = tuple(np.flatnonzero(curves.steps).tolist())
        self._curves = curves
        self._least = curves.first
        # Above C_l = n_l there is one count only; its line is flat.
        self._last = np.maximum(curves.steps - 1, curves.first)
        self._steps: list[set[int]] = [set() for _ in range(curves.steps.size)]

    def add(self, positions: Ints) -> bool:
        """Adds for each layer the step that begins at a position, shape (layers,); returns whether any was new."""
        known = sum(map(len, self._steps))
        for touched, position in zip(self._steps, np.clip(positions, self._least, self._last).tolist(), strict=True):
            touched.add(position)
        return sum(map(len, self._steps)) > known

    def add_at(self, positions: Ints) -> bool:
        """Adds the steps on both sides of a position of each layer; returns whether any was new."""
        before = self.add(positions - 1)
        return self.add(positions) or before

    def add_around(self, positions: Ints) -> None:
        """Adds steps at a position of each layer and farther and farther away from it on both sides."""
        self.add(positions)
        reach = 1
        while reach < 4 * int(self._curves.steps.max(initial=0)):
            self.add(positions - reach)
            self.add(positions + reach)
            reach *= 4

    def add_all(self) -> None:
        """Adds every step there is: the approximation becomes exact."""
        for touched, least, last in zip(self._steps, self._least.tolist(), self._last.tolist(), strict=True):
            touched.update(range(least, last + 1))

    def lines(self) -> list[list[tuple[float, float]]]:
        """Returns for each of `layers` its lines: slope in activations a neuron, and rest in activations."""
        curves = self._curves
        which = np.array([layer for layer in self.layers for _ in self._steps[layer]], dtype=np.int64)
        steps = np.array([step for layer in self.layers for step in sorted(self._steps[layer])], dtype=np.int64)
        neurons = np.minimum(steps * curves.width[which], curves.n_ff[which])
        covered = curves.hotness.covered_in(which, neurons)
        inside = np.minimum(curves.start[which] + steps, curves.density.size - 1)
        slope = np.where(steps < curves.steps[which], curves.density[inside].astype(np.float64), 0.0)
        # A concave curve through zero meets the axis at zero or above; rounding must not make it less.
        rest = np.maximum(covered - slope * neurons, 0.0)
        pairs = iter(zip(slope.tolist(), rest.tolist(), strict=True))
        return [[next(pairs) for _ in self._steps[layer]] for layer in self.layers]
