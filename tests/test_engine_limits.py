from __future__ import annotations

from planner.engine_limits import FFN_TYPES, neuron_step


def test_only_q4_0_comes_in_blocks() -> None:
    assert {name: neuron_step(name) for name in (*FFN_TYPES, "Q8_0")} == {"F16": 1, "Q4_0": 256, "Q8_0": 1}
