"""The bill as people see it."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from planner.base.units import GIB, MIB
from planner.engines.account import Account, KnownGpu
from planner.engines.powerinfer.account import account_for
from planner.engines.powerinfer.budget import automatic_budget, stated_budget
from planner.engines.powerinfer.dimensions import Dimensions
from planner.engines.powerinfer.geometry import geometry_from_dimensions
from planner.report.bill import print_bill, projection, sentences

if TYPE_CHECKING:
    from rich.console import Console

_7B = geometry_from_dimensions(Dimensions("llama", 32, 4096, 11008, 32, 32000))


def _console(out: io.StringIO, width: int = 200) -> Console:
    from rich.console import Console

    return Console(file=out, width=width, color_system=None)


_CONTEXT_BASIS = "largest figure published, of an RTX PRO 6000"


def _printed(account: Account) -> str:
    out = io.StringIO()
    print_bill(account, _console(out))
    return out.getvalue()


def _rows(text: str) -> list[list[str]]:
    """Returns the words of each row of the table, columns being two spaces apart or more."""
    lines = text.splitlines()
    heading = next(number for number, line in enumerate(lines) if line.split()[:2] == ["item", "size"])
    rows = [line for line in lines[heading + 1 :] if line.strip(" ─")]
    return [re.split(r" {2,}", line.strip()) for line in rows]


def test_every_line_shows_what_it_takes_and_what_it_leaves() -> None:
    card = KnownGpu(total_bytes=16 * GIB, context_bytes=GIB, name="A card")
    account = account_for(_7B, automatic_budget(12 * GIB, card))
    rows = _rows(_printed(account))[: len(account.lines)]
    assert rows[0] == ["A card, total", "16,384.0 MiB", "16.00 GiB", "NVML"]
    assert rows[3] == ["-", "CUDA context", "1,024.0 MiB", "11.00 GiB", "stated"]
    assert rows[5][:4] == ["=", "Budget of the engine", "11,008.0 MiB", "10.75 GiB"]
    margin = next(row for row in rows if row[:2] == ["+", "Free outside the budget"])
    assert margin[2] == "256.0 MiB"
    assert rows[-1][:3] == ["=", "For neurons", f"{account.units_bytes / MIB:,.1f} MiB"]


def test_exact_bytes_are_shown_where_they_are_asked_for() -> None:
    account = account_for(_7B, automatic_budget(12 * GIB, KnownGpu(total_bytes=16 * GIB, name="A card")))
    out = io.StringIO()
    print_bill(account, _console(out), exact=True)
    assert re.search(r"A card, total +17,179,869,184 +17,179,869,184 ", out.getvalue())
    assert re.search(rf"For neurons +{account.units_bytes:,} ", out.getvalue())


def test_what_is_projected_stands_beside_what_is_free() -> None:
    budget = automatic_budget(10 * GIB, KnownGpu(total_bytes=12 * GIB, context_bytes=GIB, name="A card"))
    account = account_for(_7B, budget)
    expected_bytes = GIB + _7B.dense_bytes + 256 * MIB + account.units_bytes + account.uncharged_bytes
    assert account.projected_bytes == expected_bytes == 10 * GIB
    assert projection(account) == (
        "Projected in use: 10.00 GiB, CUDA's context included, of 10.00 GiB free on A card: 0 B are left."
    )
    assert projection(account) in _printed(account)
    too_much = account_for(_7B, stated_budget(12 * GIB, KnownGpu(context_bytes=0), free_bytes=_7B.dense_bytes))
    missing_bytes = too_much.projected_bytes - _7B.dense_bytes
    assert projection(too_much).endswith(f"free on the GPU: {missing_bytes / MIB:.1f} MiB are missing.")
    whole = account_for(_7B, stated_budget(40 * GIB, KnownGpu(context_bytes=0)))
    assert whole.projected_bytes == _7B.dense_bytes + 256 * MIB + _7B.ffn_bytes + whole.uncharged_bytes
    assert projection(whole) == (
        f"Projected in use: {whole.projected_bytes / GIB:.2f} GiB, CUDA's context included; "
        "--gpu compares it with a GPU's free memory."
    )


def test_a_gpus_name_cannot_move_the_cursor() -> None:
    account = account_for(_7B, automatic_budget(12 * GIB, KnownGpu(total_bytes=16 * GIB, name="\x1b[2Jcard")))
    printed = _printed(account)
    assert "\x1b" not in printed
    assert r"\x1b[2Jcard, total" in printed


def test_what_the_engine_will_do_in_sentences() -> None:
    assert sentences(account_for(_7B, stated_budget(40 * GIB))) == ("The engine will have everything on the GPU.",)
    assert sentences(account_for(_7B, stated_budget(8 * GIB))) == (
        "The engine will have hot neurons on the GPU, the rest on the host.",
    )
    one_half = stated_budget(_7B.dense_bytes + 128 * MIB)
    assert sentences(account_for(_7B, one_half)) == (
        "The engine will have the dense part on the GPU, every neuron on the host.",
        "The K half of the KV cache stays in host memory.",
    )
    assert sentences(account_for(_7B, stated_budget(_7B.dense_bytes - 300 * MIB))) == (
        "The engine will have a piece of the dense part on the GPU, every neuron on the host.",
        "The dense part needs 314,572,800 bytes (300.0 MiB) more; until all of it fits, the engine puts "
        "nothing else on the GPU.",
        "The KV cache stays in host memory.",
    )


def test_a_wrapped_budget_is_explained() -> None:
    # And nothing else is said: the engine would not leave anything on the host, it would go on until CUDA refuses.
    assert sentences(account_for(_7B, automatic_budget(0))) == (
        "Less than 256 MiB would be free: the engine's own subtraction wraps around there, and it would run out of "
        "memory. Free VRAM, or give --vram-budget.",
    )


def test_a_gpu_that_shares_the_hosts_memory_is_not_nvmls_word() -> None:
    budget = automatic_budget(12 * GIB, KnownGpu(total_bytes=16 * GIB, context_bytes=GIB, memory_basis="host memory"))
    rows = _rows(_printed(account_for(_7B, budget, context=512)))
    assert [row[-1] for row in rows[:3]] == ["host memory"] * 3
