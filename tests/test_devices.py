"""`hotsplit devices` as a process, on the compiled stand-in for NVML."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.commands import rows_of
from tests.json_schemas import checked

if TYPE_CHECKING:
    from tests.conftest import NvmlStandIn

_ROOT = Path(__file__).resolve().parent.parent
_GIB = 1 << 30
_UUIDS = ("GPU-8932f937-d72c-4106-c12f-20bd9faed9f6", "GPU-1b2c3d4e-1111-2222-3333-444455556666")
_INSTEAD = "or give the budget yourself: --vram-budget 8GiB"

# The kind of machine that runs the tests must not show: files that tell it are looked for where there are none.
_MAIN = """
import pathlib, sys
from planner.base import machine
machine.ROOT = pathlib.Path("/nonexistent")
from planner.cli.run import build_parser, run_command
from planner.commands import devices
sys.exit(run_command(build_parser("hotsplit", "", [devices])))
"""


def _gpu(number: int, name: str = "NVIDIA GeForce RTX 4090", **fields: object) -> str:
    free, total, bus = (20 + number) * _GIB, 24 * _GIB, number + 1
    line = f"gpu\tuuid={_UUIDS[number]}\tname={name}\tdomain=0\tbus={bus}\tdevice=0\ttotal={total}\tfree={free}\tcc=89"
    return line + "".join(f"\t{key}={value}" for key, value in fields.items()) + "\n"


_TWO = "driver\tversion=580.65.06\n" + _gpu(0) + _gpu(1)


def _run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", _MAIN, "devices", *arguments],
        env={"COLUMNS": "200", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )


def _json(environment: dict[str, str]) -> dict[str, Any]:
    done = _run(environment, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told: dict[str, Any] = checked(done.stdout)
    return told


def test_json_has_bytes_identity_and_visibility(nvml: NvmlStandIn) -> None:
    told = _json(nvml.environment(_TWO, CUDA_VISIBLE_DEVICES="1"))
    assert told["gpus"] == [
        {
            "index": number,
            "name": "NVIDIA GeForce RTX 4090",
            "uuid": _UUIDS[number],
            "free_bytes": (20 + number) * _GIB,
            "total_bytes": 24 * _GIB,
            "used_bytes": 0,
            "basis": "NVML v2",
            "cuda_visible": number == 1,
            "cuda_ordinal": {0: None, 1: 0}[number],
            "compute_capability": "8.9",
            "pci_bus_id": f"00000000:0{number + 1}:00.0",
            "mig_enabled": False,
            "mig_parent": None,
            "mig_index": None,
        }
        for number in (0, 1)
    ]
    assert told["engine_gpu"] == _UUIDS[1]
    assert (told["driver_version"], told["cuda_visible_devices"], told["trouble"]) == ("580.65.06", "1", None)
    assert (told["faults"], told["notes"], told["cuda_order_known"]) == ([], [], True)
    assert told["engine_gpu_index"] == 1
    assert told["host"]["total_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_the_table(nvml: NvmlStandIn) -> None:
    done = _run(nvml.environment(_TWO, CUDA_VISIBLE_DEVICES=_UUIDS[1]))
    assert (done.returncode, done.stderr) == (0, "")
    assert "NVIDIA driver 580.65.06" in done.stdout
    assert rows_of(done.stdout) == [
        ["0", "NVIDIA GeForce RTX 4090", _UUIDS[0], "20.00 GiB", "24.00 GiB", "not visible", "NVML v2"],
        ["1", "NVIDIA GeForce RTX 4090", _UUIDS[1], "21.00 GiB", "24.00 GiB", "device 0, the engine's", "NVML v2"],
    ]
    assert done.stdout.splitlines()[-1].startswith("host memory: ")


def test_mig_devices_and_a_fault_are_shown(nvml: NvmlStandIn) -> None:
    scenario = (
        "driver\tversion=580.65.06\n"
        + _gpu(0, "NVIDIA H100", mig=1)
        + f"mig\tuuid=MIG-1\tname=NVIDIA H100 MIG 1g.10gb\ttotal={10 * _GIB}\tfree={9 * _GIB}\n"
        + _gpu(1, handle=15)
    )
    done = _run(nvml.environment(scenario))
    lost = f"GPU 1: the GPU is lost (it fell off the bus); restart the machine, {_INSTEAD}"
    assert done.stdout.count(lost) == 1
    rows = {row[0]: row for row in rows_of(done.stdout)}
    assert "only its MIG devices" in rows["0"]
    assert "device 0, the engine's" in rows["0:0"]
    assert "9.00 GiB" in rows["0:0"]


def test_a_guessed_order_is_called_guessed(nvml: NvmlStandIn) -> None:
    scenario = _gpu(0, cores=16384, clock=2520) + _gpu(1, "NVIDIA GeForce RTX 3060", cores=3584, clock=2100)
    done = _run(nvml.environment(scenario))
    assert "device 0, the engine's (guessed)" in done.stdout
    assert "is only guessed: GPU 0 (NVIDIA GeForce RTX 4090)" in done.stdout
    assert _json(nvml.environment(scenario))["cuda_order_known"] is False


@pytest.mark.parametrize(
    ("scenario", "variables", "trouble"),
    [
        (
            "driver\tinit=9\n",
            {},
            f"the NVIDIA driver is not loaded; load it (modprobe nvidia) or restart the machine, {_INSTEAD}",
        ),
        (
            "driver\tversion=580.65.06\n",
            {},
            "the NVIDIA driver 580.65.06 is there but finds no GPU; check the machine with nvidia-smi, " + _INSTEAD,
        ),
        (
            _TWO,
            {"CUDA_VISIBLE_DEVICES": ""},
            "CUDA_VISIBLE_DEVICES='' leaves CUDA no GPU, so the engine would offload nothing; "
            f"set it to {_UUIDS[0]}, {_UUIDS[1]}, {_INSTEAD}",
        ),
    ],
)
def test_no_gpu_is_an_answer(nvml: NvmlStandIn, scenario: str, variables: dict[str, str], trouble: str) -> None:
    environment = nvml.environment(scenario, **variables)
    done = _run(environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert trouble in done.stdout.splitlines()
    assert done.stdout.splitlines()[-1].startswith("host memory: ")
    assert _json(environment)["trouble"] == trouble


def test_control_characters_in_a_name_are_not_sent_to_the_terminal(nvml: NvmlStandIn) -> None:
    done = _run(nvml.environment(_gpu(0, "evil\x1b[2Jname")))
    assert "\x1b" not in done.stdout
    assert "evil\\x1b[2Jname" in done.stdout


def test_a_gpu_whose_uuid_is_no_text_is_shown_without_one(nvml: NvmlStandIn) -> None:
    environment = nvml.environment(_gpu(0).replace(_UUIDS[0], "\udcf8\udc81"))
    assert [row[2] for row in rows_of(_run(environment).stdout)] == ["unknown"]
    told = _json(environment)
    assert (told["gpus"][0]["uuid"], told["engine_gpu"], told["engine_gpu_index"]) == (None, None, 0)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from planner.commands import devices\n"
        "from planner.cli.run import build_parser\n"
        "try:\n    build_parser('hotsplit', '', [devices]).parse_args(['devices', '--help'])\n"
        "except SystemExit as done:\n    assert done.code == 0\n"
        "print([name for name in ('numpy', 'torch', 'pynvml', 'rich') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "CUDA_VISIBLE_DEVICES=1 hotsplit devices --json" in done.stdout
