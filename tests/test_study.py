import json
import re
from pathlib import Path
from typing import Any

import pytest

from planner.base.errors import FaultsError, InputError
from planner.base.units import parse_size
from planner.catalogue.entries import load_catalogue
from planner.engines.powerinfer.architectures import ARCHITECTURES
from planner.studies.study import MAX_CELLS, Study, load_study, study_of
from planner.studies.study_file import json_schema

GIB = 1 << 30
MINIMAL = "models: relu-llama-70b\ngpus: rtx-4090\nhosts: pc-high\n"


def load(tmp_path: Path, text: str) -> Study:
    file = tmp_path / "x.yaml"
    file.write_text(text, "utf-8")
    return load_study(file)


def faults(tmp_path: Path, text: str) -> list[str]:
    """Returns the fault lines of a study without the path of its file."""
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    return [line.replace(str(tmp_path / "x.yaml"), "x.yaml") for line in str(caught.value).splitlines()]


def test_the_smallest_study_has_one_cell_with_defaults(tmp_path: Path) -> None:
    study = load(tmp_path, MINIMAL)
    (cell,) = study.cells
    assert cell.name == "base / relu-llama-70b / F16 / rtx-4090 / pc-high / 512"
    assert (cell.gpu.vram_bytes, cell.gpu.free_bytes, cell.gpu.budget_bytes) == (24564 << 20, None, None)
    assert cell.gpu.bandwidth_bytes_per_s == 1008 * 10**9
    assert (cell.host.bandwidth_bytes_per_s, cell.host.memory_bytes) == (67_200_000_000, 192 * GIB)
    assert cell.model.active_share == 0.18
    assert cell.model.active_source == "PowerInfer, SOSP'24: ReGLU-70B 18 % of neurons active per token"
    assert study.title == "x"


def test_the_grid_is_every_combination_in_order(tmp_path: Path) -> None:
    study = load(
        tmp_path,
        "models: [opt-30b, bamboo-7b]\nhosts: [pc-high, pc-low]\ncontexts: [512, 1024]\nquantisations: [q4_0, F16]\n"
        "gpus:\n  - {catalogue: rtx-4090, vram: {from: 8GiB, to: 24GiB, step: 8GiB}}\n"
        "  - {name: mine, bandwidth: 500, budget: [4, 6.5GiB]}\nsolvers: [highs, cbc]\n"
        "overrides:\n  short: {contexts: 64, models: opt-30b}\n",
    )
    assert len(study.cells) == 2 * 2 * 5 * 2 * 2 * 2 + 1 * 2 * 5 * 2 * 1 * 2
    assert len({cell.name for cell in study.cells}) == len(study.cells)
    assert [cell.gpu.label for cell in study.cells[:40:8]] == [
        "rtx-4090 8 GiB",
        "rtx-4090 16 GiB",
        "rtx-4090 24 GiB",
        "mine budget 4 GiB",
        "mine budget 6.5 GiB",
    ]
    assert study.cells[0].name == "base / opt-30b / Q4_0 / rtx-4090 8 GiB / pc-high / 512 / highs"
    assert study.cells[-1].name == "short / opt-30b / F16 / mine budget 6.5 GiB / pc-low / 64 / cbc"
    assert study.cells[24].gpu.budget_bytes == 4 * GIB


def test_an_override_replaces_keys_and_keeps_the_rest(tmp_path: Path) -> None:
    study = load(
        tmp_path,
        MINIMAL
        + "targets: {hit_rate: 0.5}\nspeed: {sync_us: 100}\noverrides:\n  a: {targets: {vram: 8GiB}}\n  b: {}\n",
    )
    base, first, second = study.cells
    assert (base.scenario, first.scenario, second.scenario) == ("base", "a", "b")
    assert (base.targets.hit_rate, base.targets.vram) == (0.5, None)
    assert (first.targets.hit_rate, first.targets.vram) == (None, 8 * GIB)
    assert second.targets == base.targets
    assert first.speed.sync_s == pytest.approx(1e-4)


def test_twins_get_numbers(tmp_path: Path) -> None:
    study = load(tmp_path, MINIMAL.replace("rtx-4090", "[rtx-4090, rtx-4090]"))
    assert [cell.name[-3:] for cell in study.cells] == ["512", " #2"]


def test_a_range_includes_its_end_with_a_shorter_last_step(tmp_path: Path) -> None:
    study = load(tmp_path, MINIMAL.replace("rtx-4090", "{catalogue: t4, vram: {from: 1, to: 2.6, step: 0.5}}"))
    assert [cell.gpu.vram_bytes for cell in study.cells] == [*(n * GIB // 2 for n in (2, 3, 4, 5)), parse_size("2.6")]


def test_sizes_are_those_of_the_engine(tmp_path: Path) -> None:
    study = load(tmp_path, MINIMAL.replace("rtx-4090", "{bandwidth: 1, budget: [7.9, 7.9GiB, 8192MiB, 123B]}"))
    # 7.9 is a 32-bit float to the engine, 7.9GiB is exact.
    assert [cell.gpu.budget_bytes for cell in study.cells] == [8482560512, 8482560409, 8 * GIB, 123]


def test_models_are_files_names_or_dimensions(tmp_path: Path) -> None:
    study = load(
        tmp_path,
        "gpus: t4\nhosts: pc-low\nmodels:\n  - sub/a.gguf\n  - {file: b.gguf, name: b, statistics: ./stats}\n"
        "  - {catalogue: opt-30b, statistics: {hotness: {points: [[0.1, 0.6], [0.5, 0.95]]}}, active_share: 0.5}\n"
        "  - name: mine\n    statistics: {hotness: {hot_share: 0.2, activation_share: 0.8}}\n    dimensions:\n"
        "      {architecture: llama, n_layer: 2, n_embd: 64, n_ff: [100, 200], n_head: 4, n_vocab: 10}\n",
    )
    first, second, third, fourth = (cell.model for cell in study.cells)
    assert first.file == tmp_path / "sub" / "a.gguf"
    assert (first.label, first.statistics, first.active_share) == ("a.gguf", None, None)
    assert study.cells[0].quantisation is None
    assert second.statistics is not None
    assert second.statistics.folder == "./stats"
    assert (third.active_share, third.active_source) == (0.5, "the study")
    assert fourth.entry is not None
    assert fourth.entry.neurons() == (100, 200)


FAULTY = """\
title: 3
modles: [a]
models: [relu-llama-70, {file: a.gguf, catalogue: b}, {dimensions: {architecture: lama, n_layer: "2"}}]
gpus:
  - rtx-4090
  - {catalogue: rtx-3090, vram: 8XB, bandwith: 3}
  - {catalogue: rtx-3090, vram: {from: 8, to: 4, step: 1}}
  - 5
  - {}
hosts: []
contexts: [0, 1.5, true]
targets: {hitrate: 0.5, hit_rate: 2}
overrides:
  a: {gpu: x, targets: {vram: yes}}
  b: 4
"""

_SIZE = "a size such as 8GiB, 8192MiB or 8 (GiB)"


def test_all_faults_are_reported_together_each_with_its_path_and_line(tmp_path: Path) -> None:
    found = faults(tmp_path, FAULTY)
    expected = [
        "x.yaml: title: found 3, expected text (line 1)",
        "x.yaml: modles: found the key 'modles', expected one of engine, models, gpus, hosts, contexts, "
        "quantisations, solvers, kv_type, targets, speed, reserve, title, description, catalogue, overrides; "
        "did you mean 'models'? (line 2)",
        "x.yaml: models[1]: found a mapping (file, catalogue), expected one of file, catalogue, dimensions (line 3)",
        "x.yaml: models[2].dimensions.architecture: found 'lama', expected an architecture: "
        f"{', '.join(ARCHITECTURES)} (line 3)",
        "x.yaml: models[2].dimensions.n_layer: found '2', expected a whole number (line 3)",
        "x.yaml: models[2].dimensions.n_embd: found nothing, expected the width of the model (line 3)",
        f"x.yaml: gpus[1].vram: found '8XB', expected {_SIZE} (line 6)",
        "x.yaml: gpus[1].bandwith: found the key 'bandwith', expected one of device, catalogue, file, name, vram, "
        "reserved, free, budget, bandwidth, pcie, context, price; did you mean 'bandwidth'? (line 6)",
        "x.yaml: gpus[2].vram: found a mapping (from, to, step), expected a range whose `to` is not less than its "
        "`from` (line 7)",
        "x.yaml: gpus[3]: found 5, expected a mapping (line 8)",
        "x.yaml: gpus[4]: found an empty mapping, expected device, catalogue, or a GPU of your own with bandwidth and "
        "vram (or free, or budget) (line 9)",
        "x.yaml: hosts: found a list of 0, expected at least 1 of them (line 10)",
        "x.yaml: contexts[0]: found 0, expected 1 or more (line 11)",
        "x.yaml: contexts[1]: found 1.5, expected a whole number (line 11)",
        "x.yaml: contexts[2]: found true, expected a whole number (line 11)",
        "x.yaml: targets.hitrate: found the key 'hitrate', expected one of hit_rate, tokens_per_second, vram; did you "
        "mean 'hit_rate'? (line 12)",
        "x.yaml: targets.hit_rate: found 2, expected 1 or less (line 12)",
        f"x.yaml: overrides.a.targets.vram: found 'yes', expected {_SIZE} (line 14)",
        "x.yaml: overrides.b: found 4, expected a mapping (line 15)",
    ]
    for line in expected:
        assert line in found
    assert len([line for line in found if line.startswith("x.yaml: overrides.a.gpu:")]) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "x.yaml: found nothing, expected a mapping with engine, models, gpus, hosts, contexts, quantisations, "
         "solvers, kv_type, targets, speed, reserve, title, description, catalogue, overrides"),
        ("- a\n", "x.yaml: found a list of 1, expected a mapping with engine, models, gpus, hosts, contexts, "
         "quantisations, solvers, kv_type, targets, speed, reserve, title, description, catalogue, overrides"),
        (MINIMAL + "contexts: .nan\n", "x.yaml: contexts[0]: found nan, expected a whole number (line 4)"),
        (MINIMAL + "targets: {tokens_per_second: .inf}\n", "x.yaml: targets.tokens_per_second: found inf, expected a "
         "number that is finite (line 4)"),
        (MINIMAL + "kv_type: f8\n", "x.yaml: kv_type: found 'f8', expected 'f16' or 'f32' (line 4)"),
        (MINIMAL + "solvers: {threshold: 4, sync_us: 3}\n", "x.yaml: solvers[0]: found a mapping (threshold, sync_us), "
         "expected threshold or sync_us, not both (line 4)"),
        (MINIMAL + "speed: {overlap: 1.5}\n", "x.yaml: speed.overlap: found 1.5, expected 1 or less (line 4)"),
        (MINIMAL + "title: a\ntitle: b\n", "x.yaml: line 5, column 1: found the key 'title' a second time, expected "
         "each key once"),
        ("models: a.gguf\ngpus: {vram: 8, free: 7, bandwidth: 9}\nhosts: pc-low\n", "x.yaml: gpus[0]: found a mapping "
         "(vram, free, bandwidth), expected one of vram, free, budget (line 2)"),
        ("models: a.gguf\ngpus: {vram: 8, bandwidth: fast}\nhosts: pc-low\n", "x.yaml: gpus[0].bandwidth: found "
         "'fast', expected bytes per second such as 936 GB/s or 1.8 TB/s (line 2)"),
        ("models: a.gguf\ngpus: {vram: 0, bandwidth: 9}\nhosts: pc-low\n", "x.yaml: gpus[0].vram: found 0, expected a "
         "size of at least one byte (line 2)"),
        ("models: a.gguf\ngpus: {vram: [], bandwidth: 9}\nhosts: pc-low\n", f"x.yaml: gpus[0].vram: found a list of 0, "
         f"expected {_SIZE}, a list of sizes, or {{from: 8GiB, to: 24GiB, step: 2GiB}} (line 2)"),
        ("models: a.gguf\ngpus: {vram: {from: 1B, to: 9TB, step: 1B}, bandwidth: 9}\nhosts: pc-low\n", "x.yaml: "
         "gpus[0].vram: found a mapping (from, to, step), expected a range of at most 10000 steps (line 2)"),
        ("models: {dimensions: {architecture: llama, n_layer: 2, n_embd: 64, n_ff: 9, n_head: 4, n_vocab: 9}}\n"
         "gpus: t4\nhosts: pc-low\n", "x.yaml: models[0]: found a model without statistics, expected statistics: a "
         "folder, a catalogue entry or a hotness curve (line 1)"),
        ("models: {dimensions: {architecture: llama, n_layer: 2, n_embd: 64, n_ff: [9], n_head: 4, n_vocab: 9},\n"
         "  statistics: {hotness: {hot_share: 0.9, activation_share: 0.2}}}\ngpus: t4\nhosts: pc-low\n",
         "x.yaml: models[0].statistics.hotness: found a mapping (hot_share, activation_share), expected the hottest "
         "first, so that every step covers no more per neuron than the one before (line 2)"),
        ("models: {dimensions: {architecture: llama, n_layer: 4096, n_embd: 64, n_ff: 99999, n_head: 4, n_vocab: 9}}\n"
         "gpus: t4\nhosts: pc-low\n", "x.yaml: models[0].dimensions: found a mapping (architecture, n_layer, n_embd, "
         "n_ff, n_head, n_vocab), expected a model of at most 67108864 FFN neurons in all layers (line 1)"),
        (MINIMAL + "overrides: {a: {contexts: 0}}\n", "x.yaml: overrides.a.contexts[0]: found 0, expected 1 or more "
         "(line 4)"),
        (MINIMAL + "x" * 900 + ": 1\n", "x.yaml: " + "x" * 60 + "…: found the key '" + "x" * 58 + "…, expected one "
         "of engine, models, gpus, hosts, contexts, quantisations, solvers, kv_type, targets, speed, reserve, title, "
         "description, catalogue, overrides (line 4)"),
    ],
)  # fmt: skip
def test_one_fault_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    assert faults(tmp_path, text) == [expected]


def test_names_that_are_in_no_catalogue_come_with_the_nearest(tmp_path: Path) -> None:
    assert faults(
        tmp_path,
        "models: [relu-llama-70, {catalogue: opt-30b, statistics: relu-7b}]\ngpus: [rtx4090, this machine]\n"
        "hosts: {catalogue: ddr5-560}\nquantisations: [Q4_O]\noverrides:\n  a: {gpus: rtx-9090}\n",
    ) == [
        "x.yaml: models[0].catalogue: found 'relu-llama-70', expected a name that `hotsplit catalogue` lists; did you "
        "mean 'relu-llama-70b'? (line 1)",
        "x.yaml: gpus[0].catalogue: found 'rtx4090', expected a name that `hotsplit catalogue` lists; did you mean "
        "'rtx-4090'? (line 2)",
        "x.yaml: hosts[0].catalogue: found 'ddr5-560', expected a name that `hotsplit catalogue` lists; did you mean "
        "'ddr5-5600-quad'? (line 3)",
        "x.yaml: models[1].statistics: found 'relu-7b', expected one of relullama-13b, relullama-70b, relullama-7b, or "
        "a folder; did you mean 'relullama-7b'? (line 1)",
        "x.yaml: quantisations[0]: found 'Q4_O', expected one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0; did you mean "
        "'Q4_1'? (line 4)",
        "x.yaml: overrides.a.gpus[0].catalogue: found 'rtx-9090', expected a name that `hotsplit catalogue` lists; did "
        "you mean 'rtx-5090'? (line 6)",
    ]


def test_unknown_names_are_reported_together_with_every_other_fault(tmp_path: Path) -> None:
    text = (
        "models: [relu-lama-7b, 5]\ngpus: [{catalogue: rtx-4091, vram: 8GiB}, {catalogue: t4, vram: 8XB}]\n"
        "hosts: ddr6-9999\nquantisations: [Q4_9, 4]\ncontexts: 0\noverrides:\n  a: {hosts: pc-hi, context: 3}\n"
    )
    assert [line.partition(": found ")[0] for line in faults(tmp_path, text)] == [
        "x.yaml: models[1]",
        "x.yaml: gpus[1].vram",
        "x.yaml: contexts[0]",
        "x.yaml: quantisations[1]",
        "x.yaml: overrides.a.context",
        "x.yaml: models[0].catalogue",
        "x.yaml: gpus[0].catalogue",
        "x.yaml: hosts[0].catalogue",
        "x.yaml: quantisations[0]",
        "x.yaml: overrides.a.hosts[0].catalogue",
    ]


def test_a_catalogue_that_cannot_be_read_waits_for_a_sound_study(tmp_path: Path) -> None:
    text = "models: mine\ngpus: t4\nhosts: pc-low\ncatalogue: nowhere\n"
    assert faults(tmp_path, text + "contexts: 0\n") == ["x.yaml: contexts[0]: found 0, expected 1 or more (line 5)"]
    (line,) = faults(tmp_path, text)
    assert "nowhere: found no catalogue" in line


def test_more_unknown_names_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    found = faults(tmp_path, "models: [" + ", ".join(f"model-{number}" for number in range(80)) + "]\ngpus: t4\n")
    assert found[0].startswith("x.yaml: hosts: found nothing, expected at least one host")
    assert len(found) == 1 + 50 + 1
    assert found[-1] == "x.yaml: and 30 more faults"


def test_limits_are_written_out(tmp_path: Path) -> None:
    assert faults(tmp_path, MINIMAL + "contexts: 99999999\n") == [
        "x.yaml: contexts[0]: found 99999999, expected 16777216 or less (line 4)"
    ]


def test_more_faults_than_anyone_reads_are_counted(tmp_path: Path) -> None:
    found = faults(tmp_path, "models: a.gguf\nhosts: pc-low\ngpus: [" + ", ".join(["5"] * 80) + "]\n")
    assert len(found) == 51
    assert found[-1] == "x.yaml: and 30 more faults"


def test_a_grid_that_explodes_is_refused_before_it_is_made(tmp_path: Path) -> None:
    axis = "{from: 1GiB, to: 9GiB, step: 1MiB}"
    text = (
        f"models: [a.gguf, b.gguf, c.gguf, d.gguf]\nhosts: [pc-low, pc-high]\ngpus: {{catalogue: t4, vram: {axis}}}\n"
    )
    assert faults(tmp_path, text + "contexts: [1, 2]\n") == [
        f"x.yaml: found 131088 cells, expected at most {MAX_CELLS}; make an axis shorter"
    ]


def test_cells_are_found_by_name_number_and_pattern(tmp_path: Path) -> None:
    study = load(tmp_path, MINIMAL + "contexts: [512, 1024, 2048]\n")
    assert study.cell("2").context == 1024
    assert study.cell(study.cells[2].name).context == 2048
    assert study.cell("*/ 512").context == 512
    shown = study.path
    for wanted, message in [
        ("0", f"{shown}: found no cell 0, expected 1 to 3"),
        (
            "*rtx*",
            f"{shown}: found 3 cells that match '*rtx*', expected one: {', '.join(c.name for c in study.cells)}",
        ),
        (None, f"{shown}: found 3 cells, expected one; choose with --cell: {', '.join(c.name for c in study.cells)}"),
    ]:
        with pytest.raises(InputError) as caught:
            study.cell(wanted)
        assert str(caught.value) == message
    with pytest.raises(InputError, match=r"found no cell 'rtx'; cells are such as base / relu"):
        study.cell("rtx")
    assert load(tmp_path, MINIMAL).cell(None).context == 512


def test_a_study_can_name_its_own_catalogue(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "gpus.yaml").write_text("gpus: {mine: {vram: 6GiB, bandwidth: 200 GB/s}}\n")
    study = load(tmp_path, "catalogue: own\n" + MINIMAL.replace("rtx-4090", "[mine, rtx-4090]"))
    assert [cell.gpu.vram_bytes for cell in study.cells] == [6 * GIB, 24564 << 20]


def test_a_program_describes_a_study_with_the_same_keys() -> None:
    catalogue = load_catalogue()
    study = study_of({"models": ["opt-30b"], "gpus": "t4", "hosts": "pc-low"}, catalogue)
    assert study.cells[0].name == "base / opt-30b / F16 / t4 / pc-low / 512"
    with pytest.raises(FaultsError, match=r"^study: gpus: found nothing, expected at least one GPU"):
        study_of({"models": ["opt-30b"], "hosts": "pc-low"}, catalogue)


def test_keys_of_a_program_that_are_no_text_are_faults() -> None:
    faulty: dict[Any, Any] = {"models": "opt-30b", "gpus": "t4", "hosts": "pc-low", "title": {9: 1}, 1: 2}
    faulty |= {"overrides": {3: {}, "o": {None: 4}}, "speed": {7: 8}}
    with pytest.raises(FaultsError) as caught:
        study_of(faulty, load_catalogue())
    assert caught.value.lines == (
        "study: speed: found the key 7, expected text (line 1)",
        "study: title: found a mapping (9), expected text (line 1)",
        "study: overrides: found the key 3, expected text (line 1)",
        "study: overrides.o: found the key nothing, expected text (line 1)",
        "study: found the key 1, expected text (line 1)",
    )


def test_the_schema_is_json_schema_that_knows_every_key_and_form() -> None:
    schema = json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["models", "gpus", "hosts"]
    assert schema["additionalProperties"] is False
    assert {"models", "gpus", "overrides", "targets", "speed"} <= set(schema["properties"])
    gpu = schema["$defs"]["GpuChoice"]["anyOf"]
    assert gpu[0] == {"type": "string"}
    assert gpu[1]["additionalProperties"] is False
    text = json.dumps(schema)
    for name in text.split("#/$defs/")[1:]:
        assert name.split('"')[0] in schema["$defs"]
    for axis in ("models", "contexts", "quantisations"):
        assert any(form.get("type") == "array" for form in schema["properties"][axis]["anyOf"])


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    schema = json_schema()
    for table in (schema["properties"], schema["$defs"]["Override"]["properties"]):
        for axis in ("models", "gpus", "hosts", "contexts", "quantisations", "solvers"):
            assert "minLength" not in table[axis]
            arrays = [form for form in table[axis]["anyOf"] if form.get("type") == "array"]
            assert [form["minItems"] for form in arrays] == [1]
    assert schema["$defs"]["SolverChoice"]["anyOf"][0] == {"type": "string", "enum": ["cbc", "highs"]}
    text, number = schema["$defs"]["Targets"]["properties"]["vram"]["anyOf"][0]["anyOf"]
    assert number == {"type": "number", "exclusiveMinimum": 0}
    for size in ("8GiB", "8 gib", "8192MiB", "8.5GB", ".5TiB", "123B", "8", "8.", " 8KiB "):
        assert re.search(text["pattern"], size)
        assert parse_size(size) > 0
    for size in ("8GG", "8 gallons", "-8GiB", "GiB", "", "8e3", "8GiBs", "0x8"):
        assert not re.search(text["pattern"], size)
        with pytest.raises(InputError):
            parse_size(size)
    rate = schema["$defs"]["HostChoice"]["anyOf"][1]["properties"]["bandwidth"]["anyOf"][0]["anyOf"][0]["pattern"]
    assert re.search(rate, "936 GB/s")
    assert not re.search(rate, "936 Gb/s")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "reserve: {total: 0B, buckets: 1MiB}\n",
            ["x.yaml: reserve: found a mapping (total, buckets), expected total or items of it, not both (line 4)"],
        ),
        (
            "overrides: {base: {contexts: 64}}\n",
            [
                "x.yaml: overrides.base: found the name 'base', expected a name, other than 'base' for the base itself "
                "(line 4)"
            ],
        ),
        (
            "overrides:\n  ' ': {contexts: 64}\n  ' base': {contexts: [64, 128]}\n",
            [
                "x.yaml: overrides. : found the name ' ', expected a name, other than 'base' for the base itself "
                "(line 5)",
                "x.yaml: overrides. base: found the name ' base', expected a name, other than 'base' for the base "
                "itself (line 6)",
            ],
        ),
        (
            "overrides: {base: {contexts: 64, bases: 1}}\n",
            [
                "x.yaml: overrides.base.bases: found the key 'bases', expected one of engine, models, gpus, hosts, "
                "contexts, quantisations, solvers, kv_type, targets, speed, reserve (line 4)",
                "x.yaml: overrides.base: found the name 'base', expected a name, other than 'base' for the base itself "
                "(line 4)",
            ],
        ),
    ],
)
def test_what_contradicts_itself_is_a_fault(tmp_path: Path, text: str, said: list[str]) -> None:
    assert faults(tmp_path, MINIMAL + text) == said


@pytest.mark.parametrize(
    ("heads", "expected"),
    [
        ("n_embd: 100, n_head: 3", "an n_embd that 3 heads share evenly, not 100"),
        ("n_embd: 96, n_head: 3, n_head_kv: 2", "an n_head that 2 heads of keys share evenly, not 3"),
        ("n_embd: 96, n_head: 3, n_head_kv: 6", "an n_head that 6 heads of keys share evenly, not 3"),
    ],
)
def test_heads_that_do_not_divide_are_a_fault(tmp_path: Path, heads: str, expected: str) -> None:
    text = (
        f"models: {{dimensions: {{architecture: llama, n_layer: 1, n_ff: 64, n_vocab: 9, {heads}}}}}\n"
        "gpus: rtx-4090\nhosts: pc-high\n"
    )
    (said,) = faults(tmp_path, text)
    assert said.endswith(f", expected {expected} (line 1)")


def test_an_override_may_have_items_where_the_base_has_a_total(tmp_path: Path) -> None:
    text = MINIMAL + "reserve: {total: 0B}\noverrides: {named base: {reserve: {buckets: 1MiB}}}\n"
    first, second = (cell.reserve for cell in load(tmp_path, text).cells)
    assert (first.total_bytes, dict(first.overrides)) == (0, {})
    assert (second.total_bytes, dict(second.overrides)) == (None, {"buckets": 1 << 20})


def test_keys_may_be_written_as_in_american_english(tmp_path: Path) -> None:
    american = "models: {catalog: relu-llama-70b}\ngpus: {catalog: rtx-4090, vram: 8GiB}\nhosts: {catalog: pc-high}\n"
    more = "quantizations: [Q4_0]\noverrides: {o: {quantizations: F16}}\n"
    british = (american + more).replace("catalog", "catalogue").replace("quantiz", "quantis")
    assert load(tmp_path, american + more).cells == load(tmp_path, british).cells
    own = tmp_path / "own"
    own.mkdir()
    (own / "hosts.yaml").write_text("hosts: {mine: {bandwidth: 50}}\n")
    (cell,) = load(tmp_path, MINIMAL.replace("pc-high", "mine") + "catalog: own\n").cells
    assert cell.host.label == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "quantizations: [Q5]\n",
            "x.yaml: quantizations[0]: found 'Q5', expected one of F32, F16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0; did you "
            "mean 'Q5_1'? (line 4)",
        ),
        ("quantizations: 3\n", "x.yaml: quantizations[0]: found 3, expected text (line 4)"),
        (
            "quantisations: F16\nquantizations: F16\n",
            "x.yaml: quantizations: found both quantisations and quantizations, expected one of them (line 5)",
        ),
        (
            "overrides: {o: {catalog: x}}\n",
            "x.yaml: overrides.o.catalog: found the key 'catalog', expected one of engine, models, gpus, hosts, "
            "contexts, quantisations, solvers, kv_type, targets, speed, reserve (line 4)",
        ),
    ],
)
def test_faults_name_a_key_as_it_is_written(tmp_path: Path, text: str, said: str) -> None:
    assert faults(tmp_path, MINIMAL + text) == [said]


def test_the_schema_for_editors_knows_both_spellings() -> None:
    schema = json_schema()
    for table, name, other in (
        (schema, "quantisations", "quantizations"),
        (schema["$defs"]["Override"], "quantisations", "quantizations"),
        (schema, "catalogue", "catalog"),
    ):
        assert table["properties"][other] == table["properties"][name]
