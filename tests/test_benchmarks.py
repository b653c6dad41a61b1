"""The benchmarks still run, measure what they say and keep what they measured."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import builds, gpu
from benchmarks.__main__ import main
from benchmarks.cases import CASES, Bench
from benchmarks.measure import by_turns, processes_by_turns
from benchmarks.phases import PHASES
from benchmarks.processes import BARE, FLOOR, commands_of, floor_of
from exporter.powerinfer.verify import verify_index
from planner.catalogue.entries import load_catalogue


def test_a_round_of_every_phase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kept = tmp_path / "kept.json"
    arguments = ["--smoke", "--folder", str(tmp_path / "cases")]
    assert main([*arguments, "--json", str(kept)]) == 0
    document = json.loads(kept.read_text(encoding="utf-8"))
    measured = {name.split(" / ")[1] for name in document["rows"]}
    assert measured == {
        name for name, phase in PHASES.items() if not phase.needs_cuda or "on CUDA" in " ".join(measured)
    }
    for row in document["rows"].values():
        assert row["ours"]["best_s"] > 0
        assert (row["theirs"] is None) == (row["beside"] is None)
    assert document["machine"]["cores"] >= 1
    capsys.readouterr()
    assert main([*arguments, "--phase", "solve", "--against", str(kept)]) == 0
    printed = capsys.readouterr().out
    assert "time of before" in printed
    assert "nothing to compare" not in printed
    kept.write_text(json.dumps({"rows": {"70b / plan": {}}}), encoding="utf-8")
    assert main([*arguments, "--phase", "solve", "--against", str(kept)]) == 0
    assert capsys.readouterr().out.endswith(f"nothing to compare: {kept} holds none of these\n")
    bench = Bench(CASES["7b"], tmp_path / "cases")
    assert sum(bench.solved_list) > 0
    assert verify_index(bench.index, statistics=bench.statistics, plan=bench.planning.plan) == []
    assert bench.planning.plan.vram_required_bytes <= 0.3 * bench.geometry.ffn_bytes
    commands = commands_of(bench)
    assert {floor_of(name) for name in commands} == {None, FLOOR, BARE}
    assert commands["export"][:4] == [sys.executable, "-m", "exporter", "export"]


def test_a_slow_rival_has_one_round_and_no_place_in_a_smoke_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rounds: list[str] = []
    (rival,) = PHASES["solve"].slow
    monkeypatch.setitem(PHASES["solve"].rivals, rival, lambda _bench: lambda: rounds.append("slow"))
    arguments = ["--folder", str(tmp_path / "cases"), "--case", "7b", "--phase", "solve", "--repeat", "3"]
    assert main(arguments) == 0
    assert rounds == ["slow"]
    assert rival in capsys.readouterr().out
    assert main([*arguments, "--smoke"]) == 0
    assert rounds == ["slow"]
    assert rival not in capsys.readouterr().out


def test_the_cases_are_in_the_catalogue() -> None:
    catalogue = load_catalogue()
    shapes = {name: catalogue.models[case.shape] for name, case in CASES.items()}
    assert {name: (entry.n_layer, entry.n_ff[0]) for name, entry in shapes.items()} == {
        "7b": (32, 11008),
        "13b": (40, 13824),
        "falcon-40b": (60, 32768),
        "70b": (80, 28672),
        "opt-175b": (96, 49152),
    }


def test_works_take_turns() -> None:
    order: list[str] = []
    timings = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3)
    assert order == ["a", "b"] * 3
    assert all(0 < timing.best_s <= timing.median_s for timing in timings.values())


def test_processes_take_turns_and_their_failure_is_told(tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "import sys; open(sys.argv[1], 'a').write(sys.argv[2]); kept = b'x' * int(sys.argv[3])"
    timings = processes_by_turns(
        {
            "small": [sys.executable, "-c", script, str(log), "s", "1"],
            "large": [sys.executable, "-c", script, str(log), "l", str(100 << 20)],
        },
        2,
    )
    assert log.read_text() == "slsl"
    small, large = timings["small"].peak_bytes, timings["large"].peak_bytes
    if small is not None and large is not None:
        assert 90 << 20 < large - small < 120 << 20
    with pytest.raises(RuntimeError, match="ended with 3: no luck"):
        processes_by_turns(
            {"x": [sys.executable, "-c", "import sys; print('no luck', file=sys.stderr); sys.exit(3)"]}, 1
        )


def test_the_gpu_run_writes_every_part_s_figures_and_says_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(_run: gpu.Run) -> gpu.Figures:
        raise RuntimeError("device lost | twice")

    monkeypatch.setitem(gpu.PARTS, "nccl", failing)
    arguments = ["--output", str(tmp_path), "--dry-run", "--part", "nccl", "--part", "nvml", "--part", "select"]
    assert gpu.main(arguments) == 1
    assert capsys.readouterr().out == "nccl: RuntimeError: device lost | twice\nnvml: done\nselect: done\n"
    figures = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert [*figures] == ["nccl", "nvml", "select"]
    assert figures["select"]["7b"]["neurons"] == 32 * 11008
    assert all(value > 0 for name, value in figures["select"]["7b"].items() if name.endswith("_s"))
    assert "| failed | RuntimeError: device lost \\| twice |" in (tmp_path / "gpu.md").read_text(encoding="utf-8")


def test_the_gpu_run_needs_a_gpu_or_a_dry_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu, "_why_no_gpu", lambda: "torch finds no CUDA GPU")
    assert gpu.main(["--output", str(tmp_path / "new")]) == 2
    assert capsys.readouterr().err == (
        "no GPU to measure (torch finds no CUDA GPU); --dry-run does everything on the CPU\n"
    )
    assert not (tmp_path / "new").exists()


def test_two_builds_are_timed_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here = Path(__file__).resolve().parent.parent
    kept = tmp_path / "kept.json"
    arguments = ["--old", str(here), "--case", "7b", "--repeat", "1", "--folder", str(tmp_path / "cases")]
    assert builds.main([*arguments, "--what", "export", "--what", "engine's call", "--json", str(kept)]) == 0
    figures = json.loads(kept.read_text(encoding="utf-8"))
    assert [*figures] == ["7b / export", "7b / engine's call"]
    assert all(each["cpu"] == each["new_cpu_s"] / each["old_cpu_s"] for each in figures.values())
    files = [tmp_path / "cases" / "7b" / f"{side}{what}.gpuidx" for side in ("old", "new") for what in ("", "-call")]
    assert all(path.stat().st_size > 0 for path in files)
    assert capsys.readouterr().out.startswith("7b / export ")
