"""The bill of an engine that places experts: everything that is not an expert, line by line, and what is left."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from planner.base.errors import InputError
from planner.base.record import replace
from planner.base.units import format_bytes
from planner.engines.account import Account, BillLine, Budget, EngineState, ReserveItem
from planner.engines.engine import ReserveOptions
from planner.model_files.moe.kv_cache import WindowRule, kv_type
from planner.model_files.moe.model import PARTS_THAT_NEVER_RUN, MoeModel, Part

ZERO_EXPERTS = "zero_experts"


def kv_bytes(
    model: MoeModel, context: int, type_name: str, window_rule: WindowRule, stated_bytes: int | None
) -> tuple[int, str]:
    """Returns the bytes of the KV cache and what they rest on.

    Raises:
        InputError: the model's keys do not say, and nothing was stated.
    """
    if stated_bytes is not None:
        return stated_bytes, "stated with --kv-cache"
    cache = model.kv_cache
    why = cache.why_unknown if cache.layers is None else ""
    if not why and cache.state_bytes is None:
        why = f"{cache.n_stateful} layers keep a state whose size the keys do not say"
    if why:
        raise InputError(
            f"{model.source}: the KV cache is unknown: {why}; state what the engine takes for {context} tokens with "
            "--kv-cache SIZE"
        )
    kv_type(type_name)
    n_bytes = cache.bytes_for(context, type_name, window_rule=window_rule) + (cache.state_bytes or 0)
    kinds = "latent attention" if cache.is_latent else "heads of keys and values"
    windows = ", windows as the engine keeps them" if any(each.window for each in cache.layers or ()) else ""
    states = f", {cache.n_stateful} layers with a state" if cache.n_stateful else ""
    return n_bytes, f"{context} tokens, {type_name}, from the model's keys ({kinds}{windows}{states})"


def reserve_of(items: Iterable[ReserveItem], options: ReserveOptions) -> tuple[ReserveItem, ...]:
    """Returns the engine's own needs as the user states them: items replaced, or the sum."""
    if options.total_bytes is not None:
        return (ReserveItem("stated", "the engine's own needs", options.total_bytes, "stated with --reserve"),)
    return tuple(
        replace(item, n_bytes=options.overrides[item.key], basis="stated with --reserve")
        if item.key in options.overrides
        else item
        for item in items
    )


def expert_account(
    model: MoeModel,
    budget: Budget,
    *,
    parts: Mapping[Part, tuple[int, str]],
    cache: tuple[int, str],
    reserve: Sequence[ReserveItem],
    context: int,
    type_name: str,
) -> Account:
    """Returns what becomes of the budget.

    Args:
        model: as one GPU holds it.
        budget: all that the engine may take of that GPU.
        parts: bytes on the GPU of everything that is no expert, and what each rests on.
        cache: bytes of the KV cache, and what they rest on.
        reserve: the engine's own needs.
        context: tokens of context.
        type_name: of the KV cache.
    """
    dense_bytes = sum(n_bytes for n_bytes, _ in parts.values())
    cache_bytes, cache_basis = cache
    reserve_bytes = sum(item.n_bytes for item in reserve)
    left_bytes = budget.budget_bytes - dense_bytes - cache_bytes - reserve_bytes
    fits = left_bytes >= 0
    everything = left_bytes >= model.expert_bytes
    basis = "stated with --vram-budget" if budget.source == "option" else f"free memory, {budget.memory_basis}"
    lines = [BillLine("start", "what the engine may take of the GPU", budget.budget_bytes, budget.budget_bytes, basis)]
    charges = [
        *((str(part), *charge) for part, charge in parts.items()),
        ("KV cache", cache_bytes, cache_basis),
        *((item.label, item.n_bytes, item.basis) for item in reserve),
    ]
    left = budget.budget_bytes
    for label, n_bytes, why in charges:
        left -= n_bytes
        lines.append(BillLine("minus", label, n_bytes, max(0, left), why))
    units_bytes = max(0, left_bytes)
    lines.append(BillLine("equals", "for experts", units_bytes, units_bytes, "what is left"))
    state = EngineState.SPLIT if fits else EngineState.DENSE_INCOMPLETE
    if everything:
        state = EngineState.ALL_ON_GPU
    words = {
        EngineState.SPLIT: f"{format_bytes(units_bytes)} of VRAM for experts",
        EngineState.ALL_ON_GPU: "room for all experts on the GPU",
        EngineState.DENSE_INCOMPLETE: "no room for what is no expert, and run out of memory",
    }
    # Where not even the rest fits, the bill shows by how much; the account's parts then add up to the budget.
    charged = [dense_bytes, cache_bytes, reserve_bytes]
    if not fits:
        room = budget.budget_bytes
        for place, n_bytes in enumerate(charged):
            charged[place] = min(n_bytes, room)
            room -= charged[place]
    return Account(
        state=state,
        state_words=words[state],
        budget=budget,
        budget_bytes=budget.budget_bytes,
        dense_bytes=charged[0],
        kv_cache_bytes=charged[1],
        reserve_bytes=charged[2],
        units_bytes=units_bytes,
        missing_bytes=max(0, -left_bytes),
        dense_total_bytes=dense_bytes,
        units_total_bytes=model.expert_bytes,
        kv_total_bytes=cache_bytes,
        uncharged_bytes=reserve_bytes,
        reserve=tuple(reserve),
        context=context,
        kv_type=type_name,
        lines=tuple(lines),
    )


def with_zero_experts(account: Account, n_bytes: int, n_layer: int) -> Account:
    """Returns the account with the zero experts that the engine adds to layers with experts on the GPU."""
    if not n_bytes:
        return account
    item = ReserveItem(ZERO_EXPERTS, "zero experts", n_bytes, f"one for each of {n_layer} layers with any on the GPU")
    left_bytes = account.units_bytes - n_bytes
    last = account.lines[-1]
    lines = (
        *account.lines[:-1],
        BillLine("minus", item.label, n_bytes, left_bytes, item.basis),
        replace(last, n_bytes=left_bytes, left_bytes=left_bytes),
    )
    return replace(
        account,
        reserve=(*account.reserve, item),
        reserve_bytes=account.reserve_bytes + n_bytes,
        uncharged_bytes=account.uncharged_bytes + n_bytes,
        units_bytes=left_bytes,
        lines=lines,
    )


def parts_on_gpu(model: MoeModel, elsewhere: Mapping[Part, str]) -> dict[Part, tuple[int, str]]:
    """Returns the bytes that each part takes of the GPU, and what that rests on.

    Args:
        model: as one GPU holds it.
        elsewhere: parts that the engine keeps in host memory, and what is known about that.
    """
    found: dict[Part, tuple[int, str]] = {}
    for part, n_bytes in model.part_bytes.items():
        if part in PARTS_THAT_NEVER_RUN:
            found[part] = 0, f"never run; {n_bytes:,} bytes stay in the file"
        elif part in elsewhere:
            found[part] = 0, f"{elsewhere[part]}; {n_bytes:,} bytes"
        else:
            found[part] = n_bytes, "the model's header"
    return found
