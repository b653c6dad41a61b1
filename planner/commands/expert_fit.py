"""`hotsplit fit` for engines that place experts: the least VRAM for each aim, and how many experts fit here."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from planner.commands import common, experts

if TYPE_CHECKING:
    from planner.engines.experts.engine import ExpertEngine
    from planner.expert_fit import ExpertFit


def run(arguments: argparse.Namespace, engine: ExpertEngine) -> int:
    """Prints the answers; that a model does not fit is one of them, so the exit code is 0.

    Raises:
        InputError: model or statistics cannot be used, or an option means nothing for experts.
        OSError: a file cannot be read.
    """
    from planner.expert_fit import fit_experts

    found = fit_experts(experts.request_from(arguments, engine))
    for line in found.notes:
        common.note(line)
    if arguments.json:
        common.print_json("hotsplit.fit.experts", _as_json(found))
    else:
        _print(found, exact=arguments.bytes)
    return 0


def _aims(found: ExpertFit) -> Iterator[tuple[str, str, int, int, int | None]]:
    """Yields key, words, bytes of experts, VRAM of one GPU, and the most context here of every aim, ascending."""
    yield "no_expert", "everything but experts", 0, found.rest_bytes, found.largest_context
    of = "of the worst workload" if found.worst else "of the choices"
    for each in found.least:
        key = f"covered_{each.share * 100:.0f}"
        yield key, f"{each.share:.0%} {of}", each.experts_bytes, each.vram_bytes, each.most_context
    yield "everything", "all experts", found.all_bytes - found.rest_bytes, found.all_bytes, None


def _as_json(found: ExpertFit) -> dict[str, Any]:
    account = found.account
    present: dict[str, Any] | None = None
    if found.budget_known:
        placed = found.placed or ()
        present = {
            "experts": sum(placed),
            "placed": list(placed) if found.covered is not None else None,
            "covered": found.covered,
            "largest_context": found.largest_context,
            "account": account.to_dict(),
        }
    return {
        "model": {
            "path": found.model.source,
            "architecture": found.model.architecture,
            "fingerprint": found.model.fingerprint,
            "experts_bytes": found.model.moe.expert_bytes,
            "n_expert": list(found.n_expert),
        },
        "context": account.context,
        "kv_type": account.kv_type,
        "tp": found.model.tp,
        "least_vram": {
            key: {"experts_bytes": experts_bytes, "vram_bytes": vram_bytes, "most_context": context}
            for key, _, experts_bytes, vram_bytes, context in _aims(found)
        },
        "of_the_worst_workload": found.worst,
        "present": present,
    }


def _print(found: ExpertFit, *, exact: bool) -> None:
    from planner.base.text import printable
    from planner.base.units import format_bytes, format_column
    from planner.report.bill import print_bill
    from planner.report.tables import number, print_table, table, text

    console, account = common.console(), found.account
    title = f"{printable(found.model.source)}: least VRAM at context {account.context}, KV cache {account.kv_type}"
    columns = [text("for"), number("experts"), number("VRAM of one GPU")]
    if found.budget_known:
        columns += [text("here"), number("most context here", spare=1)]
    console.print(title, soft_wrap=True)
    shown = table(*columns)
    aims = list(_aims(found))
    units = format_column(aim[2] for aim in aims)
    for _, words, experts_bytes, vram_bytes, context in aims:
        row = [words, units(experts_bytes) if experts_bytes else "", format_bytes(vram_bytes)]
        if found.budget_known:
            short_bytes = vram_bytes - account.budget_bytes
            row.append("yes" if short_bytes <= 0 else f"{format_bytes(short_bytes)} short")
            row.append("" if context is None else f"{context:,}" if context else "none")
        shown.add_row(*row)
    print_table(shown, console)
    if not found.budget_known:
        return
    console.print()
    print_bill(account, console, exact=exact)
    if account.missing_bytes:
        console.print(f"here: {format_bytes(account.missing_bytes)} short of everything that is no expert")
        return
    placed = found.placed or ()
    least, most = min(placed), max(placed)
    layers = f", {least}" if least == most else f", {least} to {most}"
    console.print(
        f"here: {sum(placed):,} of {sum(found.n_expert):,} experts fit"
        + (f"{layers} of each layer; " if found.covered is not None or least == most else "; ")
        + ("what they cover is unknown" if found.covered is None else f"they cover {found.covered:.1%} of the choices"),
        soft_wrap=True,
    )
