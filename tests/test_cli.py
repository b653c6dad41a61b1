from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from planner import __version__
from planner.base.errors import FaultsError, InputError, NoAnswerError
from planner.cli.run import build_parser, run_command
from planner.commands import common
from tests.processes import started


def command_that(act: Callable[[argparse.Namespace], int]) -> ModuleType:
    """Returns a command module `act` whose `run` is the given function."""
    module = ModuleType("act")

    def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        parser = subparsers.add_parser("act", help="does something")
        parser.add_argument("--size", type=common.size_option)
        parser.add_argument("--count", type=common.natural_option)
        parser.add_argument("--rate", type=common.positive_option)
        parser.set_defaults(run=act)

    module.__dict__["add_parser"] = add_parser
    return module


def run(act: Callable[[argparse.Namespace], int], *options: str) -> int:
    return run_command(build_parser("hotsplit", "Does things.", [command_that(act)]), ["act", *options])


def failing(error: BaseException) -> Callable[[argparse.Namespace], int]:
    def act(_: argparse.Namespace) -> int:
        raise error

    return act


@pytest.mark.parametrize("exit_code", [0, 1, 2])
def test_the_answer_of_a_command_is_the_exit_code(exit_code: int) -> None:
    assert run(lambda _: exit_code) == exit_code


@pytest.mark.parametrize(
    ("error", "exit_code", "said"),
    [
        (InputError("m.gguf: found X, expected Y; do Z"), 2, "hotsplit: error: m.gguf: found X, expected Y; do Z\n"),
        (NoAnswerError("nothing fits"), 1, "hotsplit: error: nothing fits\n"),
        (FaultsError(["one", "two"]), 2, "hotsplit: error: one\nhotsplit: error: two\n"),
        (
            FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "m.gguf"),
            2,
            "hotsplit: error: m.gguf: No such file or directory\n",
        ),
        (OSError("odd"), 2, "hotsplit: error: odd\n"),
        (
            ImportError("libtorch_cpu.so: failed to map segment from shared object\nand more"),
            2,
            "hotsplit: error: a library cannot be loaded: libtorch_cpu.so: failed to map segment from shared object; "
            "free memory, or install hotsplit again\n",
        ),
        (MemoryError(), 2, "hotsplit: error: out of memory; close other programs or use a machine with more\n"),
        (KeyboardInterrupt(), 130, "hotsplit: error: interrupted; no file is left half-written\n"),
        (InputError("name \x1b[2J"), 2, "hotsplit: error: name \\x1b[2J\n"),
    ],
)
def test_what_goes_wrong_is_one_line_for_each_fault(
    error: BaseException, exit_code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(failing(error)) == exit_code
    captured = capsys.readouterr()
    assert captured.err == said
    assert captured.out == ""


def test_mistakes_in_the_program_are_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(failing(ZeroDivisionError()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ["--size", "8 stones"],
            "hotsplit act: error: argument --size: size '8 stones' is not understood; write it as 8GiB, 8GB, 8192MiB, "
            "8589934592B or, as in the engine's own flag, 8 for GiB",
        ),
        (
            ["--count", "-1"],
            "hotsplit act: error: argument --count: found '-1', expected a whole number such as 512",
        ),
        (
            ["--count", "99999999999"],
            "hotsplit act: error: argument --count: found '99999999999', expected a whole number such as 512",
        ),
        (["--rate", "0"], "hotsplit act: error: argument --rate: found '0', expected a number above 0 such as 2.5"),
        (["--rate", "nan"], "hotsplit act: error: argument --rate: found 'nan', expected a number above 0 such as 2.5"),
        (["--rate", "x"], "hotsplit act: error: argument --rate: found 'x', expected a number above 0 such as 2.5"),
    ],
)
def test_usage_errors_say_what_is_expected(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda _: 0, *options)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == said


def test_options_are_parsed() -> None:
    seen: list[argparse.Namespace] = []

    def act(arguments: argparse.Namespace) -> int:
        seen.append(arguments)
        return 0

    assert run(act, "--size", "1KiB", "--count", "3", "--rate", "2.5") == 0
    assert (seen[0].size, seen[0].count, seen[0].rate) == (1024, 3, 2.5)


@pytest.mark.parametrize("module", ["hotsplit", "planner", "exporter"])
def test_every_package_runs_as_a_module(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"hotsplit {__version__}\n"


@pytest.mark.parametrize("package", ["planner", "exporter"])
def test_help_comes_without_heavy_imports(package: str) -> None:
    script = f"""
import sys
from {package}.__main__ import main
try:
    main(["plan", "--help"])
finally:
    heavy = {{"numpy", "torch", "pulp", "highspy", "gguf", "msgspec", "yaml", "rich", "transformers"}}
    assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)


PRINTING = """
import sys
from planner.cli.run import build_parser, run_command
from planner.commands import common
from types import ModuleType

def run(arguments):
    for _ in range(int(sys.argv[1])):
        common.say("a line of some length, again and again")
    return 0

act = ModuleType("act")
act.add_parser = lambda subparsers: subparsers.add_parser("act").set_defaults(run=run)
sys.exit(run_command(build_parser("hotsplit", "", [act]), ["act"]))
"""


def test_a_reader_that_stops_early_is_no_error() -> None:
    command = [sys.executable, "-c", PRINTING, "100000"]
    with started(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.readline()
        writer.stdout.close()
        assert writer.stderr.read() == ""
        assert writer.wait() == 0


TALKING = """
import sys
from planner.cli.run import build_parser, run_command
from planner.commands import common
from types import ModuleType

def run(arguments):
    sys.stdin.readline()
    for line in range(int(sys.argv[1])):
        {how}(str(line))
    return 1

act = ModuleType("act")
act.add_parser = lambda subparsers: subparsers.add_parser("act").set_defaults(run=run)
sys.exit(run_command(build_parser("hotsplit", "", [act]), ["act"]))
"""


@pytest.mark.parametrize(
    ("how", "lines", "exit_code"),
    [
        ("common.console().print", 3, 0),
        ("common.console().print", 10_000, 0),
        # All was said before anybody noticed that nobody listens: the answer is still no.
        ("common.say", 3, 1),
    ],
)
def test_a_reader_that_has_gone_is_no_error(how: str, lines: int, exit_code: int) -> None:
    with started(
        [sys.executable, "-c", TALKING.format(how=how), str(lines)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        assert writer.stderr is not None
        writer.stdout.close()
        writer.stdin.write("go\n")
        writer.stdin.close()
        assert writer.stderr.read() == ""
        assert writer.wait() == exit_code


def test_a_usage_error_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run(lambda _: 0, "\x1b[2J\n\u202egpj")
    assert caught.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == "hotsplit: error: unrecognized arguments: \\x1b[2J\\n\\u202egpj"


def test_a_name_of_many_kilobytes_makes_no_line_of_many_kilobytes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(failing(InputError("x" * 70_000))) == 2
    assert len(capsys.readouterr().err) < 4100


ASCII_ONLY = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"}


def test_characters_that_the_terminal_lacks_come_out_as_escapes(tmp_path: Path) -> None:
    script = """
import sys
from planner.cli.run import build_parser, run_command
from planner.commands import common
from types import ModuleType

def run(arguments):
    from rich.table import Table
    table = Table("größe")
    table.add_row("…×")
    common.console().print(table)
    common.say("modèle …")
    common.note("modèle …")
    common.print_json("hotsplit.fit", {"modèle": "\\udcff\\x9b\\x7f"})
    return 0

act = ModuleType("act")
act.add_parser = lambda subparsers: subparsers.add_parser("act").set_defaults(run=run)
sys.exit(run_command(build_parser("hotsplit", "", [act]), ["act"]))
"""
    (tmp_path / "act.py").write_text(script, encoding="utf-8")
    done = subprocess.run([sys.executable, str(tmp_path / "act.py")], capture_output=True, env=ASCII_ONLY, check=False)
    assert done.returncode == 0, done.stderr
    assert b"mod\\xe8le \\u2026" in done.stdout
    assert done.stderr == b"hotsplit: note: mod\\xe8le \\u2026\n"
    assert json.loads(done.stdout[done.stdout.index(b"{") :]) == {
        "format": "hotsplit.fit",
        "version": 1,
        "modèle": "\udcff\x9b\x7f",
    }
    assert b"\x7f" not in done.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_an_answer_that_cannot_be_printed_is_one_line(lines: int) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", PRINTING, str(lines)], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == 2
    assert done.stderr == b"hotsplit: error: [Errno 28] No space left on device\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_where_standard_error_is_full_the_exit_code_says_it() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "exporter", "inspect", "missing.gpuidx"], stderr=full, check=False)
    assert done.returncode == 2


@pytest.mark.skipif(os.name != "posix", reason="descriptors are closed by a POSIX shell")
@pytest.mark.parametrize("closing", [">&-", "2>&-", ">&- 2>&-"])
@pytest.mark.parametrize("command", ["catalogue", "catalogue --json", "inspect missing.gpuidx"])
def test_a_closed_stream_is_written_to_nowhere(command: str, closing: str) -> None:
    line = f"{shlex.quote(sys.executable)} -m exporter {command} {closing}"
    done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False)
    assert b"Traceback" not in done.stdout + done.stderr
    assert done.returncode == (2 if command.startswith("inspect") else 0)


def test_help_fits_paragraphs_and_keeps_examples(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    described, example = "words " * 30, "examples:\n  act --size 8GiB " + "and so on " * 10 + "\n"
    module = ModuleType("act")
    module.__dict__["add_parser"] = lambda subparsers: subparsers.add_parser(
        "act", description=described.strip(), epilog=example
    )
    with pytest.raises(SystemExit):
        build_parser("hotsplit", "", [module]).parse_args(["act", "--help"])
    lines = capsys.readouterr().out.splitlines()
    paragraph = [line for line in lines if line.startswith("words")]
    assert len(paragraph) == 4
    assert max(map(len, paragraph)) <= 60
    assert lines[-2:] == example.rstrip("\n").splitlines()


def test_options_are_not_abbreviated(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(lambda _: 0, "--cou", "3")
    assert leaving.value.code == 2
    assert capsys.readouterr().err.endswith(": error: unrecognized arguments: --cou; did you mean '--count'?\n")


def test_help_says_where_to_start(capsys: pytest.CaptureFixture[str]) -> None:
    from exporter.__main__ import main

    with pytest.raises(SystemExit):
        main(["--help"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "exit code: 0 done, 1 the answer is no, 2 bad input or usage, 130 interrupted"


def process_state() -> dict[str, object]:
    return {
        "garbage": (gc.get_threshold(), gc.isenabled(), gc.get_freeze_count()),
        "ctrl-c": signal.getsignal(signal.SIGINT),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "folder": Path.cwd(),
        "threads": {thread.name for thread in threading.enumerate() if thread.name != "interrupt"},
    }


def interrupting(_: argparse.Namespace) -> int:
    signal.raise_signal(signal.SIGINT)
    return 0


@pytest.mark.parametrize(
    ("act", "options", "exit_code"),
    [
        (lambda _: 0, (), 0),
        (failing(InputError("no")), (), 2),
        (failing(KeyboardInterrupt()), (), 130),
        (failing(ZeroDivisionError()), (), ZeroDivisionError),
        (interrupting, (), 130),
        (lambda _: 0, ("--size", "many"), SystemExit),
    ],
)
def test_a_program_that_calls_a_command_finds_its_process_as_it_was(
    act: Callable[[argparse.Namespace], int],
    options: tuple[str, ...],
    exit_code: int | type[BaseException],
    capsys: pytest.CaptureFixture[str],
) -> None:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        before = process_state()
        if isinstance(exit_code, int):
            assert run(act, *options) == exit_code
        else:
            with pytest.raises(exit_code):
                run(act, *options)
        assert process_state() == before
    finally:
        signal.signal(signal.SIGINT, former)


def test_streams_of_a_program_keep_their_treatment_of_characters_and_their_descriptors(tmp_path: Path) -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cli import run
from planner.base.quiet import answer_stream
def told(arguments):
    answer_stream().write("\\u2028 \\u00e4\\n")
    return 0
before = (sys.stdout.errors, sys.stderr.errors, os.fstat(1).st_ino, os.fstat(2).st_ino)
assert run(told) == 0
after = (sys.stdout.errors, sys.stderr.errors, os.fstat(1).st_ino, os.fstat(2).st_ino)
assert before == after, (before, after)
sys.stdout = None
assert run(told) == 0
assert sys.stdout is None
"""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    with open(tmp_path / "out", "wb") as out:
        subprocess.run([sys.executable, "-c", script], stdout=out, env=environment, check=True, timeout=60)
    assert (tmp_path / "out").read_bytes() == b"\\u2028 \\xe4\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_program_whose_output_is_full_keeps_its_descriptor() -> None:
    script = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_cli import run
from planner.base.quiet import answer_stream
def told(arguments):
    answer_stream().write("x\\n")
    return 0
assert run(told) == 2
assert os.path.realpath("/proc/self/fd/1") == "/dev/full"
"""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, check=False, timeout=60
        )
    assert (done.returncode, done.stderr) == (0, b"hotsplit: error: [Errno 28] No space left on device\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["atc"], "(choose from 'act'); did you mean 'act'?"),
        (["--versoin"], "hotsplit: error: unrecognized arguments: --versoin; did you mean '--version'?"),
        (["--versoin", "act"], "hotsplit: error: unrecognized arguments: --versoin; did you mean '--version'?"),
        (["act", "--sise=3"], "hotsplit act: error: unrecognized arguments: --sise=3; did you mean '--size'?"),
        (["act", "--count", "1", "--rat", "2"], "error: unrecognized arguments: --rat; did you mean '--rate'?"),
        (["act", "--nothing-like-it"], "hotsplit: error: unrecognized arguments: --nothing-like-it"),
        (["act", "--", "--rat"], " --rat"),
    ],
)
def test_what_is_nearly_right_is_said(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(build_parser("hotsplit", "Does things.", [command_that(lambda _: 0)]), arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].replace("choose from act", "choose from 'act'").endswith(said)


def test_a_mistake_in_a_command_is_said_beside_all_commands(capsys: pytest.CaptureFixture[str]) -> None:
    from exporter.__main__ import main

    for word, near in (("exprot", "export"), ("catlogue", "catalogue"), ("whatfi", "whatif"), ("Plan", "plan")):
        with pytest.raises(SystemExit):
            main([word])
        assert capsys.readouterr().err.endswith(f"; did you mean {near!r}?\n")


def test_a_hidden_option_is_taken_and_not_suggested(capsys: pytest.CaptureFixture[str]) -> None:
    from exporter.__main__ import main

    for option in ("--catlog", "--quantizatoin"):
        command = "whatif" if option == "--catlog" else "demo"
        with pytest.raises(SystemExit):
            main([command, "x", option, "y"])
        near = "--catalogue" if option == "--catlog" else "--quantisation"
        assert capsys.readouterr().err.endswith(f"unrecognized arguments: {option}; did you mean {near!r}?\n")
