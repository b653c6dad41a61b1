"""The communication constraint of a request: the fewest hot units that a split layer may have, given or derived."""

from __future__ import annotations

from planner.base.errors import InputError
from planner.base.record import Record
from planner.placement.problem import split_threshold


class ThresholdRule(Record):
    """The fewest hot neurons that a split layer may have, C_l of the paper: given, derived, or off.

    Attributes:
        neurons: the number for every layer, or None.
        sync_s: T_sync, seconds; with the two bandwidths C_l is derived for each layer (`split_threshold`).
        gpu_bytes_per_s: GPU memory bandwidth.
        host_bytes_per_s: host memory bandwidth.
    """

    neurons: int | None = None
    sync_s: float | None = None
    gpu_bytes_per_s: float | None = None
    host_bytes_per_s: float | None = None

    @classmethod
    def from_options(
        cls,
        *,
        neurons: int | None,
        sync_us: float | None,
        gpu_gb_per_s: float | None,
        host_gb_per_s: float | None,
    ) -> ThresholdRule:
        """Returns the rule that the command's options describe (microseconds, and GB/s as in data sheets).

        Raises:
            InputError: the threshold is given and derived, or one of the three figures to derive it from is missing.
        """
        derived = {"--sync-time": sync_us, "--gpu-bandwidth": gpu_gb_per_s, "--host-bandwidth": host_gb_per_s}
        given = [name for name, value in derived.items() if value is not None]
        if given and neurons is not None:
            raise InputError(f"--threshold and {given[0]}: give the threshold or what to derive it from, not both")
        if sync_us is None or gpu_gb_per_s is None or host_gb_per_s is None:
            if given:
                missing = ", ".join(name for name, value in derived.items() if value is None)
                raise InputError(f"{given[0]}: a derived threshold also needs {missing}")
            return cls(neurons=neurons)
        return cls(sync_s=sync_us / 1e6, gpu_bytes_per_s=gpu_gb_per_s * 1e9, host_bytes_per_s=host_gb_per_s * 1e9)

    def for_layers(self, neuron_bytes: tuple[int, ...], n_ff: tuple[int, ...]) -> tuple[int, ...] | None:
        """Returns C_l of each layer, or None when there are no thresholds."""
        if self.neurons is not None:
            return (self.neurons,) * len(n_ff)
        if self.sync_s is None or self.gpu_bytes_per_s is None or self.host_bytes_per_s is None:
            return None
        return tuple(
            split_threshold(
                size_bytes,
                neurons,
                gpu_bytes_per_s=self.gpu_bytes_per_s,
                host_bytes_per_s=self.host_bytes_per_s,
                sync_s=self.sync_s,
            )
            for size_bytes, neurons in zip(neuron_bytes, n_ff, strict=True)
        )
