"""The account as a bill: from the device's total to the last FFN byte, what each line takes beside what it leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planner.base.text import printable
from planner.base.units import format_bytes, format_column
from planner.engines.account import Account

if TYPE_CHECKING:
    from rich.console import Console

_SIGNS = {"start": "", "minus": "-", "equals": "="}


def print_bill(account: Account, console: Console, *, condition: str = "", exact: bool = False) -> None:
    """Prints the bill as a table, then what the engine will do.

    Args:
        account: what an engine makes of a budget (`planner.engines.engine.Engine.account`).
        condition: under which the engine will do so (`planner.engines.engine.Engine.condition`).
        console: such as `planner.commands.common.console()`.
        exact: whether sizes are shown in bytes.
    """
    from planner.report.tables import name, number, print_table, table, text

    shown = table(
        name(""),
        text("item"),
        number("bytes" if exact else "size"),
        number("left", spare=1),
        text("basis", spare=2),
        title="VRAM, as the engine will spend it",
    )
    taken = format_column(line.n_bytes for line in account.lines)
    left = format_column(line.left_bytes for line in account.lines)
    for line in account.lines:
        # What comes back into the budget is a negative deduction.
        sign = "+" if line.kind == "minus" and line.n_bytes < 0 else _SIGNS[line.kind]
        size_bytes = abs(line.n_bytes) if line.kind == "minus" else line.n_bytes
        shown.add_row(
            sign,
            printable(line.label),
            f"{size_bytes:,}" if exact else taken(size_bytes),
            f"{line.left_bytes:,}" if exact else left(line.left_bytes),
            printable(line.basis),
            end_section=line.kind == "equals",
        )
    print_table(shown, console)
    for sentence in (projection(account), *sentences(account, condition)):
        console.print(printable(sentence), soft_wrap=True)


def projection(account: Account) -> str:
    """Returns what the engine is expected to have in use, beside what is free where that is known."""
    budget = account.budget
    projected = f"Projected in use: {format_bytes(account.projected_bytes)}, CUDA's context included"
    if budget.free_bytes is None:
        return f"{projected}; --gpu compares it with a GPU's free memory."
    left_bytes = budget.free_bytes - account.projected_bytes
    beside = "are left" if left_bytes >= 0 else "are missing"
    return (
        f"{projected}, of {format_bytes(budget.free_bytes)} free on {budget.gpu_name or 'the GPU'}: "
        f"{format_bytes(abs(left_bytes))} {beside}."
    )


def sentences(account: Account, condition: str = "") -> tuple[str, ...]:
    """Returns what the engine will do, in sentences for people.

    Args:
        account: what an engine makes of a budget (`planner.engines.engine.Engine.account`).
        condition: under which the engine will do so, such as `after conversion`; empty when there is none.
    """
    if account.budget.wraps:
        # What the account says of paths is not what such an engine does: it treats VRAM as unlimited.
        return (
            "Less than 256 MiB would be free: the engine's own subtraction wraps around there, and it would run out of "
            "memory. Free VRAM, or give --vram-budget.",
        )
    subject = f"{condition[0].upper()}{condition[1:]}, the engine" if condition else "The engine"
    said = [f"{subject} will have {account.state_words}."]
    if account.missing_bytes:
        said.append(
            f"The dense part needs {account.missing_bytes:,} bytes ({format_bytes(account.missing_bytes)}) more; until "
            "all of it fits, the engine puts nothing else on the GPU."
        )
    if account.kv_host_bytes and account.context:
        said.append(f"{account.kv_on_host} stays in host memory.")
    return tuple(said)
