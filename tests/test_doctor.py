"""`exporter.powerinfer.doctor`: one model folder that is well, and the same folder wrong in each way, one at a time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import pytest
import torch

from exporter.powerinfer import doctor_case
from exporter.powerinfer.doctor import CHECKS, Finding, Status, examine
from exporter.powerinfer.doctor_case import Case
from exporter.powerinfer.engine_python import EnginePython, Helper
from exporter.powerinfer.index_format import MARK_ACTIVATIONS, MARK_MODEL, IndexedLayer
from exporter.powerinfer.index_writer import write_index
from planner.activations.folder import read_statistics
from planner.base.record import replace
from planner.base.units import format_bytes
from planner.engines.engine import ReserveOptions
from planner.engines.powerinfer.geometry import geometry_from_header
from planner.hardware import vram
from planner.hardware.vram import Gpu, MemoryBasis, NoGpuError
from planner.model_files.header import read_header
from tests import model_files
from tests.json_schemas import checked

if TYPE_CHECKING:
    import numpy.typing as npt

    from tests.conftest import NvmlStandIn

_ROOT = Path(__file__).resolve().parent.parent
_MIB, _GIB = 1 << 20, 1 << 30
_LAYERS, _N_EMBD, _N_FF, _RANK, _VOCAB, _HEADS = 12, 64, 1024, 32, 48, 4
_NEURON_BYTES = 3 * _N_EMBD * 2
_FFN_BYTES = _LAYERS * _N_FF * _NEURON_BYTES
_HOT = 512
_MODEL = "tiny.powerinfer.gguf"
_GPU = Gpu(0, "NVIDIA GeForce RTX 4090", "GPU-8932f937", 24 * _GIB, 23 * _GIB, _GIB, MemoryBasis.NVML_V2, 0)
_OURS = EnginePython("python3", Path("/env/bin/python3"), Helper.OURS, Path("/env/powerinfer/__init__.py"), None)
_INSTALL = "hotsplit engine install, in the environment that is active when the engine starts"


def write_model(
    path: Path,
    *,
    magic: bytes = b"PWRI",
    predictors: bool = True,
    n_embd: int = _N_EMBD,
    n_ff: int = _N_FF,
    rank: int = _RANK,
    ffn_type: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F16,
) -> None:
    """Writes a llama-shaped model of zeros with the public `gguf` package."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(_LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(n_embd)
    writer.add_feed_forward_length(n_ff)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_embd // _HEADS)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{number}" for number in range(_VOCAB)])
    half = gguf.GGMLQuantizationType.F16

    def add(name: str, shape: tuple[int, ...], kind: gguf.GGMLQuantizationType = half) -> None:
        if len(shape) == 1:
            writer.add_tensor(f"{name}.weight", np.zeros(shape, np.float32))
            return
        data = gguf.quants.quantize(np.zeros(shape, np.float32), kind)
        writer.add_tensor(f"{name}.weight", data, raw_dtype=kind)

    add("token_embd", (_VOCAB, n_embd))
    add("output_norm", (n_embd,))
    add("output", (_VOCAB, n_embd))
    for layer in range(_LAYERS):
        block = f"blk.{layer}"
        add(f"{block}.attn_norm", (n_embd,))
        for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
            add(f"{block}.{name}", (n_embd, n_embd))
        add(f"{block}.ffn_norm", (n_embd,))
        for name in ("ffn_gate", "ffn_down_t", "ffn_up"):
            add(f"{block}.{name}", (n_ff, n_embd), ffn_type)
        if predictors:
            add(f"{block}.fc1", (rank, n_embd))
            add(f"{block}.fc2", (n_ff, rank))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with open(path, "r+b") as file:
        file.write(magic)


def counts_of(layer: int) -> npt.NDArray[np.int64]:
    """Returns distinct counts, so that the hottest neurons are known without looking at ties."""
    return np.random.default_rng(layer).permutation(_N_FF) + 1


@pytest.fixture(scope="module")
def well(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("well") / "model"
    (folder / "activation").mkdir(parents=True)
    write_model(folder / _MODEL)
    for layer in range(_LAYERS):
        torch.save(torch.from_numpy(counts_of(layer)), folder / "activation" / f"activation_{layer}.pt")
    return folder


@pytest.fixture
def folder(well: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(well, tmp_path / "model"))


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A machine on which all is well, and a way to make it otherwise."""

    def make(gpu: Gpu | Exception = _GPU, python: EnginePython = _OURS) -> None:
        def choose(_selector: str | None) -> Gpu:
            if isinstance(gpu, Exception):
                raise gpu
            return gpu

        monkeypatch.setattr(vram, "choose_gpu", choose)
        monkeypatch.setattr(doctor_case, "ask_engine_python", lambda: python)

    make()
    return make


def split_budget(folder: Path) -> int:
    """Returns a budget for the dense part, a KV cache of 512 tokens and 60 % of the neurons."""
    dense_bytes = geometry_from_header(read_header(folder / _MODEL)).dense_bytes
    return dense_bytes + 2 * _LAYERS * 512 * _N_EMBD * 2 + _FFN_BYTES * 6 // 10


def case_of(folder: Path, **options: Any) -> Case:
    return Case(folder / _MODEL, **{"vram_budget_bytes": split_budget(folder), **options})


def write_an_index(
    folder: Path,
    *,
    hot_neurons: int = _HOT,
    capacity_bytes: int | None = None,
    marks: dict[str, str] | None = None,
    layers: int = _LAYERS,
    coldest: bool = False,
) -> Path:
    path = folder / f"{_MODEL}.generated.gpuidx"
    listed = [IndexedLayer(str(layer), _N_FF, hot_neurons) for layer in range(layers)]
    orders = [np.argsort(counts_of(layer) if coldest else -counts_of(layer)) for layer in range(layers)]
    buckets = [np.sort(order[:hot_neurons]).astype(np.int32) for order in orders]
    needed_bytes = layers * hot_neurons * _NEURON_BYTES
    write_index(path, listed, buckets, needed_bytes if capacity_bytes is None else capacity_bytes, marks=marks)
    return path


def others_than_ok(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.status is not Status.OK]


def only(findings: list[Finding]) -> Finding:
    (finding,) = others_than_ok(findings)
    return finding


# ---- well -----------------------------------------------------------------------------------------------------------


def test_a_folder_that_is_well(folder: Path) -> None:
    findings = examine(case_of(folder))
    assert others_than_ok(findings) == []
    assert [finding.check for finding in findings] == [
        "gpu",
        "model",
        "space",
        "folder",
        "statistics",
        "path",
        "helper",
        "index",
    ]
    said = {finding.check: finding.found for finding in findings}
    assert said["gpu"] == "GPU 0 (NVIDIA GeForce RTX 4090, GPU-8932f937): 23.00 GiB free of 24.00 GiB"
    assert said["model"].startswith("llama, 12 layers, 12,288 FFN neurons (4.5 MiB), dense part ")
    assert said["statistics"] == f"{folder / 'activation'}: 12 layers, 12,288 neurons"
    assert said["helper"] == "python3 is /env/bin/python3 and runs Hotsplit (/env/powerinfer/__init__.py)"
    assert said["index"] == f"{_MODEL}.generated.gpuidx is not there yet; the engine will ask its helper for one"


def test_a_folder_with_an_index_that_is_well(folder: Path) -> None:
    model = geometry_from_header(read_header(folder / _MODEL)).fingerprint
    statistics = read_statistics(folder / "activation").fingerprint
    write_an_index(folder, marks={MARK_MODEL: model, MARK_ACTIVATIONS: statistics})
    findings = examine(case_of(folder))
    assert others_than_ok(findings) == []
    assert findings[-1].found == f"{_MODEL}.generated.gpuidx: 6,144 hot neurons, 2.2 MiB"


def test_nothing_is_written(folder: Path) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    examine(case_of(folder))
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_every_check_has_its_name_and_says_what_it_wants() -> None:
    names = [check.__name__.removeprefix("check_") for check in CHECKS]
    assert names == ["gpu", "model", "kernels", "space", "gain", "folder", "statistics", "path", "helper", "index"]
    assert all(check.__doc__ for check in CHECKS)


# ---- the machine ----------------------------------------------------------------------------------------------------


def test_no_gpu(folder: Path, machine: Callable[..., None]) -> None:
    machine(gpu=NoGpuError("no NVIDIA driver: …"))
    assert others_than_ok(examine(case_of(folder)))[0] == Finding(
        "gpu",
        Status.PROBLEM,
        "no NVIDIA driver: …",
        "the engine needs an NVIDIA GPU and driver to offload anything",
    )


def test_what_is_to_be_known_about_the_gpu_is_a_warning(folder: Path, machine: Callable[..., None]) -> None:
    machine(gpu=replace(_GPU, notes=("only guessed",)))
    assert only(examine(case_of(folder))) == Finding("gpu", Status.WARNING, "only guessed")


@pytest.mark.parametrize(
    ("python", "expected"),
    [
        (
            EnginePython("python3", None, Helper.NONE, None, "there is no python3 on the PATH"),
            Finding(
                "helper",
                Status.PROBLEM,
                "there is no python3 on the PATH",
                f"activate the Python environment before the engine starts, then {_INSTALL}",
            ),
        ),
        (
            replace(_OURS, helper=Helper.NONE, location=None, fault="it finds no package named powerinfer"),
            Finding(
                "helper", Status.PROBLEM, "python3 is /env/bin/python3; it finds no package named powerinfer", _INSTALL
            ),
        ),
        (
            replace(_OURS, fault="ModuleNotFoundError: No module named 'torch'"),
            Finding(
                "helper",
                Status.PROBLEM,
                "python3 is /env/bin/python3; Hotsplit's powerinfer at /env/powerinfer/__init__.py: "
                "ModuleNotFoundError: No module named 'torch'",
                "install Hotsplit with what it needs there: /env/bin/python3 -m pip install DIR, where DIR is the "
                "folder of Hotsplit's pyproject.toml",
            ),
        ),
        (
            replace(_OURS, helper=Helper.FOREIGN),
            Finding(
                "helper",
                Status.WARNING,
                "python3 is /env/bin/python3 and finds a package powerinfer that is neither Hotsplit's nor upstream's "
                "(/env/powerinfer/__init__.py)",
                f"hotsplit engine install --force, if it is not wanted ({_INSTALL})",
            ),
        ),
        (
            replace(_OURS, helper=Helper.UPSTREAM, unreadable_index=True),
            Finding(
                "helper",
                Status.PROBLEM,
                "python3 is /env/bin/python3 and runs upstream's helper with a gguf package that numbers I32 "
                "differently from the engine, so the engine cannot read what it writes (/env/powerinfer/__init__.py)",
                f"hotsplit engine install --force ({_INSTALL})",
            ),
        ),
        (
            replace(_OURS, helper=Helper.UPSTREAM),
            Finding(
                "helper",
                Status.PROBLEM,
                "python3 is /env/bin/python3 and runs upstream's helper, which sorts activation_10.pt before "
                "activation_2.pt and so gives layers the neurons of other layers (/env/powerinfer/__init__.py)",
                f"hotsplit engine install --force ({_INSTALL})",
            ),
        ),
    ],
)
def test_the_helper(folder: Path, machine: Callable[..., None], python: EnginePython, expected: Finding) -> None:
    machine(python=python)
    assert only(examine(case_of(folder))) == expected
    # As long as a sound index is there the engine does not call it.
    write_an_index(folder)
    assert only(examine(case_of(folder))) == replace(expected, status=Status.WARNING)


# ---- the model and the space ----------------------------------------------------------------------------------------


def test_no_model(tmp_path: Path) -> None:
    finding = next(finding for finding in examine(Case(tmp_path / "none.gguf")) if finding.check == "model")
    assert finding.status is Status.PROBLEM
    assert finding.found == f"{tmp_path / 'none.gguf'}: No such file or directory"
    assert finding.remedy == "name the model file that the engine is given with -m"


def test_an_ordinary_model_is_one_problem(folder: Path) -> None:
    write_model(folder / _MODEL, magic=b"GGUF", predictors=False, ffn_type=gguf.GGMLQuantizationType.Q8_0)
    shutil.rmtree(folder / "activation")
    assert only(examine(case_of(folder))) == Finding(
        "model",
        Status.PROBLEM,
        f"{folder / _MODEL}: magic GGUF, an ordinary llama.cpp model; the engine runs it dense and offloads nothing "
        "unless given -ngl",
        "convert the ReLU version of the model with PowerInfer's convert.py, which adds the predictors, or run this "
        "file with llama.cpp",
    )


def test_a_model_without_predictors_is_one_problem(folder: Path) -> None:
    write_model(folder / _MODEL, predictors=False)
    assert only(examine(case_of(folder))) == Finding(
        "model",
        Status.PROBLEM,
        f"{folder / _MODEL}: has no predictors (blk.L.fc1, blk.L.fc2), without which the engine cannot skip a neuron",
        "use a model with predictors: ReLU-LLaMA, ProSparse, Bamboo, Falcon or OPT as published for PowerInfer",
    )


def test_an_unknown_architecture_is_one_problem_and_nothing_is_exported(folder: Path) -> None:
    file = model_files.llama(n_layer=_LAYERS, n_ff=_N_FF).with_key("general.architecture", "string", "qwen3moe")
    file.with_key("qwen3moe.expert_count", "u32", 128).write(folder / _MODEL)
    for there in ("statistics", "an index", "nothing"):
        if there == "an index":
            write_an_index(folder)
        elif there == "nothing":
            shutil.rmtree(folder / "activation")
        findings = examine(Case(folder / _MODEL, vram_budget_bytes=_GIB))
        problem = only(findings)
        assert problem.found.startswith(
            f"{folder / _MODEL}: architecture 'qwen3moe', a mixture of 128 experts, is none that the engine splits ("
        )
        assert problem.remedy == "use another model, or another engine for this one"
        assert not any("hotsplit export" in finding.remedy for finding in findings)


def test_a_row_that_q4_0_cannot_hold_is_kept_f16(folder: Path) -> None:
    file = model_files.llama(n_layer=1).with_tensor("blk.0.fc2.weight", (48, 96), model_files.Q4_0)
    file.write(folder / _MODEL)
    problem = only(examine(Case(folder / _MODEL, vram_budget_bytes=_GIB)))
    assert problem.found.endswith("has rows of 48 numbers; expected a multiple of Q4_0's block of 32")
    assert problem.remedy == "quantise the model again and keep this tensor F16, whose rows may have any length"


def test_a_predictor_that_q4_0_cannot_hold_is_not_to_be_quantised(folder: Path) -> None:
    for rank, remedy in (
        (32, "quantise the model to Q4_0 with PowerInfer's own quantize, or keep F16"),
        (
            48,
            "convert the model to F16 and keep it so: its predictors have rank 48, no multiple of 32, so Q4_0 cannot "
            "hold them",
        ),
    ):
        write_model(folder / _MODEL, ffn_type=gguf.GGMLQuantizationType.Q8_0, rank=rank)
        (kernels,) = (finding for finding in examine(case_of(folder)) if finding.check == "kernels")
        assert kernels.remedy == remedy


def test_a_header_alone_is_to_be_got_whole(folder: Path) -> None:
    header = read_header(folder / _MODEL)
    os.truncate(folder / _MODEL, min(tensor.offset for tensor in header.tensors) + header.data_offset)
    problem = only(examine(case_of(folder)))
    assert problem.found.endswith(": the file ends with its header, without tensor data; the engine cannot load it")
    assert problem.remedy == "get the complete file; this one ends after its header"


def test_no_budget_is_advised_to_whoever_has_given_one(folder: Path, machine: Callable[..., None]) -> None:
    for joined in (", or ", "; "):
        machine(gpu=NoGpuError(f"no NVIDIA driver{joined}give the budget yourself: --vram-budget 8GiB"))
        given = only(examine(case_of(folder, reserve=ReserveOptions(total_bytes=0))))
        assert (given.check, given.found) == ("gpu", "no NVIDIA driver")
        without = others_than_ok(examine(case_of(folder, vram_budget_bytes=None)))
        assert [finding.check for finding in without] == ["gpu"]
        assert without[0].found == f"no NVIDIA driver{joined}give the budget yourself: --vram-budget 8GiB"


def test_export_is_advised_only_where_it_would_write_an_index(folder: Path, machine: Callable[..., None]) -> None:
    def advised(case: Case) -> str:
        (index,) = (finding for finding in examine(case) if finding.check == "index")
        return index.remedy

    reserve = ReserveOptions(total_bytes=0)
    command = f"hotsplit export --model {folder / _MODEL} --vram-budget {split_budget(folder)}B --reserve 0B"
    assert advised(case_of(folder, reserve=reserve)) == f"or write it now: {command}"
    dense_bytes = geometry_from_header(read_header(folder / _MODEL)).dense_bytes
    assert advised(case_of(folder, vram_budget_bytes=dense_bytes - 1)) == ""
    assert advised(case_of(folder, vram_budget_bytes=dense_bytes, context=0)) == ""
    machine(gpu=NoGpuError("none"))
    assert advised(case_of(folder, reserve=reserve)) == f"or write it now: {command}"
    assert advised(case_of(folder, vram_budget_bytes=None)) == ""
    path = write_an_index(folder)
    path.write_bytes(path.read_bytes()[:-100])
    assert advised(case_of(folder, reserve=reserve)) == f"write it again: {command}"
    (folder / "activation" / "activation_7.pt").unlink()
    assert advised(case_of(folder, reserve=reserve)) == f"fix statistics first, then write it again: {command}"
    shutil.rmtree(folder / "activation")
    assert advised(case_of(folder, reserve=reserve)) == f"fix folder first, then write it again: {command}"


def test_a_dense_part_that_does_not_fit_is_one_problem_beside_an_index(folder: Path) -> None:
    write_an_index(folder)
    dense_bytes = geometry_from_header(read_header(folder / _MODEL)).dense_bytes
    assert only(examine(case_of(folder, vram_budget_bytes=dense_bytes - 1))).check == "space"


@pytest.mark.parametrize(
    ("options", "found"),
    [
        (
            {"ffn_type": gguf.GGMLQuantizationType.Q8_0},
            "FFN weights of type Q8_0; the engine's sparse kernels know F16 and Q4_0 only",
        ),
        (
            {"n_ff": 1000},
            "layer 0 has 1000 FFN neurons; below 1001 the engine takes them for attention heads (ggml.c 14904)",
        ),
        ({"n_embd": 48}, "n_embd is 48; the engine asserts a multiple of 32"),
    ],
)
def test_a_model_that_the_kernels_cannot_compute(folder: Path, options: dict[str, Any], found: str) -> None:
    write_model(folder / _MODEL, **options)
    finding = next(finding for finding in examine(case_of(folder)) if finding.check == "kernels")
    assert (finding.status, finding.found) == (Status.PROBLEM, found)


def test_a_dense_part_that_does_not_fit(folder: Path) -> None:
    dense_bytes = geometry_from_header(read_header(folder / _MODEL)).dense_bytes
    finding = only(examine(case_of(folder, vram_budget_bytes=dense_bytes - 100)))
    assert (finding.check, finding.status) == ("space", Status.PROBLEM)
    assert ", 100 B less than the dense part (" in finding.found
    assert finding.found.endswith(" takes; the engine then offloads no neuron at all")


def test_no_room_for_a_neuron(folder: Path, machine: Callable[..., None]) -> None:
    dense_bytes = geometry_from_header(read_header(folder / _MODEL)).dense_bytes
    machine(gpu=NoGpuError("none"))
    findings = others_than_ok(examine(case_of(folder, vram_budget_bytes=dense_bytes, context=0)))
    assert [finding.check for finding in findings] == ["gpu", "space"]
    assert findings[1].status is Status.PROBLEM
    assert findings[1].found.endswith("there is no room for a neuron")


def test_a_reserve_that_leaves_no_room(folder: Path, machine: Callable[..., None]) -> None:
    machine(gpu=replace(_GPU, free_bytes=(900 - 612 + 428) << 20))
    assert (
        others_than_ok(examine(case_of(folder, vram_budget_bytes=None, reserve=ReserveOptions(total_bytes=0))))[0].check
        == "gain"
    )
    finding = only(examine(case_of(folder, vram_budget_bytes=None, reserve=ReserveOptions(total_bytes=350 << 20))))
    assert (finding.check, finding.status) == ("space", Status.PROBLEM)


def test_a_kv_cache_in_host_memory(folder: Path) -> None:
    finding = only(examine(case_of(folder, context=32768)))
    assert (finding.check, finding.status) == ("space", Status.WARNING)
    assert "; all of the KV cache of 32768 tokens (96.0 MiB) stays in host memory, which is slow" in finding.found


def test_a_budget_that_wraps(folder: Path, machine: Callable[..., None]) -> None:
    machine(gpu=replace(_GPU, free_bytes=100 << 20))
    finding = only(examine(case_of(folder, vram_budget_bytes=None)))
    assert (finding.check, finding.status) == ("space", Status.PROBLEM)
    assert finding.found == (
        "100.0 MiB of VRAM are free, less than CUDA's context and the engine's margin of 256 MiB; its unsigned "
        "arithmetic then wraps around to an unlimited budget (188-207)"
    )


def test_a_stated_budget_that_is_not_free(folder: Path, machine: Callable[..., None]) -> None:
    machine(gpu=replace(_GPU, free_bytes=2 * _GIB))
    findings = others_than_ok(examine(case_of(folder, vram_budget_bytes=2 * _GIB)))
    assert (findings[0].check, findings[0].status) == ("space", Status.PROBLEM)
    assert findings[0].remedy == "start the engine with a --vram-budget of less than 1.58 GiB"
    # Where not even the dense part would be free, no budget helps.
    machine(gpu=replace(_GPU, free_bytes=429 << 20))
    finding = only(examine(case_of(folder)))
    assert finding.found == (
        f"the engine's budget is {format_bytes(split_budget(folder))}, but only 1.0 MiB are free after CUDA's "
        "context; the engine believes its --vram-budget and runs out of memory"
    )
    assert finding.remedy == (
        "close what else uses the GPU, or use a smaller model or quantisation: the dense part alone takes 1.2 MiB"
    )


def test_a_model_that_fits_whole_gains_nothing(folder: Path) -> None:
    finding = only(examine(case_of(folder, vram_budget_bytes=None)))
    assert (finding.check, finding.status) == ("gain", Status.WARNING)
    assert finding.found.startswith("the whole model fits on the GPU")


# ---- the folder -----------------------------------------------------------------------------------------------------


def test_no_activation_folder(folder: Path) -> None:
    shutil.rmtree(folder / "activation")
    finding = only(examine(case_of(folder)))
    assert finding == Finding(
        "folder",
        Status.PROBLEM,
        f"{folder / 'activation'}: is missing; the engine looks for statistics there and nowhere else",
        "put activation_<L>.pt into a folder named activation next to the model",
    )
    write_an_index(folder)
    assert only(examine(case_of(folder))) == replace(finding, status=Status.WARNING)


def test_a_file_named_activation(folder: Path) -> None:
    shutil.rmtree(folder / "activation")
    (folder / "activation").touch()
    assert only(examine(case_of(folder))).found.startswith(f"{folder / 'activation'}: is not a folder; ")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only(folder: Path) -> None:
    folder.chmod(0o555)
    try:
        finding = only(examine(case_of(folder)))
    finally:
        folder.chmod(0o755)
    assert (finding.check, finding.status) == ("folder", Status.PROBLEM)
    assert finding.found.startswith(f"{folder}: not writable by this user")


def test_a_folder_that_may_not_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder or mode != os.W_OK)
    finding = only(examine(case_of(folder)))
    assert (finding.check, finding.status) == ("folder", Status.PROBLEM)
    assert finding.found.startswith(f"{folder}: not writable by this user")


def test_statistics_with_a_layer_missing(folder: Path) -> None:
    (folder / "activation" / "activation_7.pt").unlink()
    finding = only(examine(case_of(folder)))
    assert (finding.check, finding.status) == ("statistics", Status.PROBLEM)
    assert str(folder / "activation") in finding.found
    assert "7" in finding.found.removeprefix(str(folder))
    assert finding.remedy == (
        "get the model's own statistics (published with it), or measure them: hotsplit profile --model HF_FOLDER "
        f"--data TEXT_FILE --output {folder / 'activation'} --force"
    )


def test_statistics_of_another_model(folder: Path) -> None:
    torch.save(torch.ones(_N_FF + 1), folder / "activation" / "activation_3.pt")
    finding = only(examine(case_of(folder)))
    assert (finding.check, finding.status) == ("statistics", Status.PROBLEM)
    assert "activation_3.pt" in finding.found
    assert "1025" in finding.found


def test_a_layer_that_never_fired(folder: Path) -> None:
    torch.save(torch.zeros(_N_FF), folder / "activation" / "activation_3.pt")
    finding = only(examine(case_of(folder)))
    assert (finding.check, finding.status) == ("statistics", Status.WARNING)
    assert finding.found == (
        f"{folder / 'activation'}: no neuron ever fired in layer 3, so nothing shows which are hot"
    )


def test_a_space_in_the_path(folder: Path) -> None:
    moved = folder.rename(folder.parent / "my models;x")
    finding = only(examine(case_of(moved)))
    assert finding == Finding(
        "path",
        Status.PROBLEM,
        f"{moved / _MODEL}: the engine does not quote its shell call, and a shell would not leave ' ' ';' alone",
        "rename the folders or the file, or start the engine from a folder from which the path needs none of them",
    )
    write_an_index(moved)
    assert only(examine(case_of(moved))).status is Status.WARNING


def test_a_safe_name_from_inside_an_unsafe_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.rename(folder.parent / "my models"))
    assert others_than_ok(examine(case_of(Path()))) == []


# ---- the index ------------------------------------------------------------------------------------------------------


def index_findings(case: Case) -> list[tuple[Status, str]]:
    return [(finding.status, finding.found) for finding in examine(case) if finding.check == "index"]


def test_a_broken_index(folder: Path) -> None:
    path = write_an_index(folder)
    path.write_bytes(path.read_bytes()[:-100])
    ((status, found),) = index_findings(case_of(folder))
    assert status is Status.PROBLEM
    assert found.startswith(f"broken: {path}: ")


def test_an_index_that_is_no_file(folder: Path) -> None:
    (folder / f"{_MODEL}.generated.gpuidx").mkdir()
    ((status, found),) = index_findings(case_of(folder))
    assert status is Status.PROBLEM
    assert found.startswith("broken: ")


def test_an_index_with_a_neuron_out_of_range(folder: Path) -> None:
    path = write_an_index(folder)
    content = bytearray(path.read_bytes())
    content[-4:] = (_N_FF).to_bytes(4, "little")
    path.write_bytes(content)
    findings = index_findings(case_of(folder))
    assert {status for status, _ in findings} == {Status.PROBLEM}
    assert all(found.startswith(f"{path}: blk.11.gpu_bucket") for _, found in findings)
    assert any("1024" in found for _, found in findings)


def test_an_empty_index(folder: Path) -> None:
    path = write_an_index(folder, hot_neurons=0)
    assert index_findings(case_of(folder)) == [(Status.PROBLEM, f"{path}: empty, it puts no neuron on the GPU")]


def test_an_index_of_a_model_with_fewer_layers(folder: Path) -> None:
    path = write_an_index(folder, layers=_LAYERS - 1)
    assert index_findings(case_of(folder)) == [
        (Status.PROBLEM, f"{path}: has 11 layers, but the model has 12; the engine will not use it")
    ]


def test_an_index_that_understates_what_it_needs(folder: Path) -> None:
    needed_bytes = _LAYERS * _HOT * _NEURON_BYTES
    path = write_an_index(folder, capacity_bytes=needed_bytes - 1)
    assert index_findings(case_of(folder)) == [
        (
            Status.PROBLEM,
            f"{path}: split.vram_capacity is {needed_bytes - 1}, but its neurons take {needed_bytes} bytes, so the "
            "engine would load it into memory that is not there",
        )
    ]


def test_an_index_of_upstreams_that_overstates_it_but_fits(folder: Path) -> None:
    write_an_index(folder, capacity_bytes=_LAYERS * _HOT * _NEURON_BYTES + 1000)
    assert others_than_ok(examine(case_of(folder))) == []


def test_an_index_too_large_for_the_present_budget(folder: Path, machine: Callable[..., None]) -> None:
    path = write_an_index(folder, hot_neurons=768)
    wants = f"{path}: wants 3.4 MiB for the FFN, but only 2.7 MiB will be left, so the engine will not use it"
    assert index_findings(case_of(folder)) == [(Status.WARNING, wants)]
    # Without a helper that runs, the engine cannot make another.
    machine(python=replace(_OURS, fault="No module named 'torch'"))
    assert index_findings(case_of(folder)) == [(Status.PROBLEM, wants)]


def test_the_engines_budget_not_ours_decides_what_is_too_large(folder: Path) -> None:
    fits_bytes = _FFN_BYTES * 6 // 10
    write_an_index(folder, capacity_bytes=fits_bytes)
    assert index_findings(case_of(folder))[0][0] is Status.OK
    write_an_index(folder, capacity_bytes=fits_bytes + 1)
    assert index_findings(case_of(folder))[0][0] is Status.WARNING


@pytest.mark.parametrize(
    ("mark", "found"),
    [
        (MARK_MODEL, "stale, it was made for another version of the model"),
        (MARK_ACTIVATIONS, "stale, it was made from other statistics than those next to the model"),
    ],
)
def test_a_stale_index_by_its_marks(folder: Path, mark: str, found: str) -> None:
    path = write_an_index(folder, marks={mark: f"sha256:{'0' * 64}"})
    assert index_findings(case_of(folder)) == [(Status.PROBLEM, f"{path}: {found}")]


def test_the_remedy_for_an_index_is_the_command_that_cures_it(folder: Path) -> None:
    path = write_an_index(folder, marks={MARK_MODEL: f"sha256:{'0' * 64}"})
    budget_bytes = split_budget(folder)
    options: dict[str, Any] = {
        "gpu_selector": "1",
        "cuda_context_bytes": 200 * _MIB,
        "context": 256,
        "kv_type": "f32",
        "batch": 64,
        "reserve": ReserveOptions({"scratch": 0, "work_buffers": 5}),
    }
    said = only(examine(case_of(folder, **options)))
    begin = f"write it again: hotsplit export --model {folder / _MODEL}"
    assert said.remedy == (
        f"{begin} --gpu 1 --vram-budget {budget_bytes}B --cuda-context 209715200B --context 256 --kv-type f32 "
        "--batch-size 64 --reserve scratch=0B --reserve work_buffers=5B"
    )
    said = only(examine(case_of(folder, reserve=ReserveOptions(total_bytes=7))))
    assert said.remedy == f"{begin} --vram-budget {budget_bytes}B --reserve 7B"
    # Export leaves a sound index alone that Hotsplit did not write, so its remedy has to say --force.
    write_an_index(folder, coldest=True)
    said = others_than_ok(examine(case_of(folder)))[0]
    assert said.remedy == f"{begin} --vram-budget {budget_bytes}B --force"
    path.write_bytes(b"")
    assert only(examine(case_of(folder))).remedy == f"{begin} --vram-budget {budget_bytes}B"
    path.unlink()
    path.mkdir()
    assert only(examine(case_of(folder))).remedy.startswith(f"remove {path}, then write it again: hotsplit export ")


def test_statistics_of_experts_are_not_for_this_engine(folder: Path) -> None:
    for layer in range(_LAYERS):
        path = folder / "activation" / f"activation_{layer}.pt"
        shutil.copy(path, path.with_name(f"activation_{layer}_0.pt"))
        path.rename(path.with_name(f"activation_{layer}_1.pt"))
    said = only(examine(case_of(folder)))
    assert (said.check, said.status) == ("statistics", Status.PROBLEM)
    assert said.found == (
        f"{folder / 'activation'}: statistics of experts (activation_<L>_<E>.pt), which PowerInfer does not read; only "
        "the fork for mixtures of experts does"
    )


def test_the_remedy_for_a_small_stated_budget_is_a_larger_one(folder: Path) -> None:
    said = only(examine(case_of(folder, vram_budget_bytes=_MIB)))
    assert said.remedy == "start the engine with a larger --vram-budget, or use a smaller model or quantisation"


def test_a_helper_of_somebody_elses_that_fails_is_in_the_way(folder: Path, machine: Callable[..., None]) -> None:
    machine(python=replace(_OURS, helper=Helper.UPSTREAM, fault="ModuleNotFoundError: No module named 'cvxopt'"))
    said = only(examine(case_of(folder)))
    assert said.remedy == f"hotsplit engine install --force ({_INSTALL})"


def test_a_stale_index_by_its_neurons(folder: Path) -> None:
    path = write_an_index(folder, coldest=True)
    assert index_findings(case_of(folder)) == [
        (
            Status.PROBLEM,
            f"{path}: stale, blk.0.gpu_idx leaves out neurons that are hotter, by the statistics next to the model, "
            "than some that it has",
        )
    ]


@pytest.mark.parametrize(
    ("ffn_type", "hot_neurons", "step"),
    [
        (gguf.GGMLQuantizationType.F16, 33, 32),
        (gguf.GGMLQuantizationType.F16, 64, None),
        (gguf.GGMLQuantizationType.F16, _N_FF, None),
        (gguf.GGMLQuantizationType.Q4_0, 288, 256),
        (gguf.GGMLQuantizationType.Q4_0, 512, None),
    ],
)
def test_a_number_of_neurons_that_the_kernels_cannot_compute(
    folder: Path, ffn_type: gguf.GGMLQuantizationType, hot_neurons: int, step: int | None
) -> None:
    write_model(folder / _MODEL, ffn_type=ffn_type)
    path = write_an_index(folder, hot_neurons=hot_neurons)
    findings = index_findings(case_of(folder, vram_budget_bytes=_GIB))
    if step is None:
        assert findings[0][0] is Status.OK
    else:
        assert findings[0] == (
            Status.PROBLEM,
            f"{path}: blk.0.gpu_bucket has {hot_neurons} neurons, but the engine computes those of {ffn_type.name} "
            f"weights in multiples of {step} only",
        )
        assert findings[5] == (Status.PROBLEM, f"{path}: … 7 more like it")


# ---- the command ----------------------------------------------------------------------------------------------------

_MAIN = """
import sys
from planner.cli.run import build_parser, run_command
from exporter.commands import doctor
sys.exit(run_command(build_parser("hotsplit", "", [doctor])))
"""


def run(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", _MAIN, "doctor", *arguments]
    return subprocess.run(
        command, env={"COLUMNS": "200", **environment}, capture_output=True, encoding="utf-8", check=False, timeout=120
    )


@pytest.fixture
def environment(nvml: NvmlStandIn, tmp_path: Path) -> dict[str, str]:
    """The environment of a process that finds one GPU, and a python3 without any package."""
    gpu = f"gpu\tuuid=GPU-1\tname=NVIDIA GeForce RTX 4090\ttotal={24 * _GIB}\tfree={23 * _GIB}\n"
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S -E "$@"\n', encoding="utf-8")
    python.chmod(0o755)
    return nvml.environment(gpu, PATH=f"{tmp_path / 'bin'}:/usr/bin:/bin")


def test_exit_code_1_and_the_remedy(folder: Path, environment: dict[str, str]) -> None:
    done = run(environment, "--model", str(folder / _MODEL), "--vram-budget", f"{split_budget(folder)}B", "--json")
    assert (done.returncode, done.stderr) == (1, "")
    told = checked(done.stdout)
    assert (told["model"], told["problems"], told["warnings"]) == (str(folder / _MODEL), 1, 0)
    (problem,) = [finding for finding in told["findings"] if finding["status"] == "problem"]
    assert problem["check"] == "helper"
    assert problem["found"].endswith("it finds no package named powerinfer")
    assert problem["remedy"] == _INSTALL


def test_exit_code_0_when_a_sound_index_is_there(folder: Path, environment: dict[str, str]) -> None:
    write_an_index(folder)
    done = run(environment, "--model", str(folder / _MODEL), "--vram-budget", f"{split_budget(folder)}B")
    assert (done.returncode, done.stderr) == (0, "")
    assert "6,144 hot neurons" in done.stdout
    assert done.stdout.splitlines()[-1] == "problems: 0, warnings: 1; the engine will offload"


def test_a_hostile_name_is_printed_as_text(tmp_path: Path, environment: dict[str, str]) -> None:
    done = run(environment, "--model", str(tmp_path / "a\x1b[2Jb.gguf"))
    assert done.returncode == 1
    assert "\x1b" not in done.stdout
    assert "Traceback" not in done.stderr


def test_help_imports_nothing_heavy(environment: dict[str, str]) -> None:
    code = (
        "import sys\nfrom planner.cli.run import build_parser\nfrom exporter.commands import doctor\n"
        "try:\n    build_parser('hotsplit', '', [doctor]).parse_args(['doctor', '--help'])\n"
        "except SystemExit as done:\n    assert done.code == 0\n"
        "print([name for name in ('numpy', 'torch', 'pynvml', 'gguf') if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
