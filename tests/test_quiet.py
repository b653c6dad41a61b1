"""Standard output carries the answer alone: commands as processes, with libraries that print wherever they can."""

from __future__ import annotations

import ast
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from planner.base.quiet import answer_stream, only_the_answer
from tests import model_files
from tests.processes import started

_ROOT = Path(__file__).resolve().parent.parent

# A library that prints in every way there is: with Python, straight to the descriptor, through C's buffer, through a
# process of its own, and when Python ends. It stands in for every library that a command may load; the real one is
# loaded behind it, and its solver prints, too, when it is made and when it solves.
NOISY = """
import atexit, builtins, ctypes, os, subprocess, sys

LIBRARIES = {"numpy", "msgspec", "yaml", "rich", "pulp", "highspy", "gguf", "torch", "shtab", "pynvml", "transformers"}
HEARD = os.environ["HOTSPLIT_HEARD"]
c = ctypes.CDLL(None)

def noise(what):
    with open(HEARD, "a") as heard:
        print(what, file=heard)
    print("python noise", what)
    sys.stdout.write("stream noise")
    os.write(1, b"descriptor noise\\n")
    c.printf(b"C noise\\n")
    subprocess.run(["echo", "process noise"], check=True)

def noisy_solver(highspy):
    original = highspy.Highs
    class Highs(original):
        def __init__(self):
            noise("constructed")
            super().__init__()
        def run(self):
            noise("solves")
            return super().run()
    highspy.Highs = Highs

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name in LIBRARIES and name not in seen:
            seen.add(name)
            noise(name)
        return None

seen = set()
sys.meta_path.insert(0, Finder())
real = builtins.__import__
def importing(name, *rest, **options):
    module = real(name, *rest, **options)
    if name == "highspy" and not hasattr(sys.modules["highspy"].Highs, "noisy"):
        noisy_solver(sys.modules["highspy"])
        sys.modules["highspy"].Highs.noisy = True
    return module
builtins.__import__ = importing
atexit.register(lambda: (os.write(1, b"late noise\\n"), c.printf(b"late C noise\\n")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with statistics, a study and a plan."""
    folder = tmp_path_factory.mktemp("quiet")
    (folder / "activation").mkdir()
    random = np.random.default_rng(0)
    for layer in range(6):
        torch.save(torch.from_numpy(random.integers(0, 9999, 128)), folder / "activation" / f"activation_{layer}.pt")
    model_files.llama(n_layer=6, n_ff=128).write(folder / "m.gguf")
    contexts = ", ".join(str(512 + number) for number in range(40))
    (folder / "study.yaml").write_text(
        f"models: relu-llama-7b\ngpus: rtx-4060\nhosts: ddr5-5600-dual\ncontexts: [{contexts}]\n"
    )
    return folder


BUDGET = ("--vram-budget", "1GiB", "--granularity", "32", "--reserve", "1072600000B")
COMMANDS = [
    ("plan", "--model", "m.gguf", *BUDGET, "--json"),
    ("plan", "--model", "m.gguf", *BUDGET, "--solver", "cbc", "--json"),
    ("fit", "--model", "m.gguf", *BUDGET[:2], "--json"),
    ("export", "--model", "m.gguf", *BUDGET, "--force", "--json"),
    ("verify", "m.gguf.generated.gpuidx", "--model", "m.gguf", "--json"),
    ("inspect", "m.gguf.generated.gpuidx", "--json"),
    ("diff", "m.gguf.generated.gpuidx", "m.gguf.generated.gpuidx", "--json"),
    ("doctor", "--model", "m.gguf", "--vram-budget", "1GiB", "--json"),
    ("devices", "--json"),
    ("demo", "demo", "--shape", "relu-llama-7b", "--force", "--json"),
    ("whatif", "study.yaml", "--processes", "1", "--json"),
    ("whatif", "study.yaml", "--processes", "2", "--json"),
    ("whatif", "--schema"),
    ("catalogue", "--json"),
    ("engine", "status", "--json"),
]


def test_the_answers_of_commands_are_json_with_the_libraries_of_this_environment(folder: Path) -> None:
    check_commands(folder, {})


@pytest.mark.skipif(sys.platform == "win32", reason="C's own buffer is reached in another way there")
def test_the_answers_of_commands_are_json_whatever_libraries_print(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOISY)
    heard = tmp_path / "heard"
    check_commands(folder, {"PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}", "HOTSPLIT_HEARD": str(heard)})
    said = set(heard.read_text().split())
    assert said >= {"numpy", "msgspec", "yaml", "pulp", "highspy", "gguf", "torch", "pynvml", "constructed", "solves"}


def check_commands(folder: Path, environment: dict[str, str]) -> None:
    for command in COMMANDS:
        done = subprocess.run(
            [sys.executable, "-m", "exporter", *command], cwd=folder, capture_output=True, text=True, check=False,
            env={"PYTHONPATH": str(_ROOT), **{k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, **environment},
        )  # fmt: skip
        assert done.returncode in {0, 1}, (command, done.stderr)
        try:
            json.loads(done.stdout)
        except ValueError:
            pytest.fail(f"{command} prints {done.stdout[:300]!r}")
        assert "noise" not in done.stderr, command


def run_noisily(folder: Path, tmp_path: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "sitecustomize.py").write_text(NOISY)
    environment = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{_ROOT}", "HOTSPLIT_HEARD": str(tmp_path / "heard")}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, **environment, **variables},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="C's own buffer is reached in another way there")
def test_what_people_and_spreadsheets_read_has_no_stray_lines(folder: Path, tmp_path: Path) -> None:
    plan = ("plan", "--model", "m.gguf", *BUDGET)
    noisy, calm = (run_noisily(folder, tmp_path, "-m", "exporter", *plan), run_calmly(folder, *plan))
    assert (noisy.returncode, noisy.stdout, noisy.stderr) == (0, calm.stdout, calm.stderr)
    table = run_noisily(folder, tmp_path, "-m", "planner", "whatif", "study.yaml", "--csv", "-").stdout
    assert len(list(csv.DictReader(io.StringIO(table)))) == 40
    script = ("completion", "bash")
    assert run_noisily(folder, tmp_path, "-m", "exporter", *script).stdout == run_calmly(folder, *script).stdout


def run_calmly(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *command], cwd=folder, capture_output=True, text=True, check=True,
        env={**os.environ, "PYTHONPATH": str(_ROOT)},
    )  # fmt: skip


@pytest.mark.skipif(sys.platform == "win32", reason="C's own buffer is reached in another way there")
def test_the_engine_s_own_call_prints_its_two_lines_alone(folder: Path, tmp_path: Path) -> None:
    done = run_noisily(
        folder, tmp_path, "-m", "exporter.powerinfer.drop_in", "--activation", "activation", "--layer", "6",
        "--neuron", "128", "--capacity", "300", "--vram-capacity", "100000", "--output", "m.gguf.generated.gpuidx",
        HOTSPLIT_RESERVE="0B",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line.partition(":")[0] for line in done.stdout.splitlines()] == ["hotsplit", "hotsplit"]


@pytest.mark.skipif(sys.platform == "win32", reason="C's own buffer is reached in another way there")
def test_a_program_s_own_output_is_whole_and_in_order_around_a_command(folder: Path, tmp_path: Path) -> None:
    program = f"""
import ctypes, os, sys
from exporter.__main__ import main
c = ctypes.CDLL(None)
c.printf(b"C before\\n")
print("before")
main({["plan", "--model", "m.gguf", *BUDGET, "--json"]!r})
print("after", flush=True)
os.write(1, b"descriptor after\\n")
c.printf(b"C after\\n")
"""
    done = run_noisily(folder, tmp_path, "-c", program)
    assert (done.returncode, done.stderr) == (0, "")
    before, answer = done.stdout[: done.stdout.index("{")], done.stdout[done.stdout.index("{") :]
    assert sorted(before.splitlines()) == ["C before", "before"]
    _, end = json.JSONDecoder().raw_decode(answer)
    # At the very end the library may speak again: the process is the program's, not ours.
    assert answer[end:].splitlines()[:3] == ["", "after", "descriptor after"]
    assert sorted(answer[end:].splitlines()[3:]) == ["C after", "late C noise", "late noise"]


@pytest.mark.skipif(sys.platform == "win32", reason="C's own buffer is reached in another way there")
def test_a_solver_is_made_silently_for_a_program_too(tmp_path: Path) -> None:
    program = """
import ctypes, os
import highspy
original = highspy.Highs
class Noisy(original):
    def __init__(self):
        os.write(1, b"descriptor noise\\n")
        ctypes.CDLL(None).printf(b"C noise\\n")
        print("python noise")
        super().__init__()
highspy.Highs = Noisy
from planner.placement import ilp
from planner.placement.problem import SolverOptions
layer = ilp.IlpLayer(layer=0, weight=1, n_ff=10, low=0, high=10, split=False, tangents=[(1.0, 0.0)])
model = ilp.IlpModel(layers=[layer], capacity=5, floor=0, other_units=0,
    granularity=1, whole=True, most_on=None, scale=1.0)
print(ilp.run(model, SolverOptions(), gap=0.0, time_limit_s=None).hot)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("(5,)\n", "")


def test_a_test_s_or_a_notebook_s_stream_gets_the_answer(capsys: pytest.CaptureFixture[str]) -> None:
    given = sys.stdout
    with only_the_answer() as answers:
        assert answers is given
        assert answer_stream() is given
        print("noise")
        print("answer", file=answer_stream())
    assert sys.stdout is given
    assert capsys.readouterr().out == "answer\n"
    assert answer_stream() is given


def test_descriptor_1_is_as_it_was_even_after_a_fault(capfd: pytest.CaptureFixture[str]) -> None:
    before = os.fstat(1)
    with pytest.raises(ZeroDivisionError), only_the_answer():
        os.write(1, b"noise")
        assert os.fstat(1) != before
        raise ZeroDivisionError
    assert os.fstat(1) == before
    os.write(1, b"after")
    assert capfd.readouterr().out == "after"


def test_one_command_inside_another_answers_on_its_own_stream(capsys: pytest.CaptureFixture[str]) -> None:
    with only_the_answer() as outer:
        inner_stream = io.StringIO()
        sys.stdout, sink = inner_stream, sys.stdout
        with only_the_answer() as inner:
            assert inner is inner_stream
            print("inner", file=answer_stream())
        sys.stdout = sink
        assert answer_stream() is outer
        print("outer", file=answer_stream())
    assert (inner_stream.getvalue(), capsys.readouterr().out) == ("inner\n", "outer\n")


def test_threads_of_another_program_are_left_alone() -> None:
    # In a process of its own: how many threads there are decides.
    program = """
import os, threading
from planner.base.quiet import only_the_answer, silent_start

def in_a_thread():
    with only_the_answer():
        os.write(1, b"one ")

thread = threading.Thread(target=in_a_thread)
thread.start()
thread.join()
over = threading.Event()
other = threading.Thread(target=over.wait)
other.start()
with silent_start():
    os.write(1, b"two ")
over.set()
other.join()
with silent_start():
    os.write(1, b"three ")
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=_ROOT, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("one two ", "")


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed by a POSIX shell")
@pytest.mark.parametrize("closing", [">&-", ">&- <&-", ">&- 2>&-"])
def test_with_standard_output_closed_nothing_is_written_into_other_files(tmp_path: Path, closing: str) -> None:
    program = """
import os, sys
from types import ModuleType
from planner.cli.run import build_parser, run_command
def run(arguments):
    with open(sys.argv[1], "w") as file:
        os.write(1, b"noise")
        file.write("whole")
    return 0
act = ModuleType("act")
act.add_parser = lambda subparsers: subparsers.add_parser("act").set_defaults(run=run)
for _ in range(2):
    assert run_command(build_parser("hotsplit", "", [act]), ["act"]) == 0
"""
    (tmp_path / "program.py").write_text(program)
    command = f"{sys.executable} program.py out {closing}"
    subprocess.run(["/bin/sh", "-c", command], cwd=tmp_path, check=True, env={**os.environ, "PYTHONPATH": str(_ROOT)})
    assert (tmp_path / "out").read_text() == "whole"


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal")
def test_on_a_terminal_the_answer_is_as_wide_as_the_terminal(folder: Path) -> None:
    import fcntl
    import pty
    import struct
    import termios

    parent, child = pty.openpty()
    fcntl.ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 57, 0, 0))
    variables = {name: value for name, value in os.environ.items() if name not in {"COLUMNS", "LINES"}}
    command = [sys.executable, "-m", "exporter", "catalogue", "gpus"]
    printed = b""
    with started(command, cwd=folder, stdin=subprocess.DEVNULL, stdout=child, stderr=subprocess.DEVNULL,
                 env={**variables, "PYTHONPATH": str(_ROOT), "TERM": "xterm", "NO_COLOR": "1"}) as process:  # fmt: skip
        os.close(child)
        while True:
            try:
                piece = os.read(parent, 1 << 16)
            except OSError:  # what Linux says when the other side has closed
                break
            if not piece:
                break
            printed += piece
        os.close(parent)
        assert process.wait(timeout=60) == 0
    # A column less than fits: what is left out is named with the width of the terminal.
    assert b"left out, the terminal has 57 columns: " in printed
    assert max(len(line) for line in printed.decode().splitlines() if set(line) == {"─"}) <= 57


def test_answers_are_printed_to_the_stream_for_answers_and_nowhere_else() -> None:
    """A bare `print` in a command would lead nowhere."""
    strays = []
    for path in sorted([*(_ROOT / "planner").rglob("*.py"), *(_ROOT / "exporter").rglob("*.py")]):
        where = path.relative_to(_ROOT).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "print":
                if not any(option.arg == "file" for option in node.keywords):
                    strays.append(f"{where}:{node.lineno}: print without file=answer_stream()")
            elif (
                isinstance(node, ast.Attribute)
                and ast.unparse(node) in {"sys.stdout", "sys.__stdout__"}
                and where not in {"planner/base/quiet.py", "planner/cli/run.py"}
            ):
                strays.append(f"{where}:{node.lineno}: {ast.unparse(node)}; use planner.base.quiet.answer_stream()")
    assert strays == []
