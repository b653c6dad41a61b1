"""Ctrl-C in one process: what is answered at once, what waits, and what is left as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from planner.base.interrupt import INTERRUPTED, deaf_children, interruptible

MESSAGE = "hotsplit: error: interrupted; no file is left half-written\n"

needs_masks = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal mask")


@pytest.fixture(autouse=True)
def python_handles_ctrl_c() -> Iterator[None]:
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


def interrupted_once() -> int:
    signal.raise_signal(signal.SIGINT)
    return 0


def test_an_interrupted_run_is_130_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert interruptible(interrupted_once) == INTERRUPTED
    assert capsys.readouterr().err == MESSAGE


def test_a_run_that_ends_by_itself_keeps_its_exit_code_and_the_handler() -> None:
    assert interruptible(lambda: 1) == 1
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_while_the_process_ends_changes_nothing_any_more() -> None:
    program = (
        "import atexit, signal, sys\nfrom planner.base.interrupt import interruptible\n"
        "atexit.register(lambda: (signal.raise_signal(signal.SIGINT), print('ended')))\n"
        "sys.exit(interruptible(lambda: {exit_code}, ends_process=True))\n"
    )
    for exit_code in (0, 1, 2):
        command = [sys.executable, "-c", program.format(exit_code=exit_code)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (exit_code, "ended\n", "")


@pytest.mark.parametrize("package", ["planner", "exporter"])
def test_the_command_line_ends_its_process_and_a_program_s_call_does_not(package: str) -> None:
    program = (
        f"import signal, sys\nfrom {package}.__main__ import main\nsys.argv = ['hotsplit', 'catalogue', '--json']\n"
        "main({arguments})\nprint(signal.getsignal(signal.SIGINT) is signal.SIG_IGN, file=sys.stderr)\n"
    )
    for arguments, ignored in (("", "True\n"), ("['catalogue', '--json']", "False\n")):
        command = [sys.executable, "-c", program.format(arguments=arguments)]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stderr == ignored


def test_a_fault_that_is_not_ctrl_c_passes() -> None:
    def fails() -> int:
        raise ValueError("a fault of our own")

    with pytest.raises(ValueError, match="a fault of our own"):
        interruptible(fails)


def test_somebody_elses_handler_is_left_alone() -> None:
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _frame: came.append(number))
    assert interruptible(interrupted_once) == 0
    assert came == [signal.SIGINT]


def test_away_from_the_main_thread_it_is_only_called() -> None:
    found: list[int] = []
    thread = threading.Thread(target=lambda: found.append(interruptible(lambda: 7)))
    thread.start()
    thread.join()
    assert found == [7]


@needs_masks
def test_ctrl_c_waits_until_the_children_are_started() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt), deaf_children():
        signal.raise_signal(signal.SIGINT)
        steps.append("started")
    assert steps == ["started"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


@needs_masks
def test_ctrl_c_that_another_thread_takes_waits_too() -> None:
    steps: list[str] = []
    with pytest.raises(KeyboardInterrupt), deaf_children():
        # A thread starts with its parent's mask; one that was there before has none.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        thread = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGINT))
        thread.start()
        thread.join()
        steps.append("started")
    assert steps == ["started"]


@needs_masks
def test_a_child_started_meanwhile_does_not_hear_ctrl_c() -> None:
    program = "import signal; print(signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    with deaf_children():
        child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert child.stdout == "True\n"
