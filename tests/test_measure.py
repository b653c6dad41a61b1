import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from exporter.commands import measure as command
from exporter.measure.engine_log import rate_of_log
from exporter.measure.entry import as_yaml
from exporter.measure.gpu import GpuFound, measure_gpu
from exporter.measure.host import GatherFound, HostFound, measure_host, steps
from planner.base.errors import InputError
from planner.catalogue.entries import load_catalogue
from planner.studies.cpu_rates import Gather
from planner.studies.speed_basis import Basis
from planner.studies.study import load_study
from tests.commands import hotsplit

HOST = HostFound(4, 20e9, 50e9, (GatherFound(4096, 0.15, 10e9, 30e9), GatherFound(4096, 0.5, 14e9, 40e9)))
GPU = GpuFound("NVIDIA Some GPU", 8 << 30, 400e9, 12e9, 300 << 20)

LOG = """\
llm_load_print_meta: n_vocab          = 1000
llm_load_print_meta: n_embd           = 2048
llm_load_print_meta: n_layer          = 8
llm_load_print_meta: n_ff             = 5632
llm_load_print_meta: model ftype      = mostly Q4_0
llm_load_print_meta: model params     = 0.50 B
llm_load_print_meta: model size       = 0.25 GiB (4.30 BPW)
system_info: n_threads = 2 / 4 | AVX = 1 |
llama_print_timings: prompt eval time =     100.00 ms /     4 tokens (   25.00 ms per token,    40.00 tokens per second)
llama_print_timings:        eval time =     310.00 ms /    31 runs   (   10.00 ms per token,   100.00 tokens per second)
"""


def test_a_host_is_measured_by_the_clock_of_each_thread() -> None:
    ticks = itertools.count()
    said: list[int] = []
    found = measure_host(1, lambda: said.append(1), matrix_bytes=1 << 22, clock=lambda: next(ticks) / 4)
    # Every job takes a quarter of a second on this clock.
    assert found.all_stream_bytes_per_s == found.one_stream_bytes_per_s == (1 << 22) * 4
    half = next(row for row in found.gather if (row.row_bytes, row.share) == (4096, 0.5))
    assert half.one_bytes_per_s == half.all_bytes_per_s == 512 * 4096 * 4
    assert len(found.gather) == 16
    assert len(said) == steps()


def test_a_gpu_is_measured_with_its_link_and_context() -> None:
    class Words:
        def __init__(self, count: int) -> None:
            self.count, self.nbytes = count, 4 * count

        def __len__(self) -> int:
            return self.count

        def __getitem__(self, part: slice) -> "Words":
            return Words(part.stop)

        def sum(self) -> None:
            pass

        def copy_(self, other: "Words", *, non_blocking: bool) -> None:
            assert len(other) == len(self)
            assert non_blocking

    cuda = SimpleNamespace(
        is_available=lambda: True,
        init=lambda: None,
        synchronize=lambda: None,
        mem_get_info=lambda _device: (7 << 30, 8 << 30),
        get_device_name=lambda _device: "NVIDIA Some GPU",
    )
    torch: Any = SimpleNamespace(
        cuda=cuda, ones=lambda count, device: Words(count), empty=lambda count, pin_memory: Words(count)
    )
    free, ticks = iter([7 << 30, (7 << 30) - (300 << 20)]), itertools.count()
    found = measure_gpu(torch, lambda: next(free), clock=lambda: float(next(ticks)))
    assert found == GpuFound("NVIDIA Some GPU", 8 << 30, float(1 << 30), float(1 << 28), 300 << 20)
    cuda.is_available = lambda: False
    assert measure_gpu(torch, lambda: None) is None


def test_a_study_names_what_was_measured(tmp_path: Path) -> None:
    (tmp_path / "measured.yaml").write_text(as_yaml(HOST, 32 << 30, {"Q4_0": 8e9}, GPU))
    (tmp_path / "study.yaml").write_text(
        "models: relu-llama-7b\nquantisations: Q4_0\ngpus: measured.yaml\nhosts: measured.yaml\n"
    )
    (cell,) = load_study(tmp_path / "study.yaml").cells
    assert (cell.host.label, cell.host.bandwidth_bytes_per_s) == ("measured-host", 50 * 10**9)
    assert (cell.host.memory_bytes, cell.host.efficiency, cell.host.cpu.cores) == (32 << 30, 1.0, 4)
    assert cell.host.cpu.gather == (Gather(4096, 0.15, 10e9, 30e9), Gather(4096, 0.5, 14e9, 40e9))
    assert cell.host.cpu.arithmetic == (("Q4_0", 8e9),)
    assert {basis for _, basis in cell.host.basis} == {Basis.MEASURED}
    assert (cell.gpu.label, cell.gpu.vram_bytes) == ("nvidia-some-gpu-measured", 8 << 30)
    assert (cell.gpu.bandwidth_bytes_per_s, cell.gpu.pcie_bytes_per_s) == (400 * 10**9, 12 * 10**9)
    assert (cell.gpu.context_bytes, cell.gpu.efficiency) == (300 << 20, 1.0)


def test_a_file_without_what_a_study_wants_is_said(tmp_path: Path) -> None:
    path = tmp_path / "measured.yaml"
    path.write_text(as_yaml(HOST, None, {}, None))
    (tmp_path / "study.yaml").write_text("models: relu-llama-7b\ngpus: measured.yaml\nhosts: measured.yaml\n")
    with pytest.raises(InputError) as caught:
        load_study(tmp_path / "study.yaml")
    assert str(caught.value) == f"{path}: found no GPU, expected one; `hotsplit measure` writes what the machine has"
    path.write_text("hosts: {a: {bandwidth: 5}, b: {bandwidth: 6}}\n")
    (tmp_path / "study.yaml").write_text("models: relu-llama-7b\ngpus: rtx-4090\nhosts: measured.yaml\n")
    with pytest.raises(InputError) as caught:
        load_study(tmp_path / "study.yaml")
    assert str(caught.value) == f"{path}: found 2 hosts, expected one: a, b"


def test_every_figure_of_a_written_entry_has_a_source(tmp_path: Path) -> None:
    text = as_yaml(HOST, 32 << 30, {"Q4_0": 8e9}, GPU)
    hosts, gpus = text[text.index("hosts:\n") : text.index("gpus:\n")], text[text.index("gpus:\n") :]
    (tmp_path / "hosts.yaml").write_text(hosts)
    (tmp_path / "gpus.yaml").write_text(gpus)
    catalogue = load_catalogue(tmp_path)
    assert catalogue.hosts["measured-host"].unsourced() == []
    assert catalogue.gpus["nvidia-some-gpu-measured"].unsourced() == []


def test_the_engines_log_gives_the_rate_of_a_core(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    path.write_text(LOG)
    found = rate_of_log(path)
    size = 0.25 * 2**30
    read_bytes = size - 1000 * 2048 * size / 0.5e9
    assert (found.kind, found.threads, found.token_s) == ("Q4_0", 2, 0.010)
    assert found.read_bytes == round(read_bytes)
    assert found.bytes_per_s == pytest.approx(read_bytes / 0.010 / 2)
    sparse = rate_of_log(path, 0.25)
    assert sparse.read_bytes == round(read_bytes - 3 * 8 * 2048 * 5632 * 0.75 * size / 0.5e9)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "llama_print_timings:        eval",
            "nothing",
            "found no line with 'eval time', expected what the engine prints while it loads a model and the "
            "llama_print_timings at its end; keep both of its streams (> engine.log 2>&1)",
        ),
        (
            "10.00 ms per token",
            "0.00 ms per token",
            "found a time, a size or threads of 0, expected more; use the log of a whole run",
        ),
        (
            "n_vocab          = 1000",
            "n_vocab          = 99999999",
            "found dimensions larger than the model, expected those of one model",
        ),
    ],
)
def test_logs_that_say_too_little(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "engine.log"
    path.write_text(LOG.replace(old, new))
    with pytest.raises(InputError) as caught:
        rate_of_log(path)
    assert str(caught.value) == f"{path}: {message}"


def test_the_command_prints_and_writes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_measured", lambda _room: (HOST, GPU))
    log, output = tmp_path / "engine.log", tmp_path / "measured.yaml"
    log.write_text(LOG)
    done = hotsplit(capsys, "measure", "--engine-log", log, "--output", output)
    assert done.exit_code == 0
    assert "15% of rows of 4,096 bytes" in done.out
    assert "Q4_0 arithmetic, from the log" in done.out
    assert f"written: {output}" in done.out
    assert max(map(len, done.out.splitlines()[:6])) <= 80
    # A measurement takes the place of one; anything else stays.
    assert hotsplit(capsys, "measure", "--output", output).exit_code == 0
    found = json.loads(hotsplit(capsys, "measure", "--json").out)
    assert found["gather"][0] == {
        "row_bytes": 4096,
        "share": 0.15,
        "one_core_bytes_per_s": 10_000_000_000,
        "all_cores_bytes_per_s": 30_000_000_000,
    }
    assert found["gpu"]["context_bytes"] == 300 << 20
    output.write_text("mine\n")
    assert hotsplit(capsys, "measure", "--output", output).exit_code == 2
    assert output.read_text() == "mine\n"
    assert hotsplit(capsys, "measure", "--active-share", "2").exit_code == 2
