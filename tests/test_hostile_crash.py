"""Power cuts, full disks and impatient users: an output is the old file or the whole new one, and Ctrl-C is quick.

The command runs for real, in processes that are killed; nothing here is mocked but the moment.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import model_files
from tests.commands import hotsplit
from tests.processes import started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux signals, limits, mounts and fork")

ROOT = Path(__file__).resolve().parent.parent
COMMAND = [sys.executable, "-m", "exporter"]
N_LAYER, N_FF = 12, 256
OLD = b"PWRI of a former run, cut off: generic.gpu_index"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "activation").mkdir(parents=True)
    random = np.random.default_rng(0)
    for layer in range(N_LAYER):
        counts = torch.from_numpy(random.integers(0, 9999, N_FF))
        torch.save(counts, folder / "activation" / f"activation_{layer}.pt")
    return model_files.llama(n_layer=N_LAYER, n_ff=N_FF).write(folder / "m.powerinfer.gguf")


@pytest.fixture
def plan(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    path = tmp_path / "plan.json"
    assert hotsplit(capsys, "plan", "--model", model, "--vram-budget", "1GiB", "--output", path).exit_code == 0
    return path


def partial_files(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".hotsplit-partial"))


KILLED_AT_A_LINE = """
import os, signal, sys
import exporter.commands.export, exporter.powerinfer.export, exporter.powerinfer.overwrite
import gguf, planner.engines.powerinfer.geometry, planner.model_files.header
from exporter.__main__ import main

plan, output, most = sys.argv[1], sys.argv[2], int(sys.argv[3])
WRITING = ("planner/base/files.py", "exporter/powerinfer/index_writer.py", "gguf/gguf_writer.py")

def run(last):
    lines = 0
    def trace(frame, event, argument):
        nonlocal lines
        if not frame.f_code.co_filename.endswith(WRITING):
            return None
        lines += 1
        if lines == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    sys.settrace(trace)
    code = main(["export", "--plan", plan, "--output", output, "--device", "cpu", "--force"])
    sys.settrace(None)
    print(lines, flush=True)
    os._exit(code)

def killed(last):
    child = os.fork()
    if not child:
        run(last)
    return os.waitpid(child, 0)[1]

assert killed(0) == 0  # prints how many lines there are
total = int(input())
step = max(1, total // most)
last = 1
while os.WIFSIGNALED(killed(last)):
    print("killed", flush=True)
    input()
    last += 1 if last > total - step else step  # the rename is near the end
"""


def test_an_export_killed_at_any_line_leaves_the_old_index_or_the_new_one(model: Path, plan: Path) -> None:
    output = model.with_name("x.gpuidx")
    with started(
        [sys.executable, "-W", "ignore", "-c", KILLED_AT_A_LINE, str(plan), str(output), "100"],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as killer:  # fmt: skip
        assert killer.stdin is not None
        assert killer.stdout is not None
        said: list[str] = []

        def next_line() -> str:
            assert killer.stdout is not None
            said.append(killer.stdout.readline().strip())
            return said[-1]

        while not next_line().isdigit():
            pass
        new = output.read_bytes()
        output.write_bytes(OLD)
        killer.stdin.write(said[-1] + "\n")
        killer.stdin.flush()
        seen = {OLD: 0, new: 0}
        most_left = 0
        while next_line():
            if said[-1] != "killed":
                continue
            content = output.read_bytes()
            assert content in seen, "half an index"
            seen[content] += 1
            # What the one before left is removed by the next; nobody mistakes it for an index.
            most_left = max(most_left, len(partial_files(model.parent)))
            output.write_bytes(OLD)
            killer.stdin.write("\n")
            killer.stdin.flush()
    assert killer.returncode == 0
    assert seen[OLD] > 90
    assert seen[new] > 0
    assert most_left == 1
    subprocess.run([*COMMAND, "export", "--plan", plan, "--output", output, "--force"], cwd=ROOT, check=True)
    assert output.read_bytes() == new
    assert partial_files(model.parent) == []


def test_exports_to_one_name_at_once_all_succeed(
    model: Path, plan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, other = model.with_name("x.gpuidx"), tmp_path / "other.json"
    fewer = ("--granularity", "96", "--vram-budget", "1GiB", "--reserve", "1GiB")
    assert hotsplit(capsys, "plan", "--model", model, *fewer, "--output", other).exit_code == 0
    indexes = []
    for each in (plan, other):
        alone = tmp_path / f"{each.stem}.gpuidx"
        assert hotsplit(capsys, "export", "--plan", each, "--output", alone).exit_code == 0
        indexes.append(alone.read_bytes())
    assert indexes[0] != indexes[1]
    with contextlib.ExitStack() as running:
        runs = [
            running.enter_context(
                started(
                    [*COMMAND, "export", "--plan", each, "--output", output], cwd=ROOT, stderr=subprocess.PIPE,
                    stdout=subprocess.DEVNULL,
                )
            )
            for each in (plan, other, plan, other)
        ]  # fmt: skip
        complaints = [run.communicate(timeout=120)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0, 0, 0], complaints
    assert output.read_bytes() in indexes
    assert partial_files(model.parent) == []


@contextlib.contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """Mounts something for the duration of a test, where the system lets us."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting needs root")
    done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no mounting here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_leaves_the_old_index(model: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = model.parent / "disk"
    disk.mkdir()
    with mounted(disk, "-t", "tmpfs", "-o", "size=8k", "tmpfs"):
        (disk / "x.gpuidx").write_bytes(OLD)
        done = hotsplit(capsys, "export", "--plan", plan, "--output", disk / "x.gpuidx")
        assert (done.exit_code, done.out) == (2, "")
        assert done.err.startswith("hotsplit: error: ")
        assert "No space left on device" in done.err
        assert (disk / "x.gpuidx").read_bytes() == OLD
        assert partial_files(disk) == []


def test_a_read_only_folder_is_said(model: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    disk = model.parent / "disk"
    disk.mkdir()
    (disk / "x.gpuidx").write_bytes(OLD)
    with mounted(disk, "--bind", str(disk)):
        subprocess.run(["mount", "-o", "remount,bind,ro", str(disk)], check=True)
        done = hotsplit(capsys, "export", "--plan", plan, "--output", disk / "x.gpuidx")
        assert (done.exit_code, done.out) == (2, "")
        assert done.err.startswith("hotsplit: error: ")
        assert done.err.endswith(": Read-only file system\n")
        assert (disk / "x.gpuidx").read_bytes() == OLD


def test_a_file_size_limit_leaves_the_old_index(model: Path, plan: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = model.with_name("x.gpuidx")
    output.write_bytes(OLD)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (6000, limits[1]))
        done = hotsplit(capsys, "export", "--plan", plan, "--output", output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert (done.exit_code, done.out) == (2, "")
    assert "File too large" in done.err
    assert output.read_bytes() == OLD
    assert partial_files(model.parent) == []


INTERRUPTED_WHILE_IMPORTING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # as in the foreground of a shell
count, last = 0, int(sys.argv.pop(1))
def hook(event, arguments):
    global count
    if event == "import":
        count += 1
        if count == last:
            os.kill(os.getpid(), signal.SIGINT)
sys.addaudithook(hook)
from exporter.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("imports", [60, 120, 200, 250, 300])
def test_ctrl_c_while_libraries_load(model: Path, plan: Path, imports: int) -> None:
    output = model.with_name("x.gpuidx")
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_IMPORTING, str(imports), "export", "--plan", plan, "--output", output],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == "hotsplit: error: interrupted; no file is left half-written\n"
    assert done.returncode == 130
    assert not output.exists()
    assert partial_files(model.parent) == []


INTERRUPTED_WHILE_WRITING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import exporter.powerinfer.index_writer
original = exporter.powerinfer.index_writer._write_data
def write(file, numbers):
    write.calls += 1
    if write.calls == 2:
        os.kill(os.getpid(), signal.SIGINT)
    original(file, numbers)
write.calls = 0
exporter.powerinfer.index_writer._write_data = write
from exporter.__main__ import main
sys.exit(main())
"""


def test_ctrl_c_while_the_index_is_written(model: Path, plan: Path) -> None:
    output = model.with_name("x.gpuidx")
    output.write_bytes(OLD)
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_WHILE_WRITING, "export", "--plan", plan, "--output", output],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == "hotsplit: error: interrupted; no file is left half-written\n"
    assert done.returncode == 130
    assert output.read_bytes() == OLD
    assert partial_files(model.parent) == []


# A knapsack of many constraints, which takes HiGHS hours, and a file that is being written meanwhile.
INTERRUPTED_WHILE_SOLVING = """
import os, pathlib, random, signal, sys, threading, types
signal.signal(signal.SIGINT, signal.default_int_handler)
from planner.cli.run import build_parser, run_command

def run(arguments):
    import pulp
    from planner.base.files import staged
    from planner.base.quiet import answer_stream
    random.seed(1)
    problem = pulp.LpProblem("hard", pulp.LpMaximize)
    chosen = [problem.add_variable(f"x{i}", 0, 1, pulp.LpInteger) for i in range(600)]
    for row in range(40):
        weights = [random.randint(1000, 100_000) for _ in chosen]
        terms = pulp.LpAffineExpression(list(zip(chosen, weights)))
        problem.addConstraint(pulp.LpConstraint(terms, pulp.LpConstraintLE, f"row{row}", sum(weights) // 2))
    problem.setObjective(pulp.LpAffineExpression([(x, random.randint(1000, 100_000)) for x in chosen]))
    with staged(pathlib.Path(sys.argv[2])):
        threading.Timer(1.5, print, ["solving"], {"flush": True, "file": answer_stream()}).start()
        problem.solve(pulp.HiGHS(msg=False, gapRel=0.0))
    return 0

act = types.ModuleType("act")
act.add_parser = lambda subparsers: subparsers.add_parser("act").set_defaults(run=run)
sys.exit(run_command(build_parser("hotsplit", "", [act]), sys.argv[1:2]))
"""


def test_ctrl_c_while_the_solver_does_not_listen(tmp_path: Path) -> None:
    with started(
        [sys.executable, "-c", INTERRUPTED_WHILE_SOLVING, "act", str(tmp_path / "out")],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as solving:  # fmt: skip
        assert solving.stdout is not None
        assert solving.stderr is not None
        assert solving.stdout.readline() == "solving\n"
        assert len(partial_files(tmp_path)) == 1
        start = time.monotonic()
        solving.send_signal(signal.SIGINT)
        assert solving.wait(timeout=30) == 130
        assert time.monotonic() - start < 10
        assert solving.stderr.read() == "hotsplit: error: interrupted; no file is left half-written\n"
    assert list(tmp_path.iterdir()) == []


# A sweep of far more cells than are answered before it is interrupted, which says when its processes have work.
INTERRUPTED_SWEEP = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from concurrent.futures import ProcessPoolExecutor
from planner.base.quiet import answer_stream
submit = ProcessPoolExecutor.submit

def told(*arguments):
    print("submitted", flush=True, file=answer_stream())
    ProcessPoolExecutor.submit = submit
    return submit(*arguments)

ProcessPoolExecutor.submit = told
from exporter.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("wait_s", [0.0, 1.0])
def test_ctrl_c_while_processes_sweep_a_study(tmp_path: Path, wait_s: float) -> None:
    study = tmp_path / "study.yaml"
    contexts = ", ".join(str(context) for context in range(512, 20_512))
    study.write_text(f"models: relu-llama-70b\ngpus: rtx-4090\nhosts: ddr5-5600-dual\ncontexts: [{contexts}]\n")
    with started(
        [sys.executable, "-c", INTERRUPTED_SWEEP, "whatif", study, "--processes", "2"],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as sweeping:  # fmt: skip
        assert sweeping.stdout is not None
        assert sweeping.stderr is not None
        assert sweeping.stdout.readline() == "submitted\n"
        time.sleep(wait_s)
        start = time.monotonic()
        os.killpg(sweeping.pid, signal.SIGINT)  # as a terminal does, to all
        assert sweeping.wait(timeout=60) == 130
        assert time.monotonic() - start < 10
        assert sweeping.stderr.read() == "hotsplit: error: interrupted; no file is left half-written\n"
        assert sweeping.stdout.read() == ""


# A CBC that says who it is and then takes for ever.
SLOW_CBC = """#!/bin/sh
echo $$ >"$0.started.tmp" && mv "$0.started.tmp" "$0.started"
exec sleep 600
"""
INTERRUPTED_CBC = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import pulp
from planner.placement import ilp
from planner.base.interrupt import interruptible
from planner.placement.problem import SolverOptions

pulp.PULP_CBC_CMD.pulp_cbc_path = sys.argv[1]
layer = ilp.IlpLayer(layer=0, weight=1, n_ff=10, low=0, high=10, split=False, tangents=[(1.0, 0.0)])
model = ilp.IlpModel(layers=[layer], capacity=5, floor=0, other_units=0,
    granularity=1, whole=True, most_on=None, scale=1.0)

def solve():
    ilp.run(model, SolverOptions(solver="cbc"), gap=0.0, time_limit_s=None)
    return 0

sys.exit(interruptible(solve))
"""


def test_ctrl_c_for_hotsplit_alone_ends_cbc_and_its_files(tmp_path: Path) -> None:
    slow, scratch = tmp_path / "cbc", tmp_path / "scratch"
    slow.write_text(SLOW_CBC)
    slow.chmod(0o755)
    scratch.mkdir()
    with started(
        [sys.executable, "-c", INTERRUPTED_CBC, slow],
        cwd=ROOT, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(scratch)},
    ) as solving:  # fmt: skip
        begun = Path(f"{slow}.started")
        deadline = time.monotonic() + 60
        while not begun.exists():
            assert solving.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert list(scratch.rglob("*.mps"))
        solving.send_signal(signal.SIGINT)
        assert solving.wait(timeout=30) == 130
        assert solving.stderr is not None
        assert solving.stderr.read() == "hotsplit: error: interrupted; no file is left half-written\n"
        with pytest.raises(ProcessLookupError):
            os.kill(int(begun.read_text()), 0)
    assert list(scratch.iterdir()) == []
