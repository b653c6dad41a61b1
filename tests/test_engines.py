"""A new engine is a room on each side and a row in each table: one that exists nowhere goes through every command."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from exporter.engines import WRITERS, writer_named
from planner.base.errors import InputError
from planner.engines.registry import ENGINES, engine_named
from planner.plans.file import read_plan
from tests.commands import hotsplit

DRAWERS = [[9, 1, 5, 3], [8, 8, 2], [7]]
DRAWER_BYTES = [10, 7, 30]
FRAME_BYTES = 100


@pytest.fixture
def cabinet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(ENGINES, "cabinet", "tests.fake_engine")
    monkeypatch.setitem(WRITERS, "cabinet", "tests.fake_engine")
    model = tmp_path / "oak.json"
    told = {"drawers": list(map(len, DRAWERS)), "drawer_bytes": DRAWER_BYTES, "frame_bytes": FRAME_BYTES}
    model.write_text(json.dumps(told), encoding="utf-8")
    (tmp_path / "oak.counts").write_text(json.dumps(DRAWERS), encoding="utf-8")
    return model


def best_within(room_bytes: int) -> tuple[int, tuple[int, ...]]:
    """Returns the most that drawers within `room_bytes` cover, and how many of each row, by trying everything."""
    hottest = [sorted(row, reverse=True) for row in DRAWERS]
    return max(
        (sum(sum(row[:k]) for row, k in zip(hottest, counts, strict=True)), counts)
        for counts in itertools.product(*(range(len(row) + 1) for row in DRAWERS))
        if sum(k * size for k, size in zip(counts, DRAWER_BYTES, strict=True)) <= room_bytes
    )


def test_another_engine_goes_from_plan_to_its_own_file(cabinet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan_file, budget = cabinet.with_name("plan.json"), FRAME_BYTES + 20 + 45
    done = hotsplit(
        capsys, "plan", "--engine", "cabinet", "--model", cabinet, "--vram-budget", f"{budget}B", "--context", 2,
        "--output", plan_file, "--explain",
    )  # fmt: skip
    assert done.exit_code == 0, done.err
    assert "The frame" in done.out
    assert "the best drawers at hand" in done.out
    assert "neuron" not in done.out
    assert "cabinets are heavy" in done.err
    plan = read_plan(plan_file)
    covered, counts = best_within(45)
    assert plan.solved_list == counts
    assert plan.units.kind == "drawers"
    assert plan.solver is not None
    assert plan.solver.objective == covered
    assert plan.engine is not None
    assert plan.engine.name == "cabinet"

    done = hotsplit(capsys, "export", "--plan", plan_file)
    assert done.exit_code == 0, done.err
    assert f"{sum(counts)} hot drawers" in done.out
    written = cabinet.with_suffix(".drawers")
    assert json.loads(written.read_text(encoding="utf-8").removeprefix("CABINET")) == [[0, 2, 3], [0, 1], []]
    assert hotsplit(capsys, "verify", written, "--plan", plan_file, "--model", cabinet).exit_code == 0

    written.write_text("CABINET[[0], [], []]", encoding="utf-8")
    done = hotsplit(capsys, "verify", written, "--plan", plan_file)
    assert (done.exit_code, "but the plan has" in done.out) == (1, True)


def test_another_engine_answers_studies(cabinet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study = cabinet.with_name("study.yaml")
    study.write_text(
        f"""\
engine: cabinet
models: {{file: {cabinet.name}}}
gpus: {{name: shelf, budget: {FRAME_BYTES + 10 + 45}B, bandwidth: 100 GB/s}}
hosts: {{name: room, bandwidth: 10 GB/s}}
contexts: 1
kv_type: wood
reserve: {{varnish: 0B}}
""",
        encoding="utf-8",
    )
    done = hotsplit(capsys, "whatif", study, "--json")
    assert done.exit_code == 0, done.err
    (answer,) = json.loads(done.out)["cells"]
    covered, counts = best_within(45)
    assert answer["solved_list"] == list(counts)
    assert answer["hit_rate"] == covered / sum(map(sum, DRAWERS))
    assert answer["bytes"]["dense_bytes"] == FRAME_BYTES


def test_every_engine_has_its_writer() -> None:
    assert list(ENGINES) == list(WRITERS)
    for name in ENGINES:
        assert engine_named(name).name == writer_named(name).name == name


def test_an_unknown_engine_is_refused_with_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"^engine 'x' is not known; known are powerinfer"):
        engine_named("x")
    with pytest.raises(InputError, match=r"^engine 'x' has no writer; known are powerinfer"):
        writer_named("x")
