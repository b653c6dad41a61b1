import random
from typing import Any

import pytest

from planner.base.errors import InputError
from planner.catalogue.entries import Catalogue
from planner.report.page import page
from planner.report.whatif import target_counts, verdict_words
from planner.studies.answer import Answer, CellPath
from planner.studies.questions import Reply, ask
from planner.studies.study import study_of
from planner.studies.sweep import sweep

GIB, MIB = 1 << 30, 1 << 20


BASE: dict[str, Any] = {
    "models": "relu-llama-13b",
    "quantisations": "Q4_0",
    "hosts": "ddr5-5600-dual",
    "contexts": 1024,
}


def replies(catalogue: Catalogue, question: str, **changes: Any) -> tuple[Reply, ...]:
    study = study_of({**BASE, **changes}, catalogue)
    return ask(study, sweep(study.cells, catalogue), [question])


def answer_at(catalogue: Catalogue, free_bytes: int, **changes: Any) -> Answer:
    gpu = {"catalogue": "rtx-4090", "free": f"{free_bytes}B"}
    return sweep(study_of({**BASE, **changes, "gpus": gpu}, catalogue).cells, catalogue)[0]


@pytest.mark.parametrize("targets", [{"hit_rate": 0.8}, {"tokens_per_second": 45}, {"hit_rate": 1.0}])
def test_the_least_vram_meets_the_targets_and_a_step_less_does_not(
    catalogue: Catalogue, targets: dict[str, float]
) -> None:
    (reply,) = replies(catalogue, "least-vram", gpus="rtx-4090", targets=targets)
    assert isinstance(reply.found, int)
    assert answer_at(catalogue, reply.found, targets=targets).verdict == "meets"
    assert answer_at(catalogue, reply.found - 16 * MIB, targets=targets).verdict == "misses"
    assert reply.text.endswith(" of free memory")


def random_study(seed: int) -> dict[str, Any]:
    """Returns a study of a small model whose KV cache takes from some KiB to some hundred MiB."""
    rng = random.Random(seed)
    n_layer = rng.choice([2, 4, 8, 16])
    dimensions = {
        "architecture": "llama",
        "n_layer": n_layer,
        "n_embd": rng.choice([256, 512, 1024]),
        "n_ff": [rng.choice([1024, 2048, 4096, 8192]) for _ in range(n_layer)],
        "n_head": 8,
        "n_vocab": rng.choice([1000, 32000]),
        "predictor_rank": 64,
    }
    curve = {"hot_share": rng.choice([0.1, 0.25, 0.4]), "activation_share": 0.8}
    targets: dict[str, Any] = {}
    if rng.random() < 0.6:
        targets["hit_rate"] = round(rng.uniform(0.05, 1), 3)
    if not targets or rng.random() < 0.5:
        targets["tokens_per_second"] = round(rng.uniform(5, 2000), 1)
    if rng.random() < 0.3:
        targets["vram"] = f"{rng.randint(600, 3000)}MiB"
    return {
        "models": [{"name": "m", "statistics": {"hotness": curve}, "dimensions": dimensions}],
        "gpus": {"name": "g", "vram": "4GiB", "bandwidth": rng.choice([100, 500, 1000])},
        "hosts": {"bandwidth": rng.choice([20, 50, 80])},
        "contexts": rng.choice([1, 64, 256, 512, 2048, 4096]),
        "quantisations": rng.choice(["F16", "Q4_0"]),
        "targets": targets,
    }


@pytest.mark.parametrize("seed", range(36))
def test_no_smaller_multiple_of_16_mib_meets_the_targets(catalogue: Catalogue, seed: int) -> None:
    study = random_study(seed)
    (reply,) = replies(catalogue, "least-vram", **study)
    last_bytes = 1600 * MIB if reply.found is None else reply.found
    assert isinstance(last_bytes, int)
    sizes = [f"{size_bytes}B" for size_bytes in range(16 * MIB, last_bytes + 1, 16 * MIB)]
    gpu = {"name": "g", "vram": sizes, "bandwidth": study["gpus"]["bandwidth"]}
    answers = sweep(study_of({**BASE, **study, "gpus": gpu}, catalogue).cells, catalogue, processes=1)
    meeting = [answer.vram_bytes for answer in answers if answer.verdict == "meets"]
    assert meeting == ([] if reply.found is None else [reply.found])


def test_a_limit_may_be_met_by_the_whole_model_only(catalogue: Catalogue) -> None:
    # The whole model takes less beside it than nearly all of it: no buckets, no spare rows, smaller work buffers.
    study = random_study(0)
    gpu = {"name": "g", "vram": {"from": "16MiB", "to": "2GiB", "step": "16MiB"}, "bandwidth": 500}
    changes: dict[str, Any] = {**study, "gpus": gpu, "targets": {"hit_rate": 0.97}}
    answers = sweep(study_of({**BASE, **changes}, catalogue).cells, catalogue, processes=1)
    first = next(answer for answer in answers if answer.verdict == "meets")
    whole = next(answer for answer in answers if answer.path is CellPath.ALL_ON_GPU)
    assert first.path is CellPath.SPLIT
    assert whole.bytes.vram < first.bytes.vram
    changes["targets"] = {"hit_rate": 0.97, "vram": f"{whole.bytes.vram}B"}
    (reply,) = replies(catalogue, "least-vram", **{**changes, "gpus": {**gpu, "vram": "4GiB"}})
    assert reply.found == whole.vram_bytes


def test_one_rule_says_what_meets_the_targets(catalogue: Catalogue) -> None:
    # The dense part of 13B is 3.6 GiB: on 4 GiB the engine runs, at a speed, but gives neurons nothing; plan says no.
    gpus = {"catalogue": "rtx-4060", "vram": "4GiB", "context": "100MiB"}
    changes: dict[str, Any] = {"gpus": gpus, "quantisations": "F16", "targets": {"tokens_per_second": 1}}
    (answer,) = sweep(study_of({**BASE, **changes}, catalogue).cells, catalogue)
    assert answer.path is CellPath.DENSE_INCOMPLETE
    assert answer.targets[0].met
    assert (answer.verdict, verdict_words(answer).split(", ")[0]) == ("misses", "misses dense part")
    (reply,) = replies(catalogue, "cheapest", **changes)
    assert (reply.found, reply.text) == (None, "none of 1 meets the targets")
    assert list(target_counts([answer])) == ["0 of 1 cells meet the targets: tokens_per_second at least 1"]
    # What one more GiB brings is not known where it would not go to neurons alone.
    assert answer.next_gib is None
    assert answer.to_dict()["next_gib"] is None


def test_replies_name_the_scenario_and_each_is_counted_by_its_own_targets(catalogue: Catalogue) -> None:
    overrides = {"strict": {"targets": {"hit_rate": 1.0}}, "free": {"targets": {}}}
    gpus = [{"catalogue": "rtx-4090", "vram": ["8GiB", "24GiB"]}]
    study = study_of({**BASE, "gpus": gpus, "targets": {"hit_rate": 0.5}, "overrides": overrides}, catalogue)
    answers = sweep(study.cells, catalogue)
    lines = [
        "base: 2 of 2 cells meet the targets: hit_rate at least 0.5",
        "strict: 1 of 2 cells meet the targets: hit_rate at least 1",
    ]
    assert list(target_counts(answers)) == lines
    shown = page(study, answers, ())
    assert all(line in shown for line in lines)
    del overrides["free"]
    study = study_of({**BASE, "gpus": gpus, "targets": {"hit_rate": 0.5}, "overrides": overrides}, catalogue)
    found = ask(study, sweep(study.cells, catalogue), ["least-vram", "largest-context", "cheapest"])
    what = "relu-llama-13b, Q4_0"
    assert [(reply.scenario, reply.about) for reply in found] == [
        *((name, f"{name}: {what}, a GPU of 1008 GB/s, ddr5-5600-dual, context 1024") for name in ("base", "strict")),
        *(
            (name, f"{name}: {what}, rtx-4090 {size} GiB, ddr5-5600-dual")
            for name in ("base", "strict")
            for size in (8, 24)
        ),
        *((name, f"{name}: {what}, ddr5-5600-dual, context 1024") for name in ("base", "strict")),
    ]
    assert found[0].to_dict()["scenario"] == "base"


def test_replies_name_the_solver_where_there_are_several(catalogue: Catalogue) -> None:
    solvers = ["highs", {"granularity": 512}]
    found = replies(catalogue, "cheapest", gpus="rtx-4090", targets={"hit_rate": 0.5}, solvers=solvers)
    assert [reply.about for reply in found] == [
        "relu-llama-13b, Q4_0, ddr5-5600-dual, context 1024, highs",
        "relu-llama-13b, Q4_0, ddr5-5600-dual, context 1024, highs, groups of 512",
    ]


def test_the_least_vram_is_asked_once_for_each_bandwidth(catalogue: Catalogue) -> None:
    gpus = [{"catalogue": "rtx-4090", "vram": ["8GiB", "16GiB"]}, "t4"]
    found = replies(catalogue, "least-vram", gpus=gpus, targets={"hit_rate": 0.5})
    assert [reply.about for reply in found] == [
        "relu-llama-13b, Q4_0, a GPU of 1008 GB/s, ddr5-5600-dual, context 1024",
        "relu-llama-13b, Q4_0, a GPU of 320 GB/s, ddr5-5600-dual, context 1024",
    ]


def test_targets_out_of_reach_are_said_to_be(catalogue: Catalogue) -> None:
    targets = {"tokens_per_second": 1e6}
    for question, text in [
        ("least-vram", "no amount meets the targets"),
        ("largest-context", "no context meets the targets with its KV cache on the GPU"),
        ("cheapest", "none of 1 meets the targets"),
    ]:
        (reply,) = replies(catalogue, question, gpus="t4", targets=targets)
        assert (reply.found, reply.text, reply.answer) == (None, text, None)


def test_a_limit_on_vram_counts(catalogue: Catalogue) -> None:
    (reply,) = replies(catalogue, "least-vram", gpus="t4", targets={"hit_rate": 0.9, "vram": "4GiB"})
    assert reply.found is None
    (reply,) = replies(catalogue, "least-vram", gpus="t4", targets={"hit_rate": 0.9, "vram": "10GiB"})
    assert isinstance(reply.found, int)


def test_what_runs_out_of_vram_meets_no_target(catalogue: Catalogue) -> None:
    # The dense part fits, but not what the engine takes beside it: attention scores of 64 heads and 8192 tokens.
    changes: dict[str, Any] = {"models": "relu-llama-70b", "contexts": 8192, "targets": {"tokens_per_second": 1}}
    short = answer_at(catalogue, 10 * GIB + 290 * MIB, **changes)
    assert short.targets[0].met
    assert short.short_bytes > GIB
    assert (short.verdict, verdict_words(short)) == ("misses", "misses free VRAM")
    (reply,) = replies(catalogue, "least-vram", gpus="rtx-4090", **changes)
    assert isinstance(reply.found, int)
    assert answer_at(catalogue, reply.found, **changes).short_bytes == 0
    assert answer_at(catalogue, reply.found - 16 * MIB, **changes).short_bytes > 0


def test_the_largest_context_meets_the_targets_and_one_more_token_does_not(catalogue: Catalogue) -> None:
    gpu, targets = {"catalogue": "rtx-4090", "vram": "8GiB"}, {"hit_rate": 0.5}
    (reply,) = replies(catalogue, "largest-context", gpus=gpu, targets=targets)
    assert isinstance(reply.found, int)
    assert 512 < reply.found < 4096
    study = study_of({**BASE, "gpus": gpu, "targets": targets, "contexts": [reply.found, reply.found + 1]}, catalogue)
    assert [answer.verdict for answer in sweep(study.cells, catalogue)] == ["meets", "misses"]


def test_a_context_ends_where_training_did(catalogue: Catalogue) -> None:
    (reply,) = replies(catalogue, "largest-context", gpus="rtx-5090", targets={"hit_rate": 0.5})
    assert (reply.found, reply.text) == (4096, "4096 tokens, all that the model was trained for")


def test_the_cheapest_goes_by_price_and_else_by_size(catalogue: Catalogue) -> None:
    targets = {"hit_rate": 0.6}
    gpus: list[Any] = ["rtx-4060", "rtx-4090", "t4", "rtx-5080"]
    (reply,) = replies(catalogue, "cheapest", gpus=gpus, targets=targets)
    assert reply.text == "rtx-4060 (smallest, then slowest; not all have a price)"
    priced = [{"catalogue": name, "price": price} for name, price in zip(gpus, (900, 1600, 700, 1000), strict=True)]
    (reply,) = replies(catalogue, "cheapest", gpus=priced, targets=targets)
    assert reply.text == "t4 at 700"
    assert reply.answer is not None
    assert reply.found == reply.answer.name


def test_without_targets_there_is_nothing_to_ask(catalogue: Catalogue) -> None:
    with pytest.raises(InputError) as caught:
        replies(catalogue, "cheapest", gpus="t4")
    assert str(caught.value) == (
        "study: targets: found nothing in 'base', expected hit_rate, tokens_per_second or vram to ask what meets them"
    )
