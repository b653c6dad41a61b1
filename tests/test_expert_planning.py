"""`hotsplit plan` for engines that place experts: every answer against brute force or arithmetic of the tests' own."""

from __future__ import annotations

import csv
import itertools
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from planner.engines.experts.ktransformers import layers_it_counts
from planner.plans.file import read_plan
from tests.commands import Done, hotsplit

DATA = Path(__file__).parent / "data"
MOE = DATA / "moe"
MIB = 1 << 20

# Layers 1 and 2 of eight experts each; no two choices of the same number cover equally much.
CODE = {1: [700, 20, 5, 90, 40, 3, 11, 131], 2: [1, 2, 400, 8, 16, 33, 65, 475]}
PROSE = {1: [10, 300, 100, 20, 400, 150, 13, 7], 2: [310, 202, 10, 98, 16, 133, 165, 66]}


def counts_file(path: Path, counts: dict[int, list[int]]) -> Path:
    lines = [f"{layer},{expert},{count}" for layer, row in counts.items() for expert, count in enumerate(row)]
    path.write_text("layer,expert,count\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


def share(counts: dict[int, list[int]], chosen: set[tuple[int, int]]) -> float:
    return sum(counts[layer][expert] for layer, expert in chosen) / sum(map(sum, counts.values()))


def folder(path: Path, config: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> Path:
    """Writes a model folder of 16-bit tensors whose data is a hole in the file."""
    path.mkdir()
    header, offset = {}, 0
    for name, shape in tensors.items():
        n_bytes = 2
        for length in shape:
            n_bytes *= length
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    text = json.dumps(header).encode()
    with (path / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
    (path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return path


def exl3_folder(path: Path, sizes: dict[int, list[int]]) -> Path:
    """Writes a folder in exllamav3's quantisation; `sizes` are 16-bit numbers of each expert by layer."""
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (10, 8), "lm_head.weight": (10, 8)}
    for layer, row in sizes.items():
        for expert, numbers in enumerate(row):
            tensors[f"model.layers.{layer}.mlp.experts.{expert}.up_proj.trellis"] = (numbers,)
    config = {
        "model_type": "hidden_moe",
        "num_hidden_layers": max(sizes) + 1,
        "num_experts": len(sizes[max(sizes)]),
        "num_experts_per_tok": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_size": 8,
        "quantization_config": {"quant_method": "exl3"},
    }
    return folder(path, config, tensors)


def plan_json(capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, Any]:
    done = hotsplit(capsys, "plan", *options, "--json")
    assert done.exit_code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


def chosen_in(plan: dict[str, Any]) -> set[tuple[int, int]]:
    return {
        (int(group["label"]), expert)
        for group in plan["units"]["groups"]
        for ids in group["ids"].values()
        for expert in ids
    }


def failure(capsys: pytest.CaptureFixture[str], *options: object) -> Done:
    done = hotsplit(capsys, "plan", *options)
    assert done.out == ""
    return done


# ---- which experts --------------------------------------------------------------------------------------------------


def test_one_workload_gets_the_best_of_all_choices(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    # Rest 40,576 (its parts as in the file), KV cache 3 layers x 32 numbers x 2 bytes x 16 tokens, and five experts.
    rest, cache, expert = 40_576, 3 * 32 * 2 * 16, 6144
    plan_file = tmp_path / "plan.json"
    found = plan_json(
        capsys, "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--context", 16,
        "--vram-budget", f"{rest + cache + 5 * expert + 100}B", "--reserve", "0B", "--output", plan_file,
    )  # fmt: skip
    places = [(layer, number) for layer in (1, 2) for number in range(8)]
    best = max(itertools.combinations(places, 5), key=lambda each: share(CODE, set(each)))
    assert chosen_in(found) == set(best)
    assert found["hit_rate"] == pytest.approx(share(CODE, set(best)))
    assert found["vram_required_bytes"] == 5 * expert
    assert found["budget"]["units_bytes"] == 5 * expert + 100
    assert found["budget"]["charges"] == {"dense_bytes": rest, "kv_cache_bytes": cache, "reserve_bytes": 0}
    assert found["solver"]["relative_gap"] == 0
    assert found["engine"]["settings"]["total_experts"] == "5"
    # 5 of 16: three of layer 1 and two of layer 2 by KTransformers' default.
    default = {(1, 0), (1, 1), (1, 2), (2, 0), (2, 1)}
    assert found["verdict"]["engine_default"]["code"] == pytest.approx(share(CODE, default))
    assert found["verdict"]["random"] == 5 / 16
    assert found["verdict"]["worst_unseen"] is None
    written = read_plan(plan_file)
    assert written.labels == ("1", "2")
    assert written.units.kind == "experts"
    assert [group.unit_bytes for group in written.groups] == [expert, expert]


def test_a_robust_plan_has_the_best_worst_workload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, prose = counts_file(tmp_path / "code.csv", CODE), counts_file(tmp_path / "prose.csv", PROSE)
    budget = 40_576 + 3 * 32 * 2 * 16 + 5 * 6144
    options = (
        "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--statistics", prose,
        "--context", 16, "--vram-budget", f"{budget}B", "--reserve", "0B",
    )  # fmt: skip
    places = [(layer, number) for layer in (1, 2) for number in range(8)]
    subsets = [set(each) for each in itertools.combinations(places, 5)]
    worst = max(min(share(CODE, each), share(PROSE, each)) for each in subsets)
    mean = max((share(CODE, each) + share(PROSE, each)) / 2 for each in subsets)
    alone = {name: max(share(counts, each) for each in subsets) for name, counts in (("c", CODE), ("p", PROSE))}
    regret = min(max(alone["c"] - share(CODE, each), alone["p"] - share(PROSE, each)) for each in subsets)

    found = plan_json(capsys, *options, "--robust", "worst")
    assert min(found["verdict"]["chosen_from"].values()) == pytest.approx(worst)
    assert found["proof"]["bound"] == pytest.approx(worst)
    assert sum(found["proof"]["most_covered_instead"].values()) / 2 == pytest.approx(mean)
    found = plan_json(capsys, *options, "--robust", "regret")
    assert -found["proof"]["objective"] == pytest.approx(regret)
    assert found["solver"]["objective"] == pytest.approx(1 - regret)
    found = plan_json(capsys, *options)
    assert found["hit_rate"] == pytest.approx(mean)
    # Chosen from the other workload alone: what the plan's way of choosing gives on text that it does not know.
    best_for_prose = max(subsets, key=lambda each: share(PROSE, each))
    assert found["verdict"]["left_out"]["code"] == pytest.approx(share(CODE, best_for_prose))


def test_weights_decide_whose_choices_matter(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, prose = counts_file(tmp_path / "code.csv", CODE), counts_file(tmp_path / "prose.csv", PROSE)
    budget = 40_576 + 3 * 32 * 2 * 16 + 3 * 6144
    found = plan_json(
        capsys, "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", f"c={code}:1",
        "--statistics", f"p={prose}:4", "--context", 16, "--vram-budget", f"{budget}B", "--reserve", "0B",
    )  # fmt: skip
    places = [(layer, number) for layer in (1, 2) for number in range(8)]
    best = max(map(set, itertools.combinations(places, 3)), key=lambda each: share(CODE, each) + 4 * share(PROSE, each))
    assert chosen_in(found) == best
    assert [each["weight"] for each in found["statistics"]] == [1, 4]


def test_exllamav3_gets_equally_many_of_every_layer_and_its_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Experts of different sizes within a layer: the most chosen of each are taken, as long as all of them fit.
    sizes = {1: [100] * 8, 2: [150, 100, 100, 100, 100, 100, 100, 300]}
    model = exl3_folder(tmp_path / "model", sizes)
    code = counts_file(tmp_path / "code.csv", CODE)
    order = {layer: sorted(range(8), key=lambda expert: -row[expert]) for layer, row in CODE.items()}
    needed = [2 * sum(sizes[layer][expert] for layer in sizes for expert in order[layer][:n]) for n in range(9)]
    head, cache = 160, 3 * 64 * 2 * 256
    found = plan_json(
        capsys, "--engine", "exllamav3", "--model", model, "--statistics", code, "--context", 256,
        "--vram-budget", f"{head + cache + needed[4] - 1}B", "--reserve", "0B",
    )  # fmt: skip
    assert [group["placed"] for group in found["units"]["groups"]] == [3, 3]
    assert chosen_in(found) == {(layer, expert) for layer, row in order.items() for expert in row[:3]}
    assert found["vram_required_bytes"] == needed[3]
    assert found["engine"]["settings"]["module.2"] == "model.layers.2.mlp"
    assert found["units"]["groups"][0]["unit_bytes"] == 200
    assert "unit_bytes" not in found["units"]["groups"][1]
    assert any("experts of 1 layers differ in bytes" in note for note in found["notes"])
    # The embeddings stay in host memory.
    bill = {line["label"]: line["bytes"] for line in found["account"]["bill"]}
    assert (bill["embeddings"], bill["output head"]) == (0, 160)


def test_the_hot_cache_keeps_room_for_a_zero_expert_of_each_layer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {1: [5, 1, 40, 2, 9, 7], 2: [3, 30, 2, 8, 1, 20]}
    hot = counts_file(tmp_path / "hot.csv", counts)
    model, expert = MOE / "gguf/tiny-moe-fused.gguf", 6144
    # The output head stays, the embeddings do not; 48 numbers of K in each of three layers.
    rest, cache = 75_056, 3 * 48 * 2 * 256
    found = plan_json(
        capsys, "--engine", "hot-cache", "--model", model, "--statistics", hot, "--context", 256,
        "--vram-budget", f"{rest + cache + 5 * expert}B", "--reserve", "0B",
    )  # fmt: skip
    assert chosen_in(found) == {(1, 2), (2, 1), (2, 5)}
    assert found["budget"]["charges"]["reserve_bytes"] == 2 * expert
    assert found["budget"]["units_bytes"] == 3 * expert
    assert found["engine"]["settings"]["used_bytes.gpu"] == str(5 * expert)


def test_lanes_are_filled_each_within_its_own_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {1: [5, 1, 40, 2, 9, 7], 2: [3, 30, 2, 8, 1, 20]}
    hot = counts_file(tmp_path / "hot.csv", counts)
    rest, cache, expert = 75_056, 3 * 48 * 2 * 256, 6144
    plan_file = tmp_path / "plan.json"
    found = plan_json(
        capsys, "--engine", "hot-cache", "--model", MOE / "gguf/tiny-moe-fused.gguf", "--statistics", hot,
        "--context", 256, "--vram-budget", f"{rest + cache + 2 * expert}B", "--reserve", "0B",
        "--lane", f"CUDA1={612 * MIB + 4 * expert}B", "--output", plan_file,
    )  # fmt: skip
    lanes: dict[str, list[int]] = {"CUDA0": [], "CUDA1": []}
    for group in found["units"]["groups"]:
        assert list(group["ids"]) == ["CUDA0", "CUDA1"]
        for device, ids in group["ids"].items():
            lanes[device].append(len(ids))
    used = {device: sum(numbers) + sum(map(bool, numbers)) for device, numbers in lanes.items()}
    assert used["CUDA0"] <= 2
    assert used["CUDA1"] <= 4
    assert {key: int(value) for key, value in found["engine"]["settings"].items() if key.startswith("used")} == {
        f"used_bytes.{device}": number * expert for device, number in used.items()
    }
    assert read_plan(plan_file).contradictions() == []


# ---- the bill -------------------------------------------------------------------------------------------------------


def test_the_bill_names_the_engines_own_needs_with_their_basis(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    options = ("--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--context", 16)
    found = plan_json(capsys, *options, "--vram-budget", "2GiB")
    needs = {item["key"]: (item["bytes"], item["basis"]) for item in found["account"]["reserve"]}
    assert needs["cuda_context"][0] == 612 * MIB
    assert needs["activations"] == (1024 * MIB, "stated default, not measured; --reserve activations=SIZE")
    # One more layer of eight experts while a prompt is processed.
    assert needs["prefill_layer"][0] == 8 * 6144
    found = plan_json(capsys, *options, "--vram-budget", "2GiB", "--reserve", "prefill_layer=0B")
    assert [item["bytes"] for item in found["account"]["reserve"]] == [612 * MIB, 1024 * MIB, 0]
    found = plan_json(capsys, *options, "--vram-budget", "2GiB", "--reserve", "1GiB")
    assert [item["bytes"] for item in found["account"]["reserve"]] == [1024 * MIB]


def test_two_gpus_that_share_every_layer_hold_half_of_every_expert(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    found = plan_json(
        capsys, "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--context", 16,
        "--vram-budget", "2GiB", "--tp", 2,
    )  # fmt: skip
    assert [group["unit_bytes"] for group in found["units"]["groups"]] == [3072, 3072]
    assert found["engine"]["settings"]["tp"] == "2"


def test_an_unknown_cache_must_be_stated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    model = MOE / "hf/deepseek_v3_fp8"
    options = ("--engine", "ktransformers", "--model", model, "--statistics", code, "--vram-budget", "2GiB")
    done = failure(capsys, *options)
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {model}: the KV cache is unknown: the keys num_attention_heads and num_key_value_heads are "
        "missing; state what the engine takes for 4096 tokens with --kv-cache SIZE\n"
    )
    found = plan_json(capsys, *options, "--kv-cache", "10MiB")
    line = next(line for line in found["account"]["bill"] if line["label"] == "KV cache")
    assert (line["bytes"], line["basis"]) == (10 * MIB, "stated with --kv-cache")
    assert [each["most_context"] for each in found["least_vram"]] == [None] * 3


def test_what_does_not_fit_is_a_no_with_the_missing_bytes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    model = MOE / "hf/qwen3_moe"
    done = failure(
        capsys, "--engine", "ktransformers", "--model", model, "--statistics", code, "--context", 16,
        "--vram-budget", "40000B", "--reserve", "0B",
    )  # fmt: skip
    assert done.exit_code == 1
    assert done.err == (
        f"hotsplit: error: {model}: what is no expert takes 40576 bytes, the KV cache 3072, the engine itself 0; the "
        "budget is 40000: 3648 bytes (3.6 KiB) are missing; give a larger budget, or less --context than 16\n"
    )


def test_the_least_vram_covers_the_share_and_one_expert_less_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    options = (
        "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--context", 16,
        "--reserve", "0B",
    )  # fmt: skip
    found = plan_json(capsys, *options, "--vram-budget", "1MiB")
    ordered = sorted((count for row in CODE.values() for count in row), reverse=True)
    for each in found["least_vram"]:
        number = next(n for n in range(17) if sum(ordered[:n]) >= each["share"] * sum(ordered))
        assert each["experts_bytes"] == number * 6144
        assert each["vram_bytes"] == 40_576 + 3072 + number * 6144
        # 192 bytes of cache per token.
        assert each["most_context"] == (MIB - 40_576 - number * 6144) // 192
        again = plan_json(capsys, *options, "--vram-budget", f"{each['vram_bytes']}B")
        assert again["hit_rate"] >= each["share"]
        less = plan_json(capsys, *options, "--vram-budget", f"{each['vram_bytes'] - 1}B")
        assert less["hit_rate"] < each["share"]


# ---- the verdict ----------------------------------------------------------------------------------------------------


def olmoe(kind: str) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    with (DATA / "expert-counts" / "olmoe-1b-7b.csv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found.setdefault(int(row["layer"]), []).append(int(row[kind]))
    return found


def test_real_counts_say_what_other_text_loses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = exl3_folder(tmp_path / "olmoe", {layer: [50] * 64 for layer in range(3)})
    arxiv, book = counts_file(tmp_path / "arxiv.csv", olmoe("arxiv")), counts_file(tmp_path / "book.csv", olmoe("book"))
    cache = 3 * 64 * 2 * 256
    options = (
        "--engine", "exllamav3", "--model", model, "--statistics", arxiv, "--tried-on", book, "--context", 256,
        "--vram-budget", f"{160 + cache + 3 * 16 * 100}B", "--reserve", "0B",
    )  # fmt: skip
    found = plan_json(capsys, *options)
    hottest = {
        (layer, expert)
        for layer, row in olmoe("arxiv").items()
        for expert in sorted(range(64), key=lambda each: (-row[each], each))[:16]
    }
    assert chosen_in(found) == hottest
    seen, unseen = share(olmoe("arxiv"), hottest), share(olmoe("book"), hottest)
    assert unseen < 0.25 < seen
    assert found["verdict"]["chosen_from"] == {"arxiv": pytest.approx(seen)}
    assert found["verdict"]["tried_on"] == {"book": pytest.approx(unseen)}
    assert found["verdict"]["worst_unseen"]["covered"] == pytest.approx(unseen)
    assert found["verdict"]["later_half"] == {"arxiv": None}

    done = hotsplit(capsys, "plan", *options, "--require", "covered=0.5")
    assert done.exit_code == 1
    assert done.err.splitlines()[-1] == (
        f"hotsplit: error: --require covered=0.5: the plan covers {unseen:.4f} of the choices of 'book', the worst "
        "workload it was not chosen from"
    )
    assert "(not chosen from)" in done.out
    kept = [option for option in options if option not in ("--tried-on", book)]
    assert hotsplit(capsys, "plan", *kept, "--require", "covered=0.5").exit_code == 0
    done = hotsplit(capsys, "plan", *kept, "--require", "covered=0.9")
    assert done.exit_code == 1
    assert "'arxiv', the worst workload it was chosen from" in done.err


def test_a_recording_in_order_is_tried_on_its_later_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # In each layer, expert 0 is chosen in the first half of the lines and expert 1 in the second.
    trace = tmp_path / "trace.csv"
    first = ["1,0"] * 4 + ["2,0"] * 4 + ["1,7", "2,7"]
    second = ["1,1"] * 4 + ["2,1"] * 4 + ["1,7", "2,7"]
    trace.write_text("layer,expert\n" + "\n".join(first + second) + "\n", encoding="utf-8")
    budget = 40_576 + 3 * 32 * 2 * 16 + 4 * 6144
    found = plan_json(
        capsys, "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", trace, "--context", 16,
        "--vram-budget", f"{budget}B", "--reserve", "0B",
    )  # fmt: skip
    assert found["verdict"]["chosen_from"] == {"trace": pytest.approx(0.8)}
    # Experts 0 and 7 of both layers from the first half: 2 of 10 choices of the second.
    half = found["verdict"]["later_half"]["trace"]
    assert (half["covered"], half["in_order"]) == (pytest.approx(0.2), True)
    assert found["verdict"]["worst_unseen"]["covered"] == pytest.approx(0.2)


# ---- bad input ------------------------------------------------------------------------------------------------------


def test_a_new_user_with_a_qwen3_moe_gguf_is_told_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {layer: [100, 50, 20, 10, 9, 8, 2, 1] for layer in range(3)}
    model, path = MOE / "gguf/tiny-moe.gguf", counts_file(tmp_path / "mine.csv", counts)
    # llama.cpp: everything but the embeddings, 256 tokens x 3 layers x 64 numbers, and two layers of experts of three.
    budget = 127_360 + 256 * 3 * 64 * 2 + 612 * MIB + 512 * MIB + 2 * 8 * 12_288
    done = failure(
        capsys, "--engine", "hot-cache", "--model", model, "--statistics", path, "--context", 256,
        "--vram-budget", f"{budget}B",
    )  # fmt: skip
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {model}: the hot cache (adrianhoehne/llama.cpp) does not know the architecture 'qwen3moe' "
        "(it knows deepseek2, gemma4, glm4moe, gpt-oss, mellum, qwen35moe, qwen3next); this model as it is: --engine "
        "slots, read in a pull request only; in another form: --engine ktransformers with a Hugging Face folder, "
        "--engine exllamav3 with a folder quantised for exllamav3; llama.cpp itself runs it with -ngl 99 -ncmoe 1, "
        "which fits 1.10 GiB with 256 tokens of context; the counts of 'mine' are worth: the hottest 20% cover 58.3%, "
        "random ones 16.7% (hotsplit statistics says more)\n"
    )


def test_an_engine_of_neurons_says_which_engines_place_experts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    counts = {layer: [100, 50, 20, 10, 9, 8, 2, 1] for layer in range(3)}
    path = counts_file(tmp_path / "mine.csv", counts)
    model = MOE / "gguf/tiny-moe.gguf"
    done = failure(capsys, "--model", model, "--statistics", path, "--vram-budget", "16GiB")
    assert done.exit_code == 2
    assert done.err == (
        f"hotsplit: error: {model}: --engine powerinfer places neurons and does not split this mixture of "
        "experts; this model as it is: --engine slots, read in a pull request only; in another form: --engine "
        "ktransformers with a Hugging Face folder, --engine exllamav3 with a folder quantised for exllamav3; "
        "not: --engine hot-cache, which does not know the architecture 'qwen3moe'; llama.cpp itself runs it with "
        "-ngl 99 -ncmoe 0, which fits 16.00 GiB with 4096 tokens of context; the counts of 'mine' are worth: the "
        "hottest 20% cover 58.3%, random ones 16.7% (hotsplit statistics says more)\n"
    )
    code = counts_file(tmp_path / "code.csv", CODE)
    done = failure(capsys, "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--vram-budget", "16GiB")
    assert "this model as it is: --engine ktransformers; in another form: --engine exllamav3" in done.err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("code", "--tried-on: workload 'code' is also one of --statistics; name it otherwise"),
        (
            "other",
            "--tried-on: workload 'other' has the same counts as 'code' of --statistics; give counts of other text",
        ),
    ],
)
def test_a_plan_is_not_tried_on_what_it_was_chosen_from(
    name: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    done = failure(
        capsys, "--engine", "ktransformers", "--model", MOE / "hf/qwen3_moe", "--statistics", code,
        "--tried-on", f"{name}={code}", "--vram-budget", "2GiB",
    )  # fmt: skip
    assert (done.exit_code, done.err) == (2, f"hotsplit: error: {message}\n")


def test_a_gguf_for_ktransformers_is_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = counts_file(tmp_path / "mine.csv", {layer: [1, 2, 3, 4, 5, 6, 7, 8] for layer in range(3)})
    done = failure(
        capsys, "--engine", "ktransformers", "--model", MOE / "gguf/tiny-moe.gguf", "--statistics", path,
        "--vram-budget", "2GiB",
    )  # fmt: skip
    assert done.exit_code == 2
    assert (
        "KTransformers loads the GPU's experts from the Hugging Face folder (--model-path), and the GGUF is at most "
        "its CPU part (--kt-weight-path): bytes from here would be two to four times too low; name the folder"
    ) in done.err


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({0: [1] * 8, 1: [1] * 8}, "has choices in layer 0; {model} has experts in layers 1 to 2"),
        ({1: [1] * 8}, "has no choices in layer 2; {model} has experts in layers 1 to 2"),
        ({1: [1] * 9, 2: [1] * 9}, "has counts of 9 experts per layer; {model} has 8"),
    ],
)
def test_counts_of_another_model_are_refused(
    counts: dict[int, list[int]], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, path = MOE / "hf/qwen3_moe", counts_file(tmp_path / "other.csv", counts)
    done = failure(capsys, "--engine", "ktransformers", "--model", model, "--statistics", path, "--vram-budget", "2GiB")
    assert done.exit_code == 2
    assert done.err.startswith(f"hotsplit: error: {path}: {words.format(model=model)}; the counts are of another model")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "exllamav3", "--lane", "CUDA1=1GiB"), "--lane: exllamav3 does not fill several GPUs"),
        (("--engine", "ktransformers", "--robust", "worst"), "--robust: needs several workloads, and one is named"),
        (("--engine", "ktransformers", "--threshold", "3"), "--threshold: is for engines that place neurons"),
        (("--engine", "ktransformers", "--require", "0.5"), "--require: found '0.5', expected covered=SHARE"),
        (("--engine", "ktransformers", "--kv-type", "q8_0"), "--kv-type: found 'q8_0', expected one of bf16, f16"),
        (("--engine", "powerinfer", "--tp", "2"), "--tp: is for engines that place experts"),
        (("--engine", "ktransformers", "--tp", "0"), "tensor parallelism over 0 GPUs"),
    ],
)
def test_options_that_an_engine_does_not_have_are_refused(
    options: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    done = failure(capsys, "--model", MOE / "hf/qwen3_moe", "--statistics", code, "--vram-budget", "2GiB", *options)
    assert done.exit_code == 2
    assert message in done.err


def test_tensor_parallelism_is_refused_where_the_engine_divides_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = exl3_folder(tmp_path / "model", {1: [100] * 8, 2: [100] * 8})
    code = counts_file(tmp_path / "code.csv", CODE)
    done = failure(
        capsys, "--engine", "exllamav3", "--model", model, "--statistics", code, "--vram-budget", "2GiB", "--tp", 2
    )
    assert done.exit_code == 2
    assert done.err == (
        "hotsplit: error: --tp: exllamav3 does not divide every layer evenly among GPUs, so 2 cannot be planned; plan "
        "for one GPU, or use --engine ktransformers\n"
    )


def test_a_plan_of_one_workload_needs_neither_torch_nor_a_solver(tmp_path: Path) -> None:
    code = counts_file(tmp_path / "code.csv", CODE)
    options = ["--engine", "ktransformers", "--model", str(MOE / "hf/qwen3_moe"), "--vram-budget", "2GiB"]
    script = (
        "import sys\nfrom planner.__main__ import main\n"
        f"assert main({['plan', *options, '--statistics', str(code)]!r}) == 0\n"
        "assert not {'torch', 'pulp', 'scipy', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr.count("Traceback")) == (0, 0), done.stderr


@pytest.mark.parametrize(
    ("config", "counted"),
    [
        # What the package's own function answers for 8 layers: findings/sglang-kt-counts-dense-layers.sh.
        ({}, 8),
        ({"first_k_dense_replace": 3}, 5),
        ({"moe_layer_freq": [0, 1, 1, 0, 1, 1, 0, 1]}, 7),
        ({"mlp_only_layers": [0, 1, 2]}, 8),
        ({"moe_layer_freq": 2}, 4),
        ({"first_k_dense_replace": 3, "num_hash_layers": 3}, 8),
    ],
)
def test_ktransformers_counts_layers_with_experts_in_its_own_way(config: dict[str, Any], counted: int) -> None:
    assert layers_it_counts(config, 8) == counted
