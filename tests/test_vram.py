"""`planner.hardware.vram` through the real Python binding, on a compiled stand-in for NVML and on the real one."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.hardware.vram import MemoryBasis, NoGpuError, choose_gpu, survey

if TYPE_CHECKING:
    from tests.conftest import NvmlStandIn

_ROOT = Path(__file__).resolve().parent.parent
_MIB = 1 << 20
_GIB = 1 << 30
_INSTEAD = "or give the budget yourself: --vram-budget 8GiB"

_UUIDS = (
    "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6",
    "GPU-8932f9aa-0000-4106-c12f-20bd9faed9f6",
    "GPU-1b2c3d4e-1111-2222-3333-444455556666",
)
_SLICES = ("MIG-aaaaaaaa-1111-5222-8333-444455556666", "MIG-aabbbbbb-1111-5222-8333-444455556666")


def _line(kind: str, **fields: object) -> str:
    return "\t".join([kind, *(f"{name}={value}" for name, value in fields.items())]) + "\n"


def _gpu(number: int = 0, **changes: object) -> str:
    fields: dict[str, object] = {
        "uuid": _UUIDS[number],
        "name": "NVIDIA GeForce RTX 4060 Ti",
        "domain": 0,
        "bus": number + 1,
        "device": 0,
        "total": 8 * _GIB,
        "reserved": 300 * _MIB,
        "free": (7 - number) * _GIB,
        "used": 724 * _MIB,
        "cores": 4352,
        "clock": 3105,
        "cc": 89,
        "mig": 0,
    }
    fields.update(changes)
    return _line("gpu", **{name: value for name, value in fields.items() if value is not None})


def _slice(number: int, **changes: object) -> str:
    fields: dict[str, object] = {
        "uuid": _SLICES[number],
        "name": "NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        "total": 10 * _GIB,
        "reserved": 0,
        "free": (9 - number) * _GIB,
        "used": _GIB,
        "gi": 7 + number,
        "ci": 0,
    }
    return _line("mig", **(fields | changes))


_DRIVER = _line("driver", version="580.65.06")
_TWO = _DRIVER + _gpu(0) + _gpu(1)
_THREE = _TWO + _gpu(2)
_MIG = _DRIVER + _gpu(0, name="NVIDIA A100-SXM4-80GB", total=80 * _GIB, free=70 * _GIB, mig=1) + _slice(0) + _slice(1)


def _ordinals(nvml: NvmlStandIn, scenario: str, **environment: str) -> list[str]:
    """Returns the UUIDs that CUDA sees, in its order."""
    gpus = nvml.ask(scenario, "list_gpus", environment=environment)["answer"]
    seen = sorted((gpu["cuda_ordinal"], gpu["uuid"]) for gpu in gpus if gpu["cuda_ordinal"] is not None)
    assert [ordinal for ordinal, _ in seen] == list(range(len(seen)))
    return [uuid for _, uuid in seen]


def _note_of(nvml: NvmlStandIn, scenario: str, *selector: str, **environment: str) -> tuple[str, list[str]]:
    gpu = nvml.ask(scenario, "choose_gpu", *selector, environment=environment)["answer"]
    return gpu["uuid"], gpu["notes"]


def _refusal(nvml: NvmlStandIn, scenario: str, *selector: str, **environment: str) -> tuple[str, str]:
    told = nvml.ask(scenario, "choose_gpu", *selector, environment=environment)
    return told["error"], told["message"]


# ---- what NVML tells ------------------------------------------------------------------------------------------------


def test_every_field_of_two_gpus(nvml: NvmlStandIn) -> None:
    told = nvml.ask(_TWO, "survey")["answer"]
    assert told["driver_version"] == "580.65.06"
    assert told["cuda_visible_devices"] is None
    assert told["cuda_order_known"] is True
    assert told["faults"] == []
    assert told["gpus"][0] == {
        "index": 0,
        "name": "NVIDIA GeForce RTX 4060 Ti",
        "uuid": _UUIDS[0],
        "total_bytes": 8 * _GIB,
        "free_bytes": 7 * _GIB,
        "used_bytes": 724 * _MIB,
        "basis": "NVML v2",
        "cuda_ordinal": 0,
        "compute_capability": [8, 9],
        "pci_bus_id": "00000000:01:00.0",
        "mig_enabled": False,
        "mig_parent": None,
        "mig_index": None,
        "mig_instance": None,
        "notes": [],
    }
    assert [(gpu["index"], gpu["uuid"], gpu["free_bytes"]) for gpu in told["gpus"]] == [
        (0, _UUIDS[0], 7 * _GIB),
        (1, _UUIDS[1], 6 * _GIB),
    ]


def test_figures_above_four_gib_survive_the_interface(nvml: NvmlStandIn) -> None:
    odd = _gpu(total=150_754_820_097, free=150_111_222_333, used=643_597_764)
    (gpu,) = nvml.ask(odd, "list_gpus")["answer"]
    assert (gpu["total_bytes"], gpu["free_bytes"]) == (150_754_820_097, 150_111_222_333)
    assert gpu["used_bytes"] == 643_597_764


def test_a_library_without_version_2_memory(
    compile_nvml: Callable[..., Path], load_nvml: Callable[[Path], NvmlStandIn]
) -> None:
    old = load_nvml(compile_nvml("-DWITHOUT_MEMORY_V2"))
    (gpu,) = old.ask(_gpu(), "list_gpus")["answer"]
    assert gpu["basis"] == "NVML v1"
    assert (gpu["total_bytes"], gpu["free_bytes"]) == (8 * _GIB, 7 * _GIB)
    assert gpu["used_bytes"] == 1024 * _MIB  # version 1 counts what the driver reserves


def test_what_nvml_does_not_tell_is_none(nvml: NvmlStandIn) -> None:
    bare = _gpu(name=None, bus=None, cores=None, clock=None, cc=None, mig=None)
    told = nvml.ask(bare, "survey")["answer"]
    (gpu,) = told["gpus"]
    assert told["driver_version"] is None
    assert (gpu["name"], gpu["compute_capability"], gpu["pci_bus_id"]) == ("unnamed GPU", None, None)
    assert (gpu["mig_enabled"], gpu["cuda_ordinal"], gpu["free_bytes"]) == (False, 0, 7 * _GIB)


def test_nvml_is_started_and_shut_down_by_every_question(nvml: NvmlStandIn) -> None:
    nvml.ask(_TWO, "survey")
    nvml.log.write_text("", encoding="utf-8")
    nvml.ask(_TWO, "survey")
    nvml.ask(_line("driver", count=999) + _gpu(), "survey")
    nvml.ask(_DRIVER + _gpu(handle=15), "choose_gpu")
    assert nvml.log.read_text(encoding="utf-8").split() == ["init", "shutdown"] * 3


def test_importing_the_module_does_not_import_the_binding() -> None:
    code = "import sys, planner.hardware.vram; print('pynvml' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_the_deprecated_packages_warning_is_not_shown(nvml: NvmlStandIn, tmp_path: Path) -> None:
    import pynvml

    # The shim's hook lets every import of the real binding warn first.
    warn = "import warnings\nwarnings.warn('The pynvml package is deprecated.', FutureWarning)\n"
    source = Path(str(pynvml.__file__)).read_text(encoding="utf-8")
    (tmp_path / "pynvml.py").write_text(warn + source, encoding="utf-8")
    environment = nvml.environment(_TWO)
    environment["PYTHONPATH"] = f"{tmp_path}:{environment['PYTHONPATH']}"
    code = "import planner.hardware.vram as v; print(len(v.list_gpus()), __import__('pynvml').__file__)"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == (f"2 {tmp_path / 'pynvml.py'}\n", "")


# ---- no figure ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (
            4,
            "insufficient permission; let this user read the /dev/nvidia* devices "
            "(or start the container with the GPU)",
        ),
        (9, "the NVIDIA driver is not loaded; load it (modprobe nvidia) or restart the machine"),
        (10, "the driver did not answer in time; try again, restart the machine if it stays so"),
        (15, "the GPU is lost (it fell off the bus); restart the machine"),
        (16, "the GPU needs a reset; reset it (nvidia-smi --gpu-reset) or restart the machine"),
        (17, "the operating system blocks the request; check the sandbox's or container's rules"),
        (
            18,
            "the driver's library and kernel module have different versions; "
            "restart the machine, as after every driver update",
        ),
        (999, "NVML says Unknown Error (code 999); look at what nvidia-smi says"),
        (77, "NVML says Stand-in Error (code 77); look at what nvidia-smi says"),
    ],
)
def test_a_library_that_does_not_start(nvml: NvmlStandIn, code: int, message: str) -> None:
    scenario = _line("driver", init=code) + _gpu()
    assert _refusal(nvml, scenario) == ("NoGpuError", f"{message}, {_INSTEAD}")
    assert nvml.ask(scenario, "list_gpus")["message"] == f"{message}, {_INSTEAD}"


def test_a_library_that_cannot_count(nvml: NvmlStandIn) -> None:
    assert _refusal(nvml, _line("driver", count=999) + _gpu()) == (
        "NoGpuError",
        f"NVML cannot count the GPUs: NVML says Unknown Error (code 999); look at what nvidia-smi says, {_INSTEAD}",
    )


def test_no_library(tmp_path: Path, load_nvml: Callable[[Path], NvmlStandIn]) -> None:
    # An empty file stops the search for the name, also on a machine that has the real library.
    (tmp_path / "libnvidia-ml.so.1").touch()
    if not sys.platform.startswith("linux"):
        pytest.skip("the library is searched for as Linux does")
    bare = load_nvml(tmp_path)
    assert _refusal(bare, _TWO) == (
        "NoGpuError",
        f"no NVIDIA driver: libnvidia-ml.so.1 is not found; install the driver, {_INSTEAD}",
    )


def _lay(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    return root


_WSL_FILES = {"proc/version": "Linux version 6.6.87.2-microsoft-standard-WSL2 (gcc) #1 SMP\n"}
_WITH_GPU = "start the container with the GPU (docker run --gpus all, with the NVIDIA Container Toolkit on the host)"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            _WSL_FILES,
            "no NVIDIA driver: libnvidia-ml.so.1 is not found; install NVIDIA's driver in Windows, not inside Linux, "
            "then run wsl --shutdown",
        ),
        (
            {"usr/lib/wsl/lib/libnvidia-ml.so.1": ""},
            "libnvidia-ml.so.1 is in /usr/lib/wsl/lib, where the loader does not look; set "
            "LD_LIBRARY_PATH=/usr/lib/wsl/lib",
        ),
        (
            {"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n"},
            "no NVIDIA driver: libnvidia-ml.so.1 is not found; there is none to install: Jetson's older releases have "
            "no NVML; update JetPack",
        ),
        ({".dockerenv": ""}, f"no NVIDIA driver: libnvidia-ml.so.1 is not found; {_WITH_GPU}"),
    ],
)
def test_no_library_where_the_driver_comes_from_elsewhere(
    tmp_path: Path, load_nvml: Callable[[Path], NvmlStandIn], files: dict[str, str], message: str
) -> None:
    (tmp_path / "libnvidia-ml.so.1").touch()
    bare = load_nvml(tmp_path)
    told = bare.ask(_TWO, "choose_gpu", root=_lay(tmp_path / "root", files))
    assert (told["error"], told["message"]) == ("NoGpuError", f"{message}, {_INSTEAD}")


@pytest.mark.parametrize(
    ("files", "code", "message"),
    [
        (
            _WSL_FILES,
            17,
            "the operating system blocks the request; update NVIDIA's driver in Windows, not inside Linux, then run "
            "wsl --shutdown",
        ),
        (
            _WSL_FILES,
            9,
            "the NVIDIA driver is not loaded; update NVIDIA's driver in Windows, not inside Linux, then run wsl "
            "--shutdown",
        ),
        ({"run/.containerenv": ""}, 9, f"the NVIDIA driver is not loaded; load it on the host, then {_WITH_GPU}"),
        (
            {"run/.containerenv": ""},
            18,
            "the driver's library and kernel module have different versions; start the container again, and restart "
            "the host if it stays so, as after every driver update",
        ),
        # What is the same everywhere.
        (_WSL_FILES, 15, "the GPU is lost (it fell off the bus); restart the machine"),
    ],
)
def test_remedies_are_those_of_the_machine(
    nvml: NvmlStandIn, tmp_path: Path, files: dict[str, str], code: int, message: str
) -> None:
    told = nvml.ask(_line("driver", init=code) + _gpu(), "choose_gpu", root=_lay(tmp_path, files))
    assert (told["error"], told["message"]) == ("NoGpuError", f"{message}, {_INSTEAD}")


def test_wsl_may_keep_less_resident_than_nvml_calls_free(nvml: NvmlStandIn, tmp_path: Path) -> None:
    answer = nvml.ask(_TWO, "choose_gpu", root=_lay(tmp_path, _WSL_FILES))["answer"]
    assert answer["free_bytes"] == 7 * _GIB
    assert answer["notes"] == [
        "this is WSL: Windows may keep less of a program's VRAM resident than NVML calls free, and then moves the rest "
        "to the host's memory without a word, which is slow; if the engine is slow, start it with a smaller "
        "--vram-budget"
    ]


def test_a_library_from_before_nvml_init_with_flags(
    compile_nvml: Callable[..., Path], load_nvml: Callable[[Path], NvmlStandIn]
) -> None:
    old = load_nvml(compile_nvml("-DWITHOUT_INIT"))
    assert _refusal(old, _TWO) == (
        "NoGpuError",
        f"libnvidia-ml.so.1 is too old; update the NVIDIA driver, {_INSTEAD}",
    )


def test_the_binding_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    with pytest.raises(NoGpuError) as caught:
        choose_gpu()
    assert str(caught.value) == f"the Python package nvidia-ml-py is missing; install it, {_INSTEAD}"


def test_a_driver_without_a_gpu(nvml: NvmlStandIn) -> None:
    assert nvml.ask(_DRIVER, "list_gpus") == {"answer": []}
    assert _refusal(nvml, _DRIVER) == (
        "NoGpuError",
        f"the NVIDIA driver 580.65.06 is there but finds no GPU; check the machine with nvidia-smi, {_INSTEAD}",
    )


@pytest.mark.parametrize("question", ["handle", "memory"])
def test_one_lost_gpu_does_not_hide_the_other(nvml: NvmlStandIn, question: str) -> None:
    scenario = _DRIVER + _gpu(0, **{question: 15}) + _gpu(1)
    lost = f"GPU 0: the GPU is lost (it fell off the bus); restart the machine, {_INSTEAD}"
    told = nvml.ask(scenario, "survey")["answer"]
    assert [gpu["uuid"] for gpu in told["gpus"]] == [_UUIDS[1]]
    assert told["faults"] == [{"index": 0, "message": lost}]
    assert _note_of(nvml, scenario) == (_UUIDS[1], [lost])
    assert _refusal(nvml, scenario, "0") == ("NoGpuError", lost)
    assert _note_of(nvml, scenario, "1") == (_UUIDS[1], [])


def test_no_permission_for_the_only_gpu(nvml: NvmlStandIn) -> None:
    assert _refusal(nvml, _DRIVER + _gpu(handle=4)) == (
        "NoGpuError",
        "GPU 0: insufficient permission; let this user read the /dev/nvidia* devices "
        f"(or start the container with the GPU), {_INSTEAD}",
    )


# ---- which one ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        ("0,1,2", (0, 1, 2)),
        ("2,1", (2, 1)),
        ("1", (1,)),
        (" 1 , 0", (1, 0)),
        ("+1", (1,)),
        ("1gpu", (1,)),
        ("", ()),
        (",0", ()),
        ("-1", ()),
        ("0,2,-1,1", (0, 2)),
        ("0,3,1", (0,)),
        ("0,99999999999999999999,1", (0,)),
        ("NoDevFiles", ()),
        ("none", ()),
        ("0,0", ()),
        ("0,1,0", ()),
        ("0,-1,0", (0,)),
        (_UUIDS[1], (1,)),
        (f"{_UUIDS[2]},{_UUIDS[0]}", (2, 0)),
        ("GPU-1b2c", (2,)),
        ("GPU-8932f937", (0,)),
        ("GPU-8932f9", ()),
        ("GPU-8932f9a,GPU-1,GPU-8", (1, 2)),
        ("GPU-", ()),
        ("b2c3d4e", ()),
        ("0000000000000002", (2,)),
        ("GPU-ffff", ()),
        (f"{_UUIDS[0]},{_UUIDS[0]}", ()),
        (f"GPU-1b2c,{_UUIDS[2]}", ()),
        ("0,GPU-1b2c", (0,)),
        ("2,GPU-1b2c", (2,)),
        ("GPU-1b2c,2", (2,)),
        ("GPU-1b2c,0", (2,)),
        ("2,GPU-ffff,0", (2,)),
        ("1,MIG-aaaa", (1,)),
        ("-0", (0,)),
        ("-0,1", (0, 1)),
        ("-00", (0,)),
        ("0,-0", ()),
        ("- 0", ()),
        ("+-0", ()),
        ("--0", ()),
        ("-01", ()),
        ("-10", ()),
        ("0x1", (0,)),
        ("1.9", (1,)),
        ("1 0", (1,)),
        ("\t1", (1,)),
        ("1;0", (1,)),
        ("١", ()),
        ("gpu-1b2c3d4e", ()),
        (f"{_UUIDS[2]}x", ()),
        ("MIG-aaaa", ()),
    ],
)
def test_cuda_visible_devices(nvml: NvmlStandIn, setting: str, seen: tuple[int, ...]) -> None:
    assert _ordinals(nvml, _THREE, CUDA_VISIBLE_DEVICES=setting) == [_UUIDS[number] for number in seen]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-2, 4), min_size=1, max_size=6))
def test_indices_up_to_the_first_invalid_one_unless_one_is_twice(nvml: NvmlStandIn, indices: list[int]) -> None:
    valid = indices[: next((place for place, index in enumerate(indices) if not 0 <= index < 3), len(indices))]
    expected = [_UUIDS[index] for index in valid] if len(set(valid)) == len(valid) else []
    assert _ordinals(nvml, _THREE, CUDA_VISIBLE_DEVICES=",".join(map(str, indices))) == expected


def test_without_the_variable_every_gpu_is_visible(nvml: NvmlStandIn) -> None:
    assert _ordinals(nvml, _THREE) == list(_UUIDS)


def test_pci_order_is_cudas_when_it_is_asked_for_and_when_all_are_of_one_kind(nvml: NvmlStandIn) -> None:
    # NVML's own order is the other way round here.
    turned = _DRIVER + _gpu(0, bus=65) + _gpu(1, bus=2)
    assert _ordinals(nvml, turned) == [_UUIDS[1], _UUIDS[0]]
    assert _ordinals(nvml, turned, CUDA_VISIBLE_DEVICES="1") == [_UUIDS[0]]
    mixed = _DRIVER + _gpu(0, domain=1, name="NVIDIA GeForce RTX 4090", cores=16384) + _gpu(1)
    assert _ordinals(nvml, mixed, CUDA_DEVICE_ORDER="PCI_BUS_ID") == [_UUIDS[1], _UUIDS[0]]
    assert _note_of(nvml, mixed, CUDA_DEVICE_ORDER="PCI_BUS_ID") == (_UUIDS[1], [])


def test_gpus_of_different_kinds_are_guessed_fastest_first_and_called_guessed(nvml: NvmlStandIn) -> None:
    mixed = _DRIVER + _gpu(0) + _gpu(1, name="NVIDIA GeForce RTX 4090", cores=16384, clock=3120)
    assert _ordinals(nvml, mixed) == [_UUIDS[1], _UUIDS[0]]
    guessed = (
        "the GPUs are of different kinds and CUDA's order of them, fastest first, is only guessed: "
        f"GPU 1 (NVIDIA GeForce RTX 4090); to be certain start the engine with CUDA_VISIBLE_DEVICES={_UUIDS[1]}"
    )
    assert _note_of(nvml, mixed) == (_UUIDS[1], [guessed])
    assert _note_of(nvml, mixed, CUDA_VISIBLE_DEVICES="0") == (_UUIDS[1], [guessed])
    assert _note_of(nvml, mixed, CUDA_VISIBLE_DEVICES=_UUIDS[0]) == (_UUIDS[0], [])


def test_a_gpu_whose_speed_is_unknown_comes_last_in_the_guess(nvml: NvmlStandIn) -> None:
    mixed = _DRIVER + _gpu(0, name="NVIDIA T400", cores=None) + _gpu(1)
    assert _ordinals(nvml, mixed) == [_UUIDS[1], _UUIDS[0]]


def test_an_index_that_means_a_lost_gpu_ends_the_list(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0) + _gpu(1, handle=15) + _gpu(2)
    assert _ordinals(nvml, scenario, CUDA_VISIBLE_DEVICES="2,1,0") == [_UUIDS[2]]
    assert _ordinals(nvml, scenario) == [_UUIDS[0], _UUIDS[2]]


@pytest.mark.parametrize(
    ("selector", "number"),
    [("0", 0), ("1", 1), (_UUIDS[1], 1), ("gpu-1B2C", 2), ("GPU-8932f937", 0), (" 2 ", 2)],
)
def test_selectors(nvml: NvmlStandIn, selector: str, number: int) -> None:
    assert _note_of(nvml, _THREE, selector)[0] == _UUIDS[number]


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("3", "there is no GPU 3; expected one of: 0, 1, 2"),
        (
            "GPU-8932",
            f"'GPU-8932' fits 2 GPUs: {_UUIDS[0]}, {_UUIDS[1]}; give more of the UUID",
        ),
        (
            "GPU-x",
            f"no GPU has a UUID that begins with 'GPU-x'; expected an index or one of: {', '.join(_UUIDS)}",
        ),
        ("", f"no GPU has a UUID that begins with ''; expected an index or one of: {', '.join(_UUIDS)}"),
    ],
)
def test_selectors_that_fit_none_or_several(nvml: NvmlStandIn, selector: str, message: str) -> None:
    assert _refusal(nvml, _THREE, selector) == ("InputError", message)


def test_a_chosen_gpu_that_the_engine_would_not_use_says_how_to_make_it(nvml: NvmlStandIn) -> None:
    remedy = f"and the engine uses CUDA's device 0; start the engine with CUDA_VISIBLE_DEVICES={_UUIDS[1]}"
    gpu = "GPU 1 (NVIDIA GeForce RTX 4060 Ti) is"
    assert _note_of(nvml, _TWO, "1") == (_UUIDS[1], [f"{gpu} CUDA's device 1 here {remedy}"])
    hidden = f"{gpu} not visible to CUDA here {remedy}"
    assert _note_of(nvml, _TWO, "1", CUDA_VISIBLE_DEVICES="0") == (_UUIDS[1], [hidden])
    assert _note_of(nvml, _TWO, "1", CUDA_VISIBLE_DEVICES="1") == (_UUIDS[1], [])


def test_no_visible_gpu(nvml: NvmlStandIn) -> None:
    assert _refusal(nvml, _TWO, CUDA_VISIBLE_DEVICES="") == (
        "NoGpuError",
        "CUDA_VISIBLE_DEVICES='' leaves CUDA no GPU, so the engine would offload nothing; "
        f"set it to {_UUIDS[0]}, {_UUIDS[1]}, {_INSTEAD}",
    )


# ---- identities -----------------------------------------------------------------------------------------------------

# What NVML of some WSL drivers leaves in the text: bytes that are not UTF-8.
_GARBAGE = "\udcf8\udc81\udc92GPU"


@pytest.mark.parametrize("uuid", [_GARBAGE, "", None, " ", "\x01\x02"])
def test_a_uuid_that_is_none_is_unknown_and_stops_nothing(nvml: NvmlStandIn, uuid: str | None) -> None:
    answer = nvml.ask(_DRIVER + _gpu(uuid=uuid), "choose_gpu")["answer"]
    assert (answer["uuid"], answer["cuda_ordinal"], answer["free_bytes"]) == (None, 0, 7 * _GIB)
    assert answer["notes"] == []
    assert _note_of(nvml, _DRIVER + _gpu(uuid=uuid), "0")[1] == []


@pytest.mark.parametrize("uuid", [_GARBAGE, ""])
def test_the_second_gpus_uuid_does_not_matter_to_the_first(nvml: NvmlStandIn, uuid: str) -> None:
    scenario = _DRIVER + _gpu(0) + _gpu(1, uuid=uuid)
    told = nvml.ask(scenario, "survey")["answer"]
    assert [(gpu["uuid"], gpu["cuda_ordinal"]) for gpu in told["gpus"]] == [(_UUIDS[0], 0), (None, 1)]
    assert _note_of(nvml, scenario) == (_UUIDS[0], [])
    named = "CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1"
    assert _note_of(nvml, scenario, "1")[1] == [
        "GPU 1 (NVIDIA GeForce RTX 4060 Ti) is CUDA's device 1 here and the engine uses CUDA's device 0; "
        f"start the engine with {named}"
    ]
    assert _refusal(nvml, scenario, CUDA_VISIBLE_DEVICES="") == (
        "NoGpuError",
        "CUDA_VISIBLE_DEVICES='' leaves CUDA no GPU, so the engine would offload nothing; "
        f"set it to {_UUIDS[0]}, 1, {_INSTEAD}",
    )


@pytest.mark.parametrize("uuid", [_UUIDS[0], "", _GARBAGE])
def test_two_gpus_that_uuids_do_not_tell_apart(nvml: NvmlStandIn, uuid: str) -> None:
    # NVML's order is not that of the PCI addresses, so GPU 1 is CUDA's device 0.
    scenario = _DRIVER + _gpu(0, uuid=uuid, bus=9) + _gpu(1, uuid=uuid, bus=2)
    told = nvml.ask(scenario, "survey")["answer"]
    assert [(gpu["index"], gpu["cuda_ordinal"]) for gpu in told["gpus"]] == [(0, 1), (1, 0)]
    chosen = nvml.ask(scenario, "choose_gpu")["answer"]
    assert (chosen["index"], chosen["notes"]) == (1, [])
    assert nvml.ask(scenario, "choose_gpu", "0")["answer"]["notes"] == [
        "GPU 0 (NVIDIA GeForce RTX 4060 Ti) is CUDA's device 1 here and the engine uses CUDA's device 0; "
        "start the engine with CUDA_DEVICE_ORDER=PCI_BUS_ID CUDA_VISIBLE_DEVICES=1"
    ]
    assert _ordinals(nvml, scenario, CUDA_VISIBLE_DEVICES=_UUIDS[0]) == []


def test_a_selector_that_is_the_uuid_of_two_gpus(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0) + _gpu(1, uuid=_UUIDS[0])
    for selector in (_UUIDS[0], "GPU-8932"):
        assert _refusal(nvml, scenario, selector) == (
            "InputError",
            f"'{selector}' fits 2 GPUs, some with the same UUID; give an index instead: 0, 1",
        )


def test_a_selector_where_no_gpu_has_a_uuid(nvml: NvmlStandIn) -> None:
    assert _refusal(nvml, _DRIVER + _gpu(0, uuid="") + _gpu(1, uuid=""), "GPU-8") == (
        "InputError",
        "no GPU has a UUID that begins with 'GPU-8'; expected an index: 0, 1",
    )


def test_a_gpu_in_mig_mode_without_a_uuid_has_its_slices(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0, uuid="", mig=1) + _slice(0, uuid="") + _gpu(1)
    told = nvml.ask(scenario, "survey")["answer"]
    assert [(gpu["index"], gpu["mig_index"], gpu["cuda_ordinal"]) for gpu in told["gpus"]] == [
        (0, None, None),
        (0, 0, 0),
        (1, None, None),
    ]
    assert nvml.ask(scenario, "choose_gpu", "0")["answer"]["mig_index"] == 0


def test_a_name_that_is_no_text_is_none(nvml: NvmlStandIn) -> None:
    assert nvml.ask(_DRIVER + _gpu(name=_GARBAGE), "choose_gpu")["answer"]["name"] == "unnamed GPU"


@pytest.mark.parametrize(
    ("setting", "number", "note"),
    [
        (
            "-0",
            0,
            "NVIDIA does not document '-0' in CUDA_VISIBLE_DEVICES; it is read as 0, as strtoul would; to be certain "
            "name the GPU by its UUID",
        ),
        (
            f"{_UUIDS[2]},2",
            2,
            f"CUDA_VISIBLE_DEVICES='{_UUIDS[2]},2' mixes indices and UUIDs, which NVIDIA does not document; the list "
            "is taken to end before '2'; to be certain use UUIDs only",
        ),
    ],
)
def test_what_nvidia_does_not_document_is_said(nvml: NvmlStandIn, setting: str, number: int, note: str) -> None:
    assert _note_of(nvml, _THREE, CUDA_VISIBLE_DEVICES=setting) == (_UUIDS[number], [note])


# ---- MIG ------------------------------------------------------------------------------------------------------------


def test_a_mig_devices_own_figures_not_its_parents(nvml: NvmlStandIn) -> None:
    parent, first, second = nvml.ask(_MIG, "list_gpus")["answer"]
    assert (parent["mig_enabled"], parent["free_bytes"], parent["cuda_ordinal"]) == (True, 70 * _GIB, None)
    assert (first["uuid"], first["free_bytes"], first["total_bytes"]) == (_SLICES[0], 9 * _GIB, 10 * _GIB)
    assert (first["index"], first["mig_index"], first["mig_parent"]) == (0, 0, _UUIDS[0])
    assert (first["mig_instance"], first["compute_capability"], first["cuda_ordinal"]) == ([7, 0], [8, 9], 0)
    assert (second["uuid"], second["mig_index"], second["cuda_ordinal"]) == (_SLICES[1], 1, None)
    assert _note_of(nvml, _MIG) == (_SLICES[0], [])


@pytest.mark.parametrize(
    ("setting", "seen"),
    [
        (_SLICES[1], [_SLICES[1]]),
        ("MIG-aab", [_SLICES[1]]),
        ("MIG-aa", []),
        (f"{_SLICES[1]},{_SLICES[0]}", [_SLICES[1]]),  # CUDA enumerates a single MIG device
        (f"MIG-{_UUIDS[0]}/8/0", [_SLICES[1]]),  # how drivers before R470 named it
        (f"MIG-{_UUIDS[0]}/9/0", []),
        ("0", [_SLICES[0]]),
        ("1", [_UUIDS[1]]),
        ("1,0", [_SLICES[0]]),  # and no whole GPU beside it
        (_UUIDS[0], [_SLICES[0]]),
        (f"{_SLICES[0]},{_SLICES[0]}", []),
    ],
)
def test_mig_in_cuda_visible_devices(nvml: NvmlStandIn, setting: str, seen: list[str]) -> None:
    scenario = _MIG + _gpu(1, name="NVIDIA A100-SXM4-80GB")
    assert _ordinals(nvml, scenario, CUDA_VISIBLE_DEVICES=setting) == seen


def test_choosing_a_gpu_in_mig_mode_chooses_its_only_slice(nvml: NvmlStandIn) -> None:
    one = _DRIVER + _gpu(0, mig=1) + _slice(0)
    assert _note_of(nvml, one, "0") == (_SLICES[0], [])
    assert _note_of(nvml, _MIG, "MIG-aab")[0] == _SLICES[1]
    error, message = _refusal(nvml, _MIG, "0")
    assert error == "InputError"
    assert message == (
        "GPU 0 (NVIDIA A100-SXM4-80GB) is in MIG mode with 2 readable MIG devices; "
        f"choose one of: {_SLICES[0]}, {_SLICES[1]}"
    )


@pytest.mark.parametrize("code", [3, 4])
def test_mig_devices_are_found_without_the_privilege_to_see_their_gpus_aggregates(nvml: NvmlStandIn, code: int) -> None:
    scenario = _DRIVER + _gpu(0, mig=1, memory=code) + _slice(0) + _slice(1)
    told = nvml.ask(scenario, "survey")["answer"]
    parent, first, second = told["gpus"]
    assert (parent["basis"], parent["total_bytes"], parent["free_bytes"], parent["used_bytes"]) == (
        "its MIG devices",
        20 * _GIB,
        17 * _GIB,
        None,
    )
    assert (parent["mig_enabled"], parent["cuda_ordinal"], told["faults"]) == (True, None, [])
    assert [(gpu["uuid"], gpu["free_bytes"], gpu["cuda_ordinal"]) for gpu in (first, second)] == [
        (_SLICES[0], 9 * _GIB, 0),
        (_SLICES[1], 8 * _GIB, None),
    ]
    assert _note_of(nvml, scenario) == (_SLICES[0], [])


def test_a_gpu_in_mig_mode_that_is_lost_is_a_fault(nvml: NvmlStandIn) -> None:
    told = nvml.ask(_DRIVER + _gpu(0, mig=1, memory=15) + _slice(0), "survey")["answer"]
    assert told["gpus"] == []
    assert told["faults"] == [
        {"index": 0, "message": f"GPU 0: the GPU is lost (it fell off the bus); restart the machine, {_INSTEAD}"}
    ]


def test_mig_mode_without_a_slice(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0, mig=1)
    assert _refusal(nvml, scenario) == (
        "NoGpuError",
        "CUDA sees no GPU: MIG mode is on and no MIG device can be read; "
        f"create one (nvidia-smi mig -cgi … -C), {_INSTEAD}",
    )
    assert _refusal(nvml, scenario, "0") == (
        "InputError",
        "GPU 0 (NVIDIA GeForce RTX 4060 Ti) is in MIG mode with 0 readable MIG devices; "
        "create one (nvidia-smi mig -cgi … -C)",
    )


def test_a_slice_closed_to_this_user_is_a_fault(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0, mig=1) + _slice(0, handle=4) + _slice(1)
    told = nvml.ask(scenario, "survey")["answer"]
    assert [gpu["uuid"] for gpu in told["gpus"]] == [_UUIDS[0], _SLICES[1]]
    assert told["faults"] == [
        {
            "index": 0,
            "message": "GPU 0, MIG device 0: insufficient permission; let this user read the /dev/nvidia* devices "
            f"(or start the container with the GPU), {_INSTEAD}",
        }
    ]


# ---- memory that is the host's --------------------------------------------------------------------------------------

# MemTotal, MemAvailable and MemFree of a DGX Spark, as published with a report about its memory figures.
_SPARK = (127600748 * 1024, 118566368 * 1024, 20316004 * 1024)


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        (_gpu(name="NVIDIA GB10", total=None), "NVML answers Not Supported when asked for its memory"),
        (_gpu(name="Orin (nvgpu)", memory=3), "NVML answers Not Supported when asked for its memory"),
        (_gpu(name="NVIDIA Thor", total=0, free=0), "NVML reports 0 B free of 0 B"),
        (_gpu(name="NVIDIA N1X", total=8128 * _MIB, free=7929 * _MIB), "NVML reports 7.74 GiB free of 7.94 GiB"),
        # More than there is: a figure of NVML's is not believed there.
        (_gpu(name="NVIDIA Thor", total=122 * _GIB, free=120 * _GIB), "NVML reports 120.00 GiB free of 122.00 GiB"),
    ],
)
def test_shared_memory_is_what_the_kernel_calls_free_and_says_so(nvml: NvmlStandIn, gpu: str, told: str) -> None:
    answer = nvml.ask(_DRIVER + gpu, "choose_gpu", host=_SPARK)["answer"]
    # What cudaMemGetInfo answers there, from which the engine makes its budget.
    assert (answer["total_bytes"], answer["free_bytes"], answer["used_bytes"]) == (_SPARK[0], _SPARK[2], None)
    assert answer["basis"] == "host memory"
    assert answer["notes"] == [
        f"GPU 0 ({answer['name']}) shares the host's memory ({told}): the engine will treat as free what the kernel "
        "calls free (/proc/meminfo: 19.37 GiB), without the page cache; 113.07 GiB are available: to use more, start "
        "the engine with --vram-budget and plan with the same"
    ]


def test_shared_memory_is_never_more_than_what_is_available(nvml: NvmlStandIn) -> None:
    # A container of 16 GiB, whose kernel has more free.
    answer = nvml.ask(_DRIVER + _gpu(name="NVIDIA GB10", memory=3), "choose_gpu", host=(16 * _GIB, 9 * _GIB, 40 * _GIB))
    assert answer["answer"]["free_bytes"] == 9 * _GIB
    assert answer["answer"]["notes"] == [
        "GPU 0 (NVIDIA GB10) shares the host's memory (NVML answers Not Supported when asked for its memory): the "
        "engine will treat as free what the kernel calls free (/proc/meminfo: 9.00 GiB), without the page cache"
    ]


def test_shared_memory_with_the_machines_own_figures(nvml: NvmlStandIn) -> None:
    answer = nvml.ask(_DRIVER + _gpu(name="NVIDIA GB10", memory=3), "choose_gpu")["answer"]
    assert answer["total_bytes"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert 0 < answer["free_bytes"] <= answer["total_bytes"]


def test_shared_memory_of_a_host_that_tells_less(nvml: NvmlStandIn) -> None:
    told = nvml.ask(_DRIVER + _gpu(name="NVIDIA GB10", memory=3), "choose_gpu", host=(0, None))
    assert told["message"] == (
        "GPU 0: NVML answers Not Supported when asked for its memory, and the host does not report how much memory is "
        "available; give the budget yourself: --vram-budget 8GiB"
    )
    told = nvml.ask(_DRIVER + _gpu(name="NVIDIA GB10", memory=3), "choose_gpu", host=(8 * _GIB, None, 3 * _GIB))
    assert told["answer"]["free_bytes"] == 3 * _GIB


@pytest.mark.parametrize(
    ("gpu", "told"),
    [
        (_gpu(name="NVIDIA GeForce GT 710", memory=3), "NVML answers Not Supported when asked for its memory"),
        (_gpu(name="NVIDIA GeForce GT 710", total=0, free=0), "NVML reports 0 B free of 0 B"),
        (_gpu(name="GRID A100D-8C", total=None), "NVML answers Not Supported when asked for its memory"),
        (_gpu(name=None, memory=3), "NVML answers Not Supported when asked for its memory"),
    ],
)
def test_a_gpu_without_an_answer_is_not_taken_for_shared_memory(nvml: NvmlStandIn, gpu: str, told: str) -> None:
    answer = nvml.ask(_DRIVER + gpu, "choose_gpu", host=_SPARK)
    name = "unnamed GPU" if "name=" not in gpu else gpu.split("name=")[1].split("\t", maxsplit=1)[0]
    message = f"GPU 0: {name}: {told}; give the budget yourself: --vram-budget 8GiB"
    assert (answer["error"], answer["message"]) == ("NoGpuError", message)


def test_cuda_uses_a_gpu_of_whose_memory_nvml_tells_nothing(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0, name="NVIDIA A", memory=3) + _gpu(1, name="NVIDIA A")
    untold = "GPU 0: NVIDIA A: NVML answers Not Supported when asked for its memory; " + _INSTEAD.removeprefix("or ")
    assert _refusal(nvml, scenario) == ("NoGpuError", untold)
    assert _refusal(nvml, scenario, CUDA_VISIBLE_DEVICES=_UUIDS[0]) == ("NoGpuError", untold)
    told = nvml.ask(scenario, "survey")["answer"]
    assert [(gpu["index"], gpu["cuda_ordinal"]) for gpu in told["gpus"]] == [(1, 1)]
    assert _note_of(nvml, scenario, CUDA_VISIBLE_DEVICES="1") == (_UUIDS[1], [untold])


@pytest.mark.parametrize("total_mib", [981, 256, 1])
def test_a_small_discrete_gpu_is_believed_too(nvml: NvmlStandIn, total_mib: int) -> None:
    # 981 MiB are what nvidia-smi shows of a GeForce GT 710.
    scenario = _DRIVER + _gpu(name="NVIDIA GeForce GT 710", total=total_mib * _MIB, free=total_mib * _MIB // 2)
    answer = nvml.ask(scenario, "choose_gpu", host=_SPARK)["answer"]
    assert (answer["total_bytes"], answer["free_bytes"]) == (total_mib * _MIB, total_mib * _MIB // 2)
    assert (answer["basis"], answer["notes"]) == ("NVML v2", [])


@pytest.mark.parametrize("name", ["NVIDIA GB100", "NVIDIA GB200", "NVIDIA GH200 480GB", "NVIDIA RTX Orino"])
def test_names_that_only_look_like_those_of_shared_memory(nvml: NvmlStandIn, name: str) -> None:
    answer = nvml.ask(_DRIVER + _gpu(name=name), "choose_gpu", host=_SPARK)["answer"]
    assert (answer["free_bytes"], answer["basis"], answer["notes"]) == (7 * _GIB, "NVML v2", [])


def test_a_small_discrete_gpu_is_believed(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(name="NVIDIA T400", total=2 * _GIB, free=_MIB)
    answer = nvml.ask(scenario, "choose_gpu", host=_SPARK)["answer"]
    assert (answer["free_bytes"], answer["basis"], answer["notes"]) == (_MIB, "NVML v2", [])


def test_a_slice_without_figures_is_not_taken_for_shared_memory(nvml: NvmlStandIn) -> None:
    scenario = _DRIVER + _gpu(0, mig=1) + _slice(0, memory=3)
    told = nvml.ask(scenario, "survey")["answer"]
    assert told["faults"] == [
        {
            "index": 0,
            "message": "GPU 0, MIG device 0: NVML says Not Supported (code 3); look at what nvidia-smi says, "
            + _INSTEAD,
        }
    ]


# ---- the real one ---------------------------------------------------------------------------------------------------


@pytest.fixture
def real_nvml() -> Iterator[Any]:
    try:
        ctypes.CDLL("nvml.dll" if sys.platform == "win32" else "libnvidia-ml.so.1")
    except OSError as error:
        pytest.skip(f"no NVIDIA driver on this machine: {error}")
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        pytest.skip(f"NVML does not start on this machine: {error}")
    yield pynvml
    pynvml.nvmlShutdown()


@pytest.mark.gpu
def test_the_real_nvml(real_nvml: Any) -> None:
    found = survey({})
    whole = [gpu for gpu in found.gpus if gpu.mig_parent is None]
    assert len(whole) + len({fault.index for fault in found.faults}) >= real_nvml.nvmlDeviceGetCount()
    assert found.driver_version == real_nvml.nvmlSystemGetDriverVersion()
    for gpu in whole:
        handle = real_nvml.nvmlDeviceGetHandleByUUID(gpu.uuid)
        assert real_nvml.nvmlDeviceGetIndex(handle) == gpu.index
        assert real_nvml.nvmlDeviceGetName(handle) == gpu.name
        if gpu.basis is not MemoryBasis.HOST_MEMORY:
            assert real_nvml.nvmlDeviceGetMemoryInfo(handle).total == gpu.total_bytes
            assert 0 <= gpu.free_bytes <= gpu.total_bytes
