from typing import Any

import pytest

from planner.answers import Answer
from planner.catalogue import Catalogue
from planner.errors import InputError
from planner.inverse import Reply, ask
from planner.report.whatif import verdict_words
from planner.study import study_of
from planner.sweep import sweep

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
    short = answer_at(catalogue, 10 * GIB + 112 * MIB, **changes)
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
    targets = {"hit_rate": 0.7}
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
