"""Several processes that count together: the same files as one, and a process that dies."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from exporter.profile.ranks import Ranks, choose_backend, leads, started_by_torchrun

_WHY = "the optional extra is not installed: pip install 'hotsplit[profile]'"
pytest.importorskip("transformers", reason=_WHY)
distributed: Any = pytest.importorskip("torch.distributed")

from tests.test_profile import make_config, make_model, make_text  # noqa: E402 - after the check

if not distributed.is_available() or not distributed.is_gloo_available() or sys.platform == "win32":
    pytest.skip("this torch has no gloo, or the system no fork", allow_module_level=True)

# What torchrun does, but the libraries are imported once: the ranks of each run are forks of a process with one thread.
LAUNCHER = """
import json, os, socket, sys
from pathlib import Path
import torch, transformers
from transformers.models.llama import modeling_llama
from exporter.commands import profile as command
from exporter.profile import run as run_module
from exporter.profile import streaming
from planner.cli.run import build_parser, run_command

torch.set_num_threads(1)
streaming._BESIDE_BYTES = 0


def rank(number, size, port, case):
    os.environ |= {"RANK": str(number), "WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    log = os.open(f"{case['log']}.{number}", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if number == case.get("dies"):
        total, calls = run_module.Ranks.total, []

        def dying(self, arrays):
            calls.append(1)
            # The first sum is the check that all count the same; then comes one for each group.
            if len(calls) == 4:
                os._exit(9)
            return total(self, arrays)

        run_module.Ranks.total = dying
    return run_command(build_parser("hotsplit", "", [command]), case["arguments"])


for case in json.loads(sys.argv[1]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for number in range(case["size"]):
        child = os.fork()
        if not child:
            code = 99
            try:
                code = rank(number, case["size"], port, case)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]), flush=True)
"""


def test_any_number_of_processes_writes_the_same_files(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "model", make_config("llama"))
    text = make_text(tmp_path, documents=40)
    common = ["profile", "--model", str(folder), "--device", "cpu", "--window", "16", "--windows-per-batch", "1"]
    common += ["--data", *map(str, text), "--output"]

    def case(size: int, name: str, *more: str, **others: Any) -> dict[str, Any]:
        log = str(tmp_path / f"{name}{len(more)}.log")
        return {"size": size, "arguments": [*common, str(tmp_path / name), *more], "log": log, **others}

    cases = [
        case(1, "one"),
        case(2, "two"),
        case(3, "three", "--memory", "200000B"),
        case(2, "dies", "--checkpoint-seconds", "600", dies=1),
        case(3, "dies", "--resume"),
        case(2, "other"),
    ]
    cases[-1]["arguments"] = [*cases[-1]["arguments"], "--tokens", "0"]
    done = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, json.dumps(cases)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).resolve().parent.parent,
    )
    with done:
        try:
            out, err = done.communicate(timeout=240)
        finally:
            done.kill()
    assert [json.loads(line) for line in out.splitlines()] == [[0], [0, 0], [0, 0, 0], [2, 9], [0, 0, 0], [2, 2]], err

    def files(name: str) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()}

    def said(name: str, rank: int) -> list[str]:
        lines = (tmp_path / f"{name}.log.{rank}").read_text().splitlines()
        return [line for line in lines if line.startswith("hotsplit: ")]

    for name in ("two", "three", "dies"):
        assert files(name) == files("one")
    (note, *_) = said("three2", 0)
    assert note.startswith("hotsplit: note: counting layer by layer, up to ")
    assert "3 files of statistics" in (tmp_path / "three2.log.0").read_text()
    assert not (tmp_path / "three2.log.1").read_text()
    (lost,) = said("dies2", 0)
    # Two groups of 16 windows were summed before the second process was gone.
    assert re.fullmatch(
        r"hotsplit: error: a process of the run is gone \(.+\); [0-9]{3} tokens are kept, go on with --resume and any "
        r"number of processes",
        lost,
    )
    told = "\n".join(said("other0", 0) + said("other0", 1))
    assert told == "hotsplit: error: --tokens 0: must be 1 or more"


def test_a_process_alone_leads_and_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not started_by_torchrun()
    assert leads()
    alone = Ranks()
    assert alone.leads
    assert all(alone.turn(number) for number in range(5))
    assert alone.claims_last_word()
    second = Ranks(1, 3)
    assert [number for number in range(9) if second.turn(number)] == [1, 4, 7]
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "1")
    assert started_by_torchrun()
    assert not leads()


@pytest.mark.parametrize(
    ("device", "n_gpus", "local_ranks", "has_nccl", "expected"),
    [
        ("cuda", 2, 2, True, "nccl"),
        ("auto", 8, 3, True, "nccl"),
        ("auto", 1, 1, True, "nccl"),
        ("auto", 1, 2, True, "gloo"),
        ("cuda", 2, 2, False, "gloo"),
        ("cpu", 2, 2, True, "gloo"),
        ("auto", 0, 2, True, "gloo"),
    ],
)
def test_processes_with_a_gpu_each_add_on_the_gpus(
    device: str, n_gpus: int, local_ranks: int, has_nccl: bool, expected: str
) -> None:
    assert choose_backend(device, n_gpus, local_ranks, has_nccl=has_nccl) == expected


def test_sums_by_nccl_are_waited_for_where_a_signal_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the GPU and its engine: the sum goes there and back, and nothing blocks inside the engine."""
    asked: list[object] = []
    moved: list[str] = []

    class Work:
        def is_completed(self) -> bool:
            asked.append(None)
            return len(asked) > 2

    def all_reduce(tensor: Any, async_op: bool = False) -> Work:
        assert async_op
        tensor *= 3
        return Work()

    def moving(to: str) -> Callable[[torch.Tensor], torch.Tensor]:
        def move(tensor: torch.Tensor) -> torch.Tensor:
            moved.append(to)
            return tensor

        return move

    monkeypatch.setattr(torch.Tensor, "cuda", moving("cuda"))
    monkeypatch.setattr(torch.Tensor, "cpu", moving("cpu"))
    monkeypatch.setattr(distributed, "all_reduce", all_reduce)
    given = (np.arange(6, dtype=np.int64).reshape(2, 3), np.array([7], dtype=np.int64))
    first, second = Ranks(0, 3, None, "nccl").total(given)
    np.testing.assert_array_equal(first, [[0, 3, 6], [9, 12, 15]])
    np.testing.assert_array_equal(second, [21])
    assert moved == ["cuda", "cpu"]
    assert len(asked) == 3
