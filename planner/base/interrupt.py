"""Ctrl-C ends a command within about a second, wherever it is, with exit code 130 and no traceback.

Python notes the signal at once but raises `KeyboardInterrupt` only when it runs Python code again, and HiGHS does not
come back before it has solved; and an import that is interrupted in a library's C code may end in an error of the
library's own. Both are seen to here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

INTERRUPTED = 130
# Long enough for any Python code to notice, short enough for someone who waits.
_MAX_WAIT_S = 1.0
WHY_INTERRUPTED = "interrupted; no file is left half-written"


def interruptible(run: Callable[[], int], *, ends_process: bool = False) -> int:
    """Returns the exit code of `run`, or 130 when Ctrl-C came.

    Away from the main thread, or where somebody else handles or ignores SIGINT, `run` is only called.

    Args:
        run: what may be interrupted.
        ends_process: whether the process ends with it. Then Ctrl-C no longer counts once `run` has done its work: it
            could only break off what Python does as it ends, with a traceback or an exit code that `run` did not earn.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    ):
        return run()
    watch = _Watch()
    try:
        exit_code = run()
    except BaseException:
        if not watch.interrupted:
            raise
        complain_of_interruption()
        return INTERRUPTED
    finally:
        watch.close(for_good=ends_process)
    # An interrupted import that a library reports as missing is no answer to the user's question.
    return INTERRUPTED if watch.interrupted and exit_code else exit_code


def was_interrupted() -> bool:
    """Says whether Ctrl-C has come to what runs under `interruptible`, whatever became of it.

    A library may report an import that it broke off as one that failed, with nothing in the error that says so.
    """
    watch = getattr(signal.getsignal(signal.SIGINT), "__self__", None)
    return isinstance(watch, _Watch) and watch.interrupted


def complain_of_interruption() -> None:
    """Says on standard error what happened, and what need not be feared."""
    if sys.stderr is not None:
        sys.stderr.write(f"hotsplit: error: {WHY_INTERRUPTED}\n")


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Lets processes that are started meanwhile not hear Ctrl-C, which a terminal sends to all: their parent ends them.

    What comes meanwhile is answered afterwards, so no process is left half started. The mask is what the children
    inherit; another thread may take the signal all the same, so this one's handler waits, too. Windows has no such
    mask; there children may complain.
    """
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGINT)
    came: list[FrameType | None] = []
    if callable(handler):
        signal.signal(signal.SIGINT, lambda _number, frame: came.append(frame))
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)
        if callable(handler):
            signal.signal(signal.SIGINT, handler)
    if came and callable(handler):
        handler(signal.SIGINT, came[0])


class _Watch:
    """Raises `KeyboardInterrupt` as Python does, and ends the process when that does not get through."""

    def __init__(self) -> None:
        self.interrupted = False
        self._noticed = threading.Event()
        self._reader, self._writer, self._close = _wakeup_pair()
        self._former_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._notice)
        threading.Thread(target=self._wait, name="interrupt", daemon=True).start()

    def close(self, *, for_good: bool) -> None:
        """Leaves Ctrl-C to Python again, or, `for_good`, ignores it from now on."""
        signal.signal(signal.SIGINT, signal.SIG_IGN if for_good else signal.default_int_handler)
        signal.set_wakeup_fd(self._former_writer)
        self._close()

    def _notice(self, _number: int, _frame: FrameType | None) -> None:
        self.interrupted = True
        self._noticed.set()
        raise KeyboardInterrupt

    def _wait(self) -> None:
        """Runs in a thread of its own: waits for signals, which Python's C code writes as bytes at once."""
        while received := self._reader():
            if signal.SIGINT not in received:
                continue
            if not self._noticed.wait(_MAX_WAIT_S):
                from planner.base.files import remove_staged

                remove_staged()
                # Past Python's own stream, which the main thread may hold, or be closing as it ends.
                with contextlib.suppress(OSError, ValueError, AttributeError):
                    os.write(sys.stderr.fileno(), f"hotsplit: error: {WHY_INTERRUPTED}\n".encode())
                os._exit(INTERRUPTED)
            self._noticed.clear()


def _wakeup_pair() -> tuple[Callable[[], bytes], int, Callable[[], None]]:
    """Returns a function that waits for bytes, what to write them to, and a function that ends it."""
    if sys.platform == "win32":  # where signals are written to sockets only
        import socket

        receiver, sender = socket.socketpair()
        sender.setblocking(False)
        return (lambda: receiver.recv(64)), sender.fileno(), sender.close
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def read() -> bytes:
        received = os.read(reader, 64)
        if not received:
            os.close(reader)
        return received

    return read, writer, (lambda: os.close(writer))
