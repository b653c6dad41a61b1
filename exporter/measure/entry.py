"""Writes what was measured as entries that a study can name (`hosts: measured.yaml`), each figure with its source."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from exporter.measure.gpu import GpuFound
from exporter.measure.host import HostFound

FIRST_LINE = "# Measured by hotsplit. In a study: hosts: FILE, and gpus: FILE where there is a GPU."


def as_yaml(host: HostFound, memory_bytes: int | None, arithmetic: Mapping[str, float], gpu: GpuFound | None) -> str:
    """Returns the text of the file.

    Args:
        host: what was measured of the host.
        memory_bytes: how much memory it has; None where the system does not say.
        arithmetic: bytes per second and core by type, from logs of the engine.
        gpu: what was measured of the GPU; None where there is none.
    """
    lines = [FIRST_LINE, "hosts:", "  measured-host:", f"    title: this machine, {host.cores} cores"]
    lines += [f"    bandwidth: {_rate(host.all_stream_bytes_per_s)}", "    efficiency: 1"]
    figures = ["bandwidth", "efficiency", "cores", "core_bandwidth", "gather"]
    if memory_bytes:
        lines.append(f"    memory: {memory_bytes}B")
        figures.append("memory")
    lines += [f"    cores: {host.cores}", f"    core_bandwidth: {_rate(host.one_stream_bytes_per_s)}", "    gather:"]
    lines += [
        f"      - {{row: {row.row_bytes}B, share: {row.share:g}, core: {_rate(row.one_bytes_per_s)}, "
        f"all: {_rate(row.all_bytes_per_s)}}}"
        for row in host.gather
    ]
    if arithmetic:
        figures.append("arithmetic")
        lines.append("    arithmetic:")
        lines += [f"      {kind}: {_rate(rate)}" for kind, rate in arithmetic.items()]
    lines += _sources(figures)
    if gpu is not None:
        name = re.sub(r"[^A-Za-z0-9]+", "-", gpu.name).strip("-").lower()[:60] or "gpu"
        lines += ["gpus:", f"  {name}-measured:", f"    title: {json.dumps(gpu.name[:200])}"]
        # CUDA's total: what the driver keeps is not in it.
        lines += [
            f"    vram: {gpu.total_bytes}B",
            "    reserved: 0B",
            f"    bandwidth: {_rate(gpu.read_bytes_per_s)}",
            "    efficiency: 1",
        ]
        lines.append(f"    link: {_rate(gpu.link_bytes_per_s)}")
        figures = ["vram", "reserved", "bandwidth", "efficiency", "link"]
        if gpu.context_bytes is not None:
            lines.append(f"    context: {gpu.context_bytes}B")
            figures.append("context")
        lines += _sources(figures)
    return "\n".join(lines) + "\n"


def _sources(figures: Sequence[str]) -> list[str]:
    return [
        "    sources:",
        f"      - figures: [{', '.join(figures)}]",
        "        source: hotsplit measure, on the machine itself",
        "        confidence: high",
    ]


def _rate(bytes_per_s: float) -> str:
    """Returns a rate as files write it, to 10 MB/s and never 0."""
    return f"{max(bytes_per_s / 1e9, 0.01):.2f} GB/s"
