"""The verdict on a study: its sentences, word for word, and which cell it is about."""

from __future__ import annotations

from typing import Any

import pytest

from planner.api import whatif
from planner.base.record import replace
from planner.studies.verdict import Verdict, verdict_of

STUDY: dict[str, Any] = {
    "models": "relu-llama-13b",
    "quantisations": ["F16", "Q4_0"],
    "hosts": "ddr5-5600-dual",
    "gpus": ["rtx-4060", "rtx-4070", "rtx-5080", "rtx-3090"],
}


def verdict(**changes: Any) -> Verdict:
    return verdict_of(whatif({**STUDY, **changes}).answers)


def test_without_targets_the_smallest_gpu_that_holds_the_model_whole_comes_first() -> None:
    found = verdict()
    assert found.sentences[0] == "relu-llama-13b Q4_0 fits whole on rtx-4070: you need no split."
    assert found.state == "all_on_gpu"
    assert found.cell == "base / relu-llama-13b / Q4_0 / rtx-4070 / ddr5-5600-dual / 512"


def test_one_cell_that_is_split_says_what_the_gpu_covers() -> None:
    found = verdict(gpus="rtx-3090", quantisations="F16")
    assert found.sentences[0] == "relu-llama-13b F16 on rtx-3090."
    assert found.sentences[1].startswith("It is split: the GPU covers ")
    assert found.state == "split"


def test_without_prices_the_smallest_gpu_that_meets_is_named_and_prices_are_asked_for() -> None:
    answers = whatif({**STUDY, "quantisations": "F16", "targets": {"tokens_per_second": 10}})
    found = verdict_of(answers.answers)
    # The study names its GPUs from the smallest to the largest.
    smallest = next(answer.gpu for answer in answers if answer.meets)
    assert smallest != "rtx-4060"
    assert found.sentences[0] == (
        f"Smallest GPU that meets the targets: {smallest} (give every GPU a `price` to compare by price)."
    )
    assert found.state == "meets"


def test_with_prices_the_cheapest_that_meets_is_named() -> None:
    gpus = [{"catalogue": "rtx-5080", "price": 1000}, {"catalogue": "rtx-3090", "price": 700}]
    found = verdict(gpus=gpus, quantisations="F16", targets={"tokens_per_second": 10})
    assert found.sentences[0] == "Cheapest that meets the targets: rtx-3090 at 700."


def test_where_nothing_meets_the_nearest_is_named_with_what_it_misses() -> None:
    found = verdict(quantisations="F16", targets={"tokens_per_second": 1000})
    assert found.sentences[0] == "Nothing here meets the targets."
    assert found.sentences[1].startswith("Nearest: rtx-3090, misses tokens_per_second (the GPU covers ")
    assert found.state == "misses"


def test_models_that_meet_nowhere_are_named() -> None:
    found = verdict(
        models=["relu-llama-13b", "opt-175b"], quantisations="Q4_0", targets={"tokens_per_second": 10, "hit_rate": 0.5}
    )
    assert found.sentences[1].endswith("; opt-175b: nothing meets them.")


def test_a_host_that_is_too_small_is_said() -> None:
    host = {"catalogue": "ddr5-5600-dual", "memory": "2GiB"}
    found = verdict(gpus="rtx-4060", quantisations="F16", hosts=host)
    assert found.text.endswith("It does not fit: the host's memory cannot hold the rest.")
    assert found.state == "does_not_fit"


@pytest.mark.parametrize("targets", [{}, {"tokens_per_second": 10}])
def test_json_has_the_same_sentences(targets: dict[str, Any]) -> None:
    found = verdict(targets=targets)
    assert found.to_dict() == {"sentences": list(found.sentences), "state": found.state, "cell": found.cell}
    assert 1 <= len(found.sentences) <= 2


def test_several_models_are_each_given_their_best() -> None:
    gpus = [{"catalogue": "rtx-5080", "price": 1000}, {"catalogue": "rtx-3090", "price": 1700}]
    answers = whatif(
        {**STUDY, "models": ["relu-llama-13b", "bamboo-7b", "opt-175b"], "quantisations": "F16", "gpus": gpus,
         "targets": {"hit_rate": 0.9}}
    ).answers  # fmt: skip
    of_model: dict[str, str] = {}
    for answer in sorted(answers, key=lambda answer: -(answer.price or 0.0)):
        if answer.meets:
            of_model[answer.model] = f"{answer.gpu} with F16 at {answer.price:,.0f}"
    assert set(of_model) == {"relu-llama-13b", "bamboo-7b"}
    assert verdict_of(answers).sentences[1] == (
        f"relu-llama-13b: {of_model['relu-llama-13b']}; bamboo-7b: {of_model['bamboo-7b']}; "
        "opt-175b: nothing meets them."
    )


def test_each_model_and_scenario_is_told_where_it_fits_whole() -> None:
    found = verdict(models=["relu-llama-13b", "opt-175b"], gpus=["rtx-4060", "rtx-3090"])
    assert found.sentences == (
        "relu-llama-13b Q4_0 fits whole on rtx-3090: you need no split.",
        "relu-llama-13b: whole on rtx-3090 with Q4_0; opt-175b: fits whole on none of these.",
    )


def test_a_model_for_which_free_vram_is_short_does_not_fit_whole() -> None:
    answers = [
        replace(answer, bytes=replace(answer.bytes, free=answer.bytes.vram - (1 << 30)))
        for answer in whatif({**STUDY, "gpus": "rtx-3090", "quantisations": "Q4_0"}).answers
    ]
    assert verdict_of(answers).sentences == (
        "relu-llama-13b Q4_0 on rtx-3090.",
        "It is short of 1.0 GiB of free VRAM, with what the engine takes uncharged.",
    )
