"""`hotsplit fit` for engines that place experts, against every choice there is and arithmetic of the tests' own."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest

from tests.commands import hotsplit
from tests.test_expert_planning import CODE, MOE, PROSE, counts_file, share
from tests.test_expert_study import CACHE, EXPERT, PLACES, REST

MODEL = MOE / "hf/qwen3_moe"


def fit(capsys: pytest.CaptureFixture[str], *options: object) -> dict[str, Any]:
    done = hotsplit(capsys, "fit", "--engine", "ktransformers", "--model", MODEL, *options, "--json")
    assert done.exit_code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


@pytest.fixture
def counts(tmp_path: Path) -> tuple[object, ...]:
    code, prose = counts_file(tmp_path / "code.csv", CODE), counts_file(tmp_path / "prose.csv", PROSE)
    return ("--statistics", code, "--statistics", prose, "--context", 16, "--reserve", "0B")


@pytest.mark.parametrize("robust", [False, True])
def test_the_least_vram_is_that_of_the_fewest_experts(
    capsys: pytest.CaptureFixture[str], counts: tuple[object, ...], robust: bool
) -> None:
    budget = REST + CACHE + 9 * EXPERT
    found = fit(capsys, *counts, "--vram-budget", f"{budget}B", *(("--robust", "worst") if robust else ()))

    def has(chosen: set[tuple[int, int]]) -> float:
        both = (share(CODE, chosen), share(PROSE, chosen))
        return min(both) if robust else sum(both) / 2

    assert found["least_vram"]["no_expert"]["vram_bytes"] == REST + CACHE
    assert found["least_vram"]["everything"]["vram_bytes"] == REST + CACHE + 16 * EXPERT
    for percent in (50, 80, 90):
        number = next(
            number
            for number in range(1, 17)
            if any(has(set(each)) >= percent / 100 for each in itertools.combinations(PLACES, number))
        )
        least = found["least_vram"][f"covered_{percent}"]
        assert least["vram_bytes"] == REST + CACHE + number * EXPERT
        # What the share leaves of nine experts is room for more context, 192 bytes for a token.
        context = (CACHE + (9 - number) * EXPERT) // (CACHE // 16)
        assert least["most_context"] == max(0, context)
    assert found["of_the_worst_workload"] is robust
    assert found["present"]["experts"] == 9
    assert found["present"]["largest_context"] == (CACHE + 9 * EXPERT) // (CACHE // 16)
    best = max((set(each) for each in itertools.combinations(PLACES, 9)), key=has)
    assert found["present"]["covered"] == pytest.approx((share(CODE, best) + share(PROSE, best)) / 2, abs=2e-3)


def test_without_statistics_it_says_how_many_fit_and_that_the_share_is_unknown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--context", 16, "--reserve", "0B", "--vram-budget", f"{REST + CACHE + 3 * EXPERT + 1}B")
    found = fit(capsys, *options)
    assert list(found["least_vram"]) == ["no_expert", "everything"]
    assert (found["present"]["experts"], found["present"]["covered"], found["present"]["placed"]) == (3, None, None)
    done = hotsplit(capsys, "fit", "--engine", "ktransformers", "--model", MODEL, *options)
    assert done.out.splitlines()[-1] == "here: 3 of 16 experts fit; what they cover is unknown"
    assert done.err == (
        "hotsplit: note: no statistics: what the experts cover is unknown; give --statistics NAME=FILE\n"
    )


def test_a_budget_that_does_not_hold_the_rest_is_an_answer(capsys: pytest.CaptureFixture[str]) -> None:
    done = hotsplit(
        capsys, "fit", "--engine", "ktransformers", "--model", MODEL, "--context", 16, "--reserve", "0B",
        "--vram-budget", f"{REST + CACHE - 1}B",
    )  # fmt: skip
    assert done.exit_code == 0
    assert done.out.splitlines()[-1] == "here: 1 B short of everything that is no expert"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--engine", "slots", "--vram-budget", "1GiB"), f"{MODEL}: slots (thecodacus/llama.cpp) loads a GGUF file, "
         "and this is a Hugging Face folder"),
        (("--engine", "ktransformers", "--robust", "worst"), "--robust: needs several workloads; give --statistics "
         "more than once"),
        (("--engine", "ktransformers", "--batch-size", "8"), "--batch-size: is for engines that place neurons; "
         "--engine ktransformers does not"),
        (("--tp", "2"), "--tp: is for engines that place experts; --engine powerinfer does not"),
    ],
)  # fmt: skip
def test_what_means_nothing_is_one_line(
    capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    done = hotsplit(capsys, "fit", "--model", MODEL, *options)
    assert (done.exit_code, done.out, done.err) == (2, "", f"hotsplit: error: {message}\n")


# ---- export without a plan ------------------------------------------------------------------------------------------


def test_export_plans_by_itself_and_writes_what_the_plan_would(
    capsys: pytest.CaptureFixture[str], counts: tuple[object, ...], tmp_path: Path
) -> None:
    options = ("--engine", "ktransformers", "--model", MODEL, *counts, "--robust", "worst", "--vram-budget")
    options = (*options, f"{REST + CACHE + 5 * EXPERT}B")
    plan, by_plan, at_once = tmp_path / "plan.json", tmp_path / "a.pt", tmp_path / "b.pt"
    assert hotsplit(capsys, "plan", *options, "--output", plan).exit_code == 0
    assert hotsplit(capsys, "export", "--plan", plan, "--output", by_plan).exit_code == 0
    done = hotsplit(capsys, "export", *options, "--output", at_once)
    assert done.exit_code == 0, done.err
    assert at_once.read_bytes() == by_plan.read_bytes()
    assert done.out.splitlines()[1].startswith(f"next: python -m sglang.launch_server --model-path {MODEL} ")
    assert hotsplit(capsys, "verify", at_once, "--plan", plan, "--model", MODEL).exit_code == 0


def test_export_writes_nothing_when_the_plan_covers_too_little(
    capsys: pytest.CaptureFixture[str], counts: tuple[object, ...], tmp_path: Path
) -> None:
    output = tmp_path / "a.pt"
    done = hotsplit(
        capsys, "export", "--engine", "ktransformers", "--model", MODEL, *counts, "--require", "covered=0.99",
        "--vram-budget", f"{REST + CACHE + 2 * EXPERT}B", "--output", output,
    )  # fmt: skip
    assert done.exit_code == 1
    assert done.err.splitlines()[-1].startswith("hotsplit: error: --require covered=0.99: the plan covers 0.")
    assert not output.exists()


def test_options_of_experts_beside_a_plan_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    done = hotsplit(capsys, "export", "--plan", tmp_path / "plan.json", "--tp", 2)
    assert (done.exit_code, done.err) == (
        2,
        "hotsplit: error: --plan: the plan says what to place, so leave out --tp, or make the plan with it\n",
    )
