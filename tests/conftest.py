"""What several test modules share: the shipped catalogue, and a library with NVML's C interface, compiled here."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings

from planner.catalogue.entries import Catalogue, load_catalogue
from tests.processes import started

# pytest-xdist gives its workers the width of the terminal, which the commands under test would take for their own.
os.environ.pop("COLUMNS", None)

# The suite draws the same examples every time, on fast machines and slow ones, so a run that fails is one that was
# broken; `HYPOTHESIS_PROFILE=explore make test` draws others.
settings.register_profile("same", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Where CI=true, a skipped test is an error unless its reason begins like one of these: what CI's machine cannot have.
_MAY_SKIP_IN_CI = (
    "torch sees no NVIDIA GPU",
    "torch finds no CUDA GPU",
    "no NVIDIA driver on this machine",
    "NVML does not start on this machine",
    "root may write anywhere",  # CI runs as root, so no folder is read-only to it
    "no mounting here: ",  # a container without the right to mount
)

_Report = TypeVar("_Report", pytest.TestReport, pytest.CollectReport)


# The modules that run longest, mostly because they start a browser or processes that import torch and transformers.
# Where several processes share the modules out, these start first, so that no process is left alone with a long one at
# the end. The order decides how long a run takes and nothing else.
_LONGEST_FIRST = (
    "test_profile",
    "test_exactness",
    "test_profile_streaming",
    "test_profile_ranks",
    "test_page_browser",
    "test_hostile_crash",
    "test_install",
    "test_docs",
    "test_hostile_readers",
    "test_hostile_names",
    "test_profile_merge",
    "test_outputs",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if hasattr(config, "workerinput"):  # one of several processes of pytest-xdist
        place = {name: number for number, name in enumerate(_LONGEST_FIRST)}
        items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(specs: Sequence[Any]) -> None:
    """Starts the processes of pytest-xdist with the `-W` of this one, which it would not hand on itself."""
    for spec in specs:
        if spec.popen and not spec.python and sys.warnoptions:
            spec.python = shlex.join([sys.executable, *(f"-W{option}" for option in sys.warnoptions)])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _without_skip_in_ci((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _without_skip_in_ci((yield))


def _without_skip_in_ci(report: _Report) -> _Report:
    """Returns the report; in CI that of a skipped test becomes a failure, unless its reason is in the list."""
    if os.environ.get("CI") == "true" and report.outcome == "skipped" and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(_MAY_SKIP_IN_CI):
            report.outcome = "failed"
            report.longrepr = f"skipped in CI, where this is no reason to skip: {reason}"
    return report


_ROOT = Path(__file__).resolve().parent.parent
_SOURCE = Path(__file__).with_name("nvml_stand_in.c")

# Answers one JSON request a line, so that many scenarios cost one start of Python. The real binding finds the library
# as it always does, by name; only LD_LIBRARY_PATH, which a process reads when it starts, decides which one that is.
_SERVER = """
import json, os, pathlib, sys
from planner.hardware import host
from planner.base import machine
from planner.hardware import vram
from planner.base import errors
from planner.base.record import as_builtins

for line in sys.stdin:
    request = json.loads(line)
    for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
        os.environ.pop(name, None)
    os.environ.update(request["environment"])
    machine.ROOT = pathlib.Path(request["root"])
    given = request["host"]
    vram.host_memory = (lambda: host.HostMemory(*given[:2], "/proc/meminfo", *given[2:])) if given else host.host_memory
    try:
        answer = getattr(vram, request["call"])(*request["arguments"])
        many = isinstance(answer, tuple)
        told = {"answer": [as_builtins(one) for one in answer] if many else as_builtins(answer)}
    except errors.HotsplitError as error:
        told = {"error": type(error).__name__, "message": str(error)}
    print(json.dumps(told), flush=True)
"""


class NvmlStandIn:
    """A process in which the real `pynvml` has loaded the stand-in library.

    Attributes:
        folder: where the library is.
        scenario: the file that the library reads at every start.
        log: the file to which it appends its starts and shutdowns.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scenario = folder / "scenario"
        self.log = folder / "log"
        self._opened = contextlib.ExitStack()
        self._process: subprocess.Popen[str] | None = None

    def environment(self, scenario: str, **variables: str) -> dict[str, str]:
        """Writes `scenario` and returns the environment of a process that is to find the library."""
        self.scenario.write_text(scenario, encoding="utf-8", errors="surrogateescape")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("CUDA_")}
        return inherited | {
            "LD_LIBRARY_PATH": str(self.folder),
            "HOTSPLIT_NVML_SCENARIO": str(self.scenario),
            "HOTSPLIT_NVML_LOG": str(self.log),
            "PYTHONPATH": str(_ROOT),
            **variables,
        }

    def ask(
        self,
        scenario: str,
        call: str,
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        host: tuple[int | None, ...] | None = None,
        root: Path | None = None,
    ) -> dict[str, Any]:
        """Calls `planner.hardware.vram.<call>(*arguments)` there.

        Returns `{"answer": …}` or `{"error": …, "message": …}`.

        Args:
            scenario: what the library is to answer (the format is in `nvml_stand_in.c`).
            call: the function's name.
            arguments: its arguments.
            environment: `CUDA_*` variables to set.
            host: total, available and perhaps free bytes to take for the host's; None for its own.
            root: where files that tell the kind of machine are looked for; None for a plain Linux machine without any.
        """
        variables = self.environment(scenario)
        if self._process is None:
            self._process = self._opened.enter_context(
                started(
                    [sys.executable, "-W", "error", "-c", _SERVER],
                    env=variables,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        request = {"call": call, "arguments": arguments, "environment": dict(environment or {}), "host": host}
        request["root"] = str(root or self.folder / "plain")
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.close()
            pytest.fail("the process that holds the stand-in ended; its own complaint is on standard error")
        told: dict[str, Any] = json.loads(line)
        return told

    def close(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            with self._opened.pop_all():
                process.communicate(timeout=30)


@pytest.fixture(scope="session")
def compile_nvml(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Returns a function that compiles the stand-in with C macros and returns the folder of `libnvidia-ml.so.1`."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the stand-in for libnvidia-ml.so.1 is loaded as Linux loads it")
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if compiler is None:
        pytest.skip("no C compiler (cc, gcc, clang) to build the stand-in for libnvidia-ml.so.1")

    def compile_with(*macros: str) -> Path:
        folder = tmp_path_factory.mktemp("nvml")
        command = [compiler, "-std=c11", "-Wall", "-Wextra", "-shared", "-fPIC", *macros]
        subprocess.run([*command, "-o", str(folder / "libnvidia-ml.so.1"), str(_SOURCE)], check=True)
        return folder

    return compile_with


@pytest.fixture(scope="session")
def load_nvml() -> Iterator[Callable[[Path], NvmlStandIn]]:
    """Returns a function that gives a stand-in for the library in a folder, closed when the tests are over."""
    with contextlib.ExitStack() as opened:

        def load(folder: Path) -> NvmlStandIn:
            stand_in = NvmlStandIn(folder)
            opened.callback(stand_in.close)
            return stand_in

        yield load


@pytest.fixture(scope="session")
def nvml(compile_nvml: Callable[..., Path], load_nvml: Callable[[Path], NvmlStandIn]) -> NvmlStandIn:
    """The stand-in as today's drivers are."""
    return load_nvml(compile_nvml())


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The catalogue that is shipped; nothing in it can be changed."""
    return load_catalogue()
