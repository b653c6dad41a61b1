from __future__ import annotations

from planner.engines.powerinfer.kernel_limits import FFN_TYPES, neuron_step


def test_neurons_come_in_steps_that_every_kernel_computes() -> None:
    assert {name: neuron_step(name) for name in (*FFN_TYPES, "Q8_0")} == {"F16": 32, "Q4_0": 256, "Q8_0": 32}
