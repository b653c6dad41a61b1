"""What-if studies of experts: every cell against `hotsplit plan`, brute force or arithmetic of the tests' own."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from planner.config.yaml_file import read_yaml
from planner.engines.registry import engines_of_experts
from planner.report.expert_series import covered_series, fitting_series
from planner.report.expert_study_page import expert_page
from planner.studies.experts_evaluator import ExpertEvaluator
from planner.studies.experts_questions import ask_experts
from planner.studies.experts_study import expert_study
from tests.commands import Done, hotsplit, rows_of
from tests.test_expert_planning import CODE, MOE, PROSE, chosen_in, counts_file, share
from tests.test_page import HOSTILE, elements

CONFIGS = Path(__file__).parent.parent / "configs"
# The rest of the model in MOE/hf/qwen3_moe, its KV cache of 16 tokens, and one of its experts.
REST, CACHE, EXPERT = 40_576, 3 * 32 * 2 * 16, 6144
PLACES = [(layer, number) for layer in (1, 2) for number in range(8)]
STUDY = f"""\
title: Two layers of eight
engine: ktransformers
models:
  file: {MOE / "hf/qwen3_moe"}
  name: small
  statistics: [code.csv, "prose=prose.csv:2"]
gpus: {{name: card, budget: [{REST + CACHE + EXPERT}B, {REST + CACHE + 5 * EXPERT}B, {REST + CACHE + 12 * EXPERT}B]}}
contexts: 16
reserve: {{total: 0B}}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    counts_file(tmp_path / "code.csv", CODE)
    counts_file(tmp_path / "prose.csv", PROSE)
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    return file


def answers_of(capsys: pytest.CaptureFixture[str], study: Path, *options: object, exit_code: int = 0) -> dict[str, Any]:
    done = hotsplit(capsys, "whatif", study, "--json", *options)
    assert done.exit_code == exit_code, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def refused(capsys: pytest.CaptureFixture[str], study: Path, *options: object) -> Done:
    done = hotsplit(capsys, "whatif", study, *options)
    assert (done.exit_code, done.out) == (2, "")
    return done


# ---- cells ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("robust", [None, "worst", "regret"])
def test_a_cell_is_what_plan_says(capsys: pytest.CaptureFixture[str], study: Path, robust: str | None) -> None:
    if robust is not None:
        study.write_text(STUDY + f"robust: {robust}\n")
    cells = answers_of(capsys, study)["cells"]
    for cell, experts in zip(cells, (1, 5, 12), strict=True):
        done = hotsplit(
            capsys, "plan", "--json", "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe",
            "--statistics", study.parent / "code.csv", "--statistics", f"prose={study.parent / 'prose.csv'}:2",
            "--context", 16, "--reserve", "0B", "--vram-budget", f"{REST + CACHE + experts * EXPERT}B",
            *(() if robust is None else ("--robust", robust)),
        )  # fmt: skip
        plan = json.loads(done.out)
        assert cell["experts"] == experts == len(chosen_in(plan))
        assert cell["placed"] == [group["placed"] for group in plan["units"]["groups"]]
        assert cell["covered"] == plan["verdict"]["chosen_from"]
        assert cell["covered_mean"] == plan["hit_rate"]
        assert cell["worst_unseen"] == plan["verdict"]["worst_unseen"]
        assert cell["engine_default"] == plan["verdict"]["engine_default"]
        assert cell["account"] == plan["account"]
        assert cell["vram_used_bytes"] == REST + CACHE + experts * EXPERT
        assert cell["proof"]["bound"] == plan["proof"]["bound"]


def test_other_text_takes_no_part_in_the_choice(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(
        STUDY.replace('statistics: [code.csv, "prose=prose.csv:2"]', "statistics: code.csv\n  tried_on: prose.csv")
    )
    cell = answers_of(capsys, study)["cells"][1]
    best = max(map(set, itertools.combinations(PLACES, 5)), key=lambda each: share(CODE, each))
    assert cell["covered"] == {"code": pytest.approx(share(CODE, best))}
    assert cell["tried_on"] == {"prose": pytest.approx(share(PROSE, best))}
    assert cell["worst_unseen"]["covered"] == cell["tried_on"]["prose"]


def test_without_statistics_the_experts_are_counted_and_covered_is_unknown(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    # Qwen3-30B-A3B in FP8: three matrices of 768 x 2048 bytes for each expert, 4 bytes of scale for each 128 x 128.
    expert = 3 * (768 * 2048 + 4 * (768 // 128) * (2048 // 128))
    head = 2 * 151_936 * 2048 * 2
    attention = 48 * 2048 * 128 * (2 * 32 + 2 * 4)
    small = 48 * 2048 * 128 * 2 + (2 * 48 + 1) * 2048 * 2
    rest = head + attention + 4 * -(-attention // 128**2) + small
    cache = 48 * 2 * 4 * 128 * 2 * 8192
    needs = (612 << 20) + (1 << 30) + 128 * expert
    file = tmp_path / "study.yaml"
    file.write_text(
        "engine: ktransformers\nmodels: qwen3-30b-a3b\nquantisations: fp8\ncontexts: 8192\n"
        "gpus: {name: card, vram: [4GiB, 12GiB, 96GiB]}\n"
    )
    little, some, all_of_it = answers_of(capsys, file)["cells"]
    assert (little["state"], some["state"], all_of_it["state"]) == ("does_not_fit", "split", "all_on_gpu")
    assert some["experts"] == ((12 << 30) - rest - cache - needs) // expert
    assert some["all_experts"] == 48 * 128 == all_of_it["experts"]
    assert all_of_it["vram_used_bytes"] == rest + cache + needs + 48 * 128 * expert
    assert little["account"]["missing_bytes"] == rest + cache + needs - (4 << 30)
    for cell in (little, some, all_of_it):
        assert (cell["covered"], cell["covered_mean"], cell["worst_unseen"], cell["proof"]) == (None, None, None, None)
    done = hotsplit(capsys, "whatif", file)
    assert [row[-2] for row in rows_of(done.out)][1:] == ["unknown", "unknown"]
    assert "covered is unknown: the study names no statistics; how many experts fit does not depend on them" in done.out
    rows = list(csv.DictReader(io.StringIO(hotsplit(capsys, "whatif", file, "--csv", "-").out)))
    assert [row["covered_mean"] for row in rows] == ["", "", ""]
    assert [row["experts"] for row in rows] == ["0", str(some["experts"]), "6144"]


def test_the_hot_cache_keeps_a_zero_expert_for_each_layer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    # Two layers of four experts, three matrices of 32 x 64 numbers in F16.
    dimensions = (
        "{architecture: glm4moe, n_layer: 2, n_embd: 64, n_head: 4, n_head_kv: 2, n_expert: 4, n_expert_used: 2, "
        "n_ff_expert: 32, n_vocab: 100}"
    )
    expert = 3 * 32 * 64 * 2
    file = tmp_path / "study.yaml"
    text = (
        "engine: hot-cache\nmodels: {dimensions: %s}\nquantisations: F16\ncontexts: 256\n"
        "gpus: {budget: %dB}\nreserve: {total: 0B}\n"
    )
    file.write_text(text % (dimensions, 1 << 30))
    whole = answers_of(capsys, file)["cells"][0]
    assert (whole["experts"], whole["account"]["reserve_bytes"]) == (8, 2 * expert)
    fixed = whole["vram_used_bytes"] - 10 * expert
    for room, experts, layers in ((10, 8, 2), (9, 7, 2), (6, 4, 1), (3, 2, 1), (2, 0, 0)):
        file.write_text(text % (dimensions, fixed + room * expert))
        cell = answers_of(capsys, file)["cells"][0]
        assert cell["experts"] == experts
        assert cell["account"]["reserve_bytes"] == layers * expert
        assert cell["placed"] is None


def test_an_engine_that_does_not_take_a_model_is_a_cell_that_says_why(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "engine: [hot-cache, slots, ktransformers, exllamav3]\nmodels: qwen3-30b-a3b\nquantisations: [Q4_K, FP8]\n"
        "gpus: rtx-4090\ntargets: {vram: 24GiB}\n"
    )
    cells = answers_of(capsys, file)["cells"]
    assert [cell["state"] == "unsuitable" for cell in cells] == [True, True, False, True, True, False, True, True]
    assert [cell["verdict"] for cell in cells] == [
        "misses" if cell["state"] == "unsuitable" else "meets" for cell in cells
    ]
    assert [cell["why"] for cell in cells if cell["why"]] == [
        "qwen3-30b-a3b, declared: the hot cache (adrianhoehne/llama.cpp) does not know the architecture 'qwen3moe' (it "
        "knows deepseek2, gemma4, glm4moe, gpt-oss, mellum, qwen35moe, qwen3next)",
        "qwen3-30b-a3b, declared: the hot cache (adrianhoehne/llama.cpp) loads a GGUF file, and experts in FP8 are "
        "stored in a Hugging Face folder; name another type",
        "qwen3-30b-a3b, declared: slots (thecodacus/llama.cpp) loads a GGUF file, and experts in FP8 are stored in a "
        "Hugging Face folder; name another type",
        "qwen3-30b-a3b, declared: KTransformers loads a Hugging Face folder, and experts in Q4_K are stored in a GGUF "
        "file; name another type",
        *["qwen3-30b-a3b, declared: exllamav3 loads a folder quantised for exllamav3, whose size dimensions do not "
          "tell; name the folder"] * 2,
    ]  # fmt: skip
    file.write_text("engine: hot-cache\nmodels: qwen3-30b-a3b\nquantisations: Q4_K\ngpus: rtx-4090\n")
    assert refused(capsys, file).err == (
        f"hotsplit: error: {file}: no cell has an engine that takes its model: {cells[0]['why']}\n"
    )


def test_two_gpus_that_share_every_layer_hold_more(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("engine: ktransformers\nmodels: qwen3-30b-a3b\nquantisations: BF16\ngpus: rtx-4090\ntp: [1, 2]\n")
    one, two = answers_of(capsys, file)["cells"]
    assert (one["tp"], two["tp"]) == (1, 2)
    assert two["experts"] > 2 * one["experts"]
    file.write_text("engine: slots\nmodels: qwen3-30b-a3b\nquantisations: Q4_K\ngpus: rtx-4090\ntp: [1, 2]\n")
    cells = answers_of(capsys, file)["cells"]
    assert [cell["why"] for cell in cells] == [
        None,
        "slots (thecodacus/llama.cpp) does not divide every layer among GPUs",
    ]


def test_the_axes_and_the_overrides_make_the_cells(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "engine: [slots, hot-cache]\nmodels: [gpt-oss-20b, {catalogue: gpt-oss-120b, quantisations: [mxfp4, Q8_0]}]\n"
        "quantisations: Q4_0\ngpus: [rtx-4090, {catalogue: rtx-3090, free: [8GiB, 9GiB]}]\ncontexts: [1024, 2048]\n"
        "overrides:\n  long: {engine: slots, contexts: 65536}\n"
    )
    study = expert_study(file, read_yaml(file))
    assert len(study.cells) == 2 * 3 * 3 * 2 + 3 * 3
    assert study.cells[0].name == "base / slots / gpt-oss-20b / Q4_0 / rtx-4090 / 1024"
    assert study.cells[-1].name == "long / slots / gpt-oss-120b / Q8_0 / rtx-3090 free 9 GiB / 65536"
    assert study.cell("45") is study.cells[-1]


# ---- targets and questions ------------------------------------------------------------------------------------------


def test_targets_are_held_against_the_worst_workload(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY + "targets: {covered: 0.5}\n")
    cells = answers_of(capsys, study)["cells"]
    least = [min(share(row, best_mean(number)) for row in (CODE, PROSE)) for number in (1, 5, 12)]
    assert [cell["verdict"] for cell in cells] == ["meets" if each >= 0.5 else "misses" for each in least]
    assert {cell["verdict"] for cell in cells} == {"meets", "misses"}
    for cell in cells:
        assert cell["targets"]["covered"]["found"] == min(cell["covered"].values())
    study.write_text(STUDY + "targets: {covered: 0.999}\n")
    answers_of(capsys, study, exit_code=1)


def test_an_unknown_share_meets_no_target(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(STUDY.replace('statistics: [code.csv, "prose=prose.csv:2"]', "") + "targets: {covered: 0.1}\n")
    done = hotsplit(capsys, "whatif", study)
    assert done.exit_code == 1
    assert [row[-1] for row in rows_of(done.out)] == ["covered unknown"] * 3


@pytest.mark.parametrize("robust", [False, True])
def test_the_least_vram_is_that_of_the_fewest_experts(
    capsys: pytest.CaptureFixture[str], study: Path, robust: bool
) -> None:
    study.write_text(STUDY + ("robust: worst\n" if robust else ""))
    replies = answers_of(capsys, study, "--ask", "least-vram")["replies"]
    assert [reply["share"] for reply in replies] == [0.5, 0.8, 0.9]

    def has(chosen: set[tuple[int, int]]) -> float:
        code, prose = share(CODE, chosen), share(PROSE, chosen)
        return min(code, prose) if robust else (code + 2 * prose) / 3

    for reply in replies:
        number = next(
            number
            for number in range(1, 17)
            if any(has(set(each)) >= reply["share"] for each in itertools.combinations(PLACES, number))
        )
        assert reply["found"] == REST + CACHE + number * EXPERT
        assert reply["bound_bytes"] <= reply["found"]
    of = "the worst workload" if robust else "all choices"
    assert replies[0]["text"].endswith(f"of VRAM for 50% of {of}")


def test_without_statistics_the_least_vram_is_said_for_none_and_for_all(
    capsys: pytest.CaptureFixture[str], study: Path
) -> None:
    study.write_text(STUDY.replace('statistics: [code.csv, "prose=prose.csv:2"]', ""))
    (reply,) = answers_of(capsys, study, "--ask", "least-vram")["replies"]
    assert reply["found"] is None
    assert reply["text"] == "unknown without statistics; 42.6 KiB without experts, 138.6 KiB with all of them"


def test_the_largest_context_and_the_cheapest_gpu(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    text = STUDY.replace("name: card", "name: card, price: 300") + "targets: {covered: 0.5}\n"
    study.write_text(text)
    replies = answers_of(capsys, study, "--ask", "largest-context", "--ask", "cheapest")["replies"]
    # The share is met by some number of experts; what the others took is room for the context, 192 bytes for a token.
    number = next(
        number for number in range(1, 13) if min(share(row, best_mean(number)) for row in (CODE, PROSE)) >= 0.5
    )
    assert 1 < number <= 5
    assert [reply["found"] for reply in replies[:3]] == [
        None,
        *(16 + (room - number) * EXPERT // (CACHE // 16) for room in (5, 12)),
    ]
    assert replies[3]["question"] == "cheapest"
    assert replies[3]["text"].endswith(" at 300")
    study.write_text(STUDY)
    assert refused(capsys, study, "--ask", "cheapest").err == (
        f"hotsplit: error: {study}: targets: found nothing in 'base', expected covered or vram to ask which GPU meets "
        "them\n"
    )
    fits = answers_of(capsys, study, "--ask", "largest-context")["replies"]
    assert [reply["found"] for reply in fits] == [16 + number * EXPERT // (CACHE // 16) for number in (1, 5, 12)]


def best_mean(number: int) -> set[tuple[int, int]]:
    def mean(chosen: set[tuple[int, int]]) -> float:
        return share(CODE, chosen) + 2 * share(PROSE, chosen)

    ranked = sorted(PLACES, key=lambda place: -mean({place}))
    return set(ranked[:number])


# ---- faults ---------------------------------------------------------------------------------------------------------


def test_every_unknown_name_is_a_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(
        "engine: slots\nmodels: [relu-llama-70b, qwen3-30b-a3, {catalogue: gpt-oss-20b, quantisations: Q4_KK}]\n"
        "gpus: rtx-3060-12g\nkv_type: q17\nreserve: {scratch: 1GiB}\noverrides: {base: {contexts: 1}}\n"
    )
    lines = refused(capsys, file).err.splitlines()
    assert lines[0].startswith(f"hotsplit: error: {file}: overrides.base: found the name 'base'")
    assert lines[1:3] == [
        f"hotsplit: error: {file}: models[0].catalogue: found 'relu-llama-70b', expected a mixture of experts; this is "
        "a model without, for a study without `engine` (line 2)",
        f"hotsplit: error: {file}: models[1].catalogue: found 'qwen3-30b-a3', expected a mixture of experts of the "
        "catalogue; did you mean 'qwen3-30b-a3b'? (line 2)",
    ]
    assert lines[3].startswith(f"hotsplit: error: {file}: models[2].quantisations[0]: found 'Q4_KK', expected one of ")
    assert lines[4:] == [
        f"hotsplit: error: {file}: gpus[0].catalogue: found 'rtx-3060-12g', expected a name that `hotsplit catalogue` "
        "lists; did you mean 'rtx-3060-12gb'? (line 3)",
        f"hotsplit: error: {file}: kv_type: found 'q17', expected one of f16, bf16, f32, q8_0, q5_1, q5_0, q4_1, q4_0, "
        "iq4_nl of slots (line 4)",
        f"hotsplit: error: {file}: reserve.scratch: found the key 'scratch', expected one of total, cuda_context, "
        "activations (line 5)",
    ]


def test_neurons_and_experts_do_not_share_a_study(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("engine: [powerinfer, slots]\nmodels: gpt-oss-20b\ngpus: rtx-4090\n")
    assert refused(capsys, file).err == (
        f"hotsplit: error: {file}: engine[0]: found 'powerinfer', expected an engine that places experts: "
        f"{', '.join(engines_of_experts())} (line 1)\n"
    )
    neurons = "models: relu-llama-7b\ngpus: rtx-4090\nhosts: ddr5-5600-dual\n"
    file.write_text(neurons + "overrides: {more: {engine: slots}}\n")
    assert refused(capsys, file).err == (
        f"hotsplit: error: {file}: overrides.more.engine: found 'slots', expected one of powerinfer; engines that "
        "place experts have studies of their own, with `engine` at the top (line 4)\n"
    )
    file.write_text(neurons.replace("relu-llama-7b", "gpt-oss-20b"))
    assert refused(capsys, file).err == (
        f"hotsplit: error: {file}: models[0].catalogue: found 'gpt-oss-20b', expected a model without experts; for "
        "this mixture of experts add engine: ktransformers or exllamav3 or hot-cache or slots (line 1)\n"
    )


def test_counts_of_another_model_are_refused(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    counts_file(study.parent / "code.csv", {1: CODE[1], 3: CODE[2]})
    assert refused(capsys, study).err.startswith(
        f"hotsplit: error: workloads 'code' ({study.parent / 'code.csv'}) and 'prose' ({study.parent / 'prose.csv'}) "
        "are of different models"
    )
    study.write_text(STUDY.replace(', "prose=prose.csv:2"', ""))
    assert refused(capsys, study).err == (
        f"hotsplit: error: {study.parent / 'code.csv'}: has choices in layer 3; {MOE / 'hf/qwen3_moe'} has experts in "
        "layers 1 to 2; the counts are of another model\n"
    )
    study.write_text(STUDY.replace("[code.csv,", "[missing.csv,"))
    assert refused(capsys, study).err == (
        f"hotsplit: error: {study.parent / 'missing.csv'}: No such file or directory\n"
    )
    study.write_text(STUDY.replace('[code.csv, "prose=prose.csv:2"]', "prose.csv\n  tried_on: other=prose.csv"))
    assert refused(capsys, study).err == (
        "hotsplit: error: tried_on: workload 'other' has the same counts as 'prose' of statistics; give counts of "
        "other text\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "  file:",
            "  catalogue: gpt-oss-20b\n  file:",
            "models[0]: found a mapping (catalogue, file, name, statistics), expected one of file, catalogue, "
            "dimensions (line 4)",
        ),
        (
            "  statistics",
            "  quantisations: Q8_0\n  statistics",
            "models[0]: found a mapping (file, name, quantisations, statistics), expected a file without "
            "quantisations: it has its own (line 4)",
        ),
        (
            "  statistics:",
            "  tried_on:",
            "models[0]: found a mapping (file, name, tried_on), expected statistics beside tried_on, to choose the "
            "experts from (line 4)",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(
    capsys: pytest.CaptureFixture[str], study: Path, old: str, new: str, message: str
) -> None:
    study.write_text(STUDY.replace(old, new))
    assert refused(capsys, study).err == f"hotsplit: error: {study}: {message}\n"


def test_a_cache_that_the_dimensions_do_not_tell_has_to_be_stated(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "study.yaml"
    text = "engine: slots\nmodels: {catalogue: qwen3-next-80b-a3b%s}\nquantisations: Q4_K\ngpus: a100-80gb-pcie\n"
    file.write_text(text % "")
    assert refused(capsys, file).err == (
        "hotsplit: error: model 'qwen3-next-80b-a3b': the KV cache is unknown: 36 layers keep a state whose size the "
        "keys do not say; give it as kv_cache: SIZE\n"
    )
    file.write_text(text % ", kv_cache: 2GiB")
    assert answers_of(capsys, file)["cells"][0]["account"]["kv_cache_bytes"] == 2 << 30


def test_a_study_of_experts_is_no_plan(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    done = hotsplit(capsys, "plan", "--config", study, "--cell", 1)
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {study}: engine: found an engine that places experts, expected a study of neurons; "
        "`hotsplit whatif` answers studies of experts, and `hotsplit plan --engine ENGINE --model MODEL` plans one "
        "model\n"
    )
    assert refused(capsys, study, "--plot", study.parent / "p.png").err == (
        "hotsplit: error: --plot: draws studies of neurons; a study of experts has its pictures on the page of --html\n"
    )


# ---- forms ----------------------------------------------------------------------------------------------------------


def test_the_table_has_a_column_for_each_workload(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    done = hotsplit(capsys, "whatif", study)
    lines = done.out.splitlines()
    most = best_mean(12)
    name, worst = min((("code", share(CODE, most)), ("prose", share(PROSE, most))), key=lambda each: each[1])
    assert lines[:3] == [
        "Two layers of eight",
        "No GPU here holds every expert. Most: card budget 114.6 KiB. It holds 12 of 16 experts, which cover "
        f"{worst:.1%} of the choices of {name}; as many at random would cover {12 / 16:.1%}.",
        "For all: engine ktransformers, model small, quantisation as in file, context 16.",
    ]
    for heading in ("on the GPU", "experts", "code", "prose", "other text", "VRAM"):
        assert heading in lines[3]
    best = best_mean(5)
    row = rows_of(done.out)[1]
    assert row[2:7] == ["split", "5", "16", f"{share(CODE, best):.1%}", f"{share(PROSE, best):.1%}"]
    cell = hotsplit(capsys, "whatif", study, "--cell", 2).out
    for start in ("experts  ", "covered code ", "covered prose ", "other text ", "random ", "proof ", "basis: model "):
        assert any(line.startswith(start) for line in cell.splitlines()), start


def test_csv_has_the_workloads_and_the_replies_and_is_replaced(capsys: pytest.CaptureFixture[str], study: Path) -> None:
    study.write_text(
        STUDY.replace("[code.csv,", "['=code=code.csv',").replace("'=code=code.csv'", "{name: =x, files: code.csv}")
    )
    file, page = study.parent / "cells.csv", study.parent / "page.html"
    for _ in range(2):
        done = hotsplit(capsys, "whatif", study, "--csv", file, "--html", page, "--ask", "least-vram")
        assert done.exit_code == 0, done.err
    rows = list(csv.DictReader(io.StringIO(file.read_text())))
    assert len(rows) == 3 + 3
    assert "covered '=x" not in rows[0]
    best = best_mean(5)
    assert float(rows[1]["covered =x"]) == pytest.approx(share(CODE, best))
    assert float(rows[1]["covered prose"]) == pytest.approx(share(PROSE, best))
    assert [row["share"] for row in rows[3:]] == ["0.5", "0.8", "0.9"]


def test_the_page_shows_covered_over_vram_for_each_workload(study: Path) -> None:
    study.write_text(STUDY.replace("title: Two layers of eight", f"title: {json.dumps('T ' + HOSTILE)}")
                     .replace("name: small", f"name: {json.dumps(HOSTILE[:80])}"))  # fmt: skip
    loaded = expert_study(study, read_yaml(study))
    evaluator = ExpertEvaluator()
    answers = [evaluator.answer(cell) for cell in loaded.cells]
    code, prose = covered_series(answers)
    assert (code.name, prose.name) == ("code", "prose")
    budgets = [REST + CACHE + number * EXPERT for number in (1, 5, 12)]
    assert [point.x for point in code.points] == [n_bytes / (1 << 30) for n_bytes in budgets]
    assert [point.y for point in prose.points] == [
        pytest.approx(100 * share(PROSE, best_mean(number))) for number in (1, 5, 12)
    ]
    (fit,) = fitting_series(answers)
    assert [point.y for point in fit.points] == [100 * number / 16 for number in (1, 5, 12)]
    html = expert_page(loaded, answers, ask_experts(loaded, answers, ["least-vram"], evaluator))
    found = elements(html)
    assert [tag for tag, _ in found].count("script") == 1
    assert not [tag for tag, _ in found if tag in {"img", "iframe", "object", "embed", "link", "form", "base"}]
    assert not [key for _, attributes in found for key in attributes if key.startswith("on") or key == "style"]
    assert not [value for _, attributes in found for key, value in attributes.items() if key in {"src", "href"}]
    assert html.count("<polyline") == 2 * 3  # for small and for large screens
    assert "Covered share of choices over VRAM" in html


def test_the_schema_of_experts_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(capsys, "whatif", "--schema", "experts")
    schema = json.loads(done.out)
    assert schema["title"] == "Hotsplit what-if study of experts"
    assert schema["required"] == ["engine", "models", "gpus"]
    assert schema["additionalProperties"] is False
    assert "powerinfer" not in json.dumps(schema["properties"]["engine"])


def test_the_shipped_study_runs_without_a_gpu_and_without_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS / "which-gpu-for-experts.yaml"
    assert config.read_text("utf-8").startswith("# ")
    cells = answers_of(capsys, config, "--ask", "least-vram")["cells"]
    assert {cell["model"] for cell in cells} == {"qwen3-30b-a3b", "qwen3-235b-a22b", "gpt-oss-120b"}
    assert {cell["verdict"] for cell in cells} == {"meets", "misses"}
    assert {cell["state"] for cell in cells} == {"split", "all_on_gpu", "does_not_fit"}
    assert all(cell["covered"] is None and cell["experts"] > 0 for cell in cells if cell["state"] != "does_not_fit")
