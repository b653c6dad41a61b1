"""Export where torch cannot be imported: no error where no GPU can be used, and the same bytes as torch selects."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from exporter.demo.folder import write_demo

if TYPE_CHECKING:
    from tests.conftest import NvmlStandIn

_ROOT = Path(__file__).resolve().parent.parent
_WHY = "it was taken away"
_GPU = "gpu\tuuid=GPU-1\tname=NVIDIA GeForce RTX 4090\tdomain=0\tbus=1\tdevice=0\ttotal=25757220864\tfree=20000000000\n"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(tmp_path_factory.mktemp("demo")).model


@pytest.fixture
def variables(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which importing torch fails."""
    folder = tmp_path / "in the way"
    folder.mkdir()
    (folder / "torch.py").write_text(f"raise ImportError({_WHY!r})", encoding="utf-8")
    return {"PYTHONPATH": f"{folder}{os.pathsep}{_ROOT}"}


def run(variables: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        env=os.environ | variables,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )


def buckets_of(index: Path, n_layer: int) -> list[list[int]]:
    """Returns what follows the header, layer by layer: read with `struct` and numpy alone."""
    data = index.read_bytes()
    found = []
    for layer in range(n_layer):
        name = f"blk.{layer}.gpu_bucket".encode()
        at = data.index(struct.pack("<Q", len(name)) + name) + 8 + len(name)
        _, length, _, offset = struct.unpack_from("<IQIQ", data, at)
        found.append((length, offset))
    last_length, last_offset = found[-1]
    start = len(data) - (last_offset + -(-4 * last_length // 32) * 32)
    return [np.frombuffer(data, "<i4", length, start + offset).tolist() for length, offset in found]


def hottest_by_torch(model: Path, counts: list[int]) -> list[list[int]]:
    """Returns the answer of a stable sort by torch, which takes equals in the order of their numbers."""
    return [
        sorted(
            torch.load(model.parent / "activation" / f"activation_{layer}.pt")
            .sort(descending=True, stable=True)
            .indices[:count]
            .tolist()
        )
        for layer, count in enumerate(counts)
    ]


@pytest.mark.parametrize(
    ("device", "visible"), [("cpu", None), ("auto", "")], ids=["--device cpu", "CUDA_VISIBLE_DEVICES="]
)
def test_export_needs_no_torch_where_no_gpu_is_used(
    model: Path, variables: dict[str, str], tmp_path: Path, device: str, visible: str | None
) -> None:
    if visible is not None:
        variables["CUDA_VISIBLE_DEVICES"] = visible
    index = tmp_path / "x.gpuidx"
    options = ["--model", str(model), "--vram-budget", "8GiB", "--reserve", "0B", "--granularity", "1"]
    done = run(variables, "exporter", "export", *options, "--device", device, "--output", str(index))
    assert (done.returncode, done.stderr) == (0, "")
    n_layer = len(list((model.parent / "activation").glob("*.pt")))
    buckets = buckets_of(index, n_layer)
    assert any(buckets)
    assert buckets == hottest_by_torch(model, [len(bucket) for bucket in buckets])


def test_the_engine_s_call_needs_no_torch(model: Path, variables: dict[str, str], tmp_path: Path) -> None:
    activations = model.parent / "activation"
    layers = [torch.load(path) for path in activations.glob("*.pt")]
    index = tmp_path / "x.gpuidx"
    options = ["--activation", str(activations), "--layer", str(len(layers)), "--neuron", str(len(layers[0]))]
    options += ["--capacity", "300", "--vram-capacity", "1000000", "--output", str(index)]
    done = run(variables, "exporter.powerinfer.drop_in", *options)
    assert done.returncode == 0, done.stderr
    assert "torch" not in done.stderr
    buckets = buckets_of(index, len(layers))
    assert any(buckets)
    assert buckets == hottest_by_torch(model, [len(bucket) for bucket in buckets])


def test_where_a_gpu_is_torch_is_asked_and_its_absence_is_said(
    model: Path, variables: dict[str, str], tmp_path: Path, nvml: NvmlStandIn
) -> None:
    environment = nvml.environment(_GPU, **variables)
    options = ["export", "--model", str(model), "--vram-budget", "8GiB", "--reserve", "0B"]
    with_gpu = [tmp_path / "auto.gpuidx", tmp_path / "cpu.gpuidx"]
    done = run(environment, "exporter", *options, "--output", str(with_gpu[0]))
    assert (done.returncode, done.stderr) == (
        0,
        f"hotsplit: note: torch cannot be imported ({_WHY}), so the CPU selects neurons, with the same result\n",
    )
    done = run(environment, "exporter", *options, "--device", "cpu", "--output", str(with_gpu[1]))
    assert (done.returncode, done.stderr) == (0, "")
    assert with_gpu[0].read_bytes() == with_gpu[1].read_bytes()
    done = run(environment, "exporter", *options, "--device", "cuda", "--output", str(tmp_path / "none.gpuidx"))
    assert (done.returncode, done.stderr) == (
        2,
        f"hotsplit: error: device 'cuda' was asked for but torch cannot be imported ({_WHY}); use --device cpu or "
        "install torch\n",
    )
    assert not (tmp_path / "none.gpuidx").exists()
