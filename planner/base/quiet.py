"""Standard output carries the answer and nothing else, whatever libraries write there.

A library may write while it is loaded, when one of its objects is made, or while it works: with Python's `print`, with
C's `printf`, or straight to descriptor 1. (The constructor of HiGHS 1.16.0 prints two lines that no option turns off.)
No list of such places can be complete. So a command keeps a private copy of descriptor 1 for its answer, and for
everybody else, child processes included, both `sys.stdout` and descriptor 1 lead nowhere while it runs.

Standard error is left alone: it is where a library that fails leaves its last word.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO

_STDOUT = 1

# Where the answer goes while a command runs; the last one is that of the innermost command.
_answers: list[TextIO] = []


def answer_stream() -> TextIO:
    """Returns the stream for the answer: the one of the command that is running, else `sys.stdout`."""
    return _answers[-1] if _answers else sys.stdout


@contextlib.contextmanager
def only_the_answer(*, ends_process: bool = False) -> Iterator[TextIO]:
    """Yields the stream for the answer; what anybody else writes to standard output meanwhile goes nowhere.

    Descriptors belong to the whole process, so this is for the main thread; in another thread it changes nothing.

    Args:
        ends_process: whether the process ends afterwards. Then descriptor 1 leads nowhere to the end, so that nothing
            comes out late: from C's own buffer, or from a library that is being unloaded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield answer_stream()
        return
    given = sys.stdout
    if not ends_process:
        # What the caller's own C code has written before belongs to the caller.
        _flush_c()
    with contextlib.suppress(OSError):
        given.flush()
    kept = _copy_of_stdout()
    answers = _opened_as(given, kept) if kept is not None and _descriptor_of(given) == _STDOUT else given
    _point_nowhere()
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        sys.stdout = nowhere
        _answers.append(answers)
        try:
            yield answers
        finally:
            _answers.pop()
            sys.stdout = answers if ends_process else given
            drop(answers)
            if not ends_process:
                _flush_c()
                _put_back(kept)


@contextlib.contextmanager
def silent_start() -> Iterator[None]:
    """Lets a library be started without a word on standard output, also where no command runs.

    Only while this is the only thread: in another program's threads, something that matters could be written meanwhile.
    """
    if _answers or threading.active_count() > 1:
        yield
        return
    with only_the_answer():
        yield


def columns_of(stream: TextIO) -> int | None:
    """Returns how wide the terminal behind `stream` is; None where it is none, or where COLUMNS says what to take."""
    if "COLUMNS" in os.environ:
        return None
    descriptor = _descriptor_of(stream)
    if descriptor is None:
        return None
    with contextlib.suppress(OSError):
        return os.get_terminal_size(descriptor).columns or None
    return None


def drop(stream: TextIO) -> None:
    """Flushes `stream`, or throws away what cannot be written: Python would complain about it at exit."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError, io.UnsupportedOperation), open(os.devnull, "wb") as nowhere:
            kept = os.dup(stream.fileno())
            try:
                os.dup2(nowhere.fileno(), stream.fileno())
                stream.flush()
            finally:
                os.dup2(kept, stream.fileno())
                os.close(kept)


def _copy_of_stdout() -> int | None:
    """Returns a copy of descriptor 1, which child processes do not inherit; None where it is closed."""
    try:
        return os.dup(_STDOUT)
    except OSError:
        return None


def _descriptor_of(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, AttributeError, ValueError):  # a stream of a test, a notebook or another program
        return None


def _opened_as(given: TextIO, descriptor: int) -> TextIO:
    """Returns a stream to `descriptor` with the encoding and the buffering of `given`."""
    lines = getattr(given, "line_buffering", False)
    at_once = getattr(given, "write_through", False)
    # Closed by `_put_back`, or by the end of the process.
    binary = open(descriptor, "wb", buffering=0 if at_once else -1, closefd=False)  # noqa: SIM115
    return io.TextIOWrapper(
        binary, encoding=given.encoding, errors=given.errors, line_buffering=lines, write_through=at_once
    )


def _point_nowhere() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    if nowhere == _STDOUT:  # it was closed
        os.set_inheritable(nowhere, True)
        return
    os.dup2(nowhere, _STDOUT)
    os.close(nowhere)


def _put_back(kept: int | None) -> None:
    if kept is None:
        os.close(_STDOUT)
        return
    os.dup2(kept, _STDOUT)
    os.close(kept)


def _flush_c() -> None:
    """Empties the buffers of C's own streams, so that what was written through them goes where they lead now."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        library = ctypes.CDLL("ucrtbase" if os.name == "nt" else None)
        library.fflush(None)
