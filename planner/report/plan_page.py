"""A plan as one page: what it comes to, the bill as a bar, the curve of what more bytes would cover, and the layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from planner.base.units import GIB, KIB, MIB, format_bytes
from planner.engines.account import Account
from planner.report.bill import projection, sentences
from planner.report.charts import HeatRow, Mark, Point, Series, escaped, heat_map, legend, line_chart, stacked_bar
from planner.report.coverage import Curve, expert_curves, neuron_curve
from planner.report.frame import framed

if TYPE_CHECKING:
    from planner.expert_planning import ExpertPlanning
    from planner.planning import Planning

_SIGNS = {"start": "", "minus": "-", "equals": "="}
_MAX_LAYERS = 400
_UNITS = ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB"))


def plan_page(planning: Planning, *, command: str = "") -> str:
    """Returns the page of a plan of neurons.

    Args:
        planning: the plan and what it was made from.
        command: the command line that made the page, for its footer; empty for none.
    """
    plan, account, engine = planning.plan, planning.account, planning.engine
    neurons, hot_neurons = sum(planning.hotness.n_ff), sum(plan.solved_list)
    used_bytes = plan.vram_required_bytes
    why_not = engine.why_not_split(planning.model)
    verdict = [
        *([why_not] if why_not else []),
        f"{hot_neurons:,} of {neurons:,} {engine.units} ({hot_neurons / max(1, neurons):.1%}) go on the GPU and cover "
        f"{planning.hit_rate:.1%} of all recorded activations",
        f"they take {format_bytes(used_bytes)} of a budget of {format_bytes(account.budget_bytes)}",
    ]
    curve = neuron_curve(planning.hotness, planning.model.unit_bytes, planning.granularity)
    shares = [placed / of if of else 0.0 for placed, of in zip(plan.solved_list, planning.hotness.n_ff, strict=True)]
    layers = [
        (label, f"{placed:,}", f"{of:,}", f"{share:.1%}", _share(covered, total), format_bytes(placed * unit_bytes))
        for label, placed, of, share, covered, total, unit_bytes in zip(
            planning.statistics.labels,
            plan.solved_list,
            planning.hotness.n_ff,
            shares,
            planning.covered,
            planning.hotness.totals.tolist(),
            planning.model.unit_bytes,
            strict=True,
        )
    ]
    return framed(
        f"Plan for {Path(planning.request.model).name}",
        _header(verdict, account, engine.condition(planning.model), planning.notes),
        [
            *_bill(account, used_bytes, engine.units),
            *_curves(
                [("best choice", curve)], "activations covered", account.units_bytes, used_bytes, planning.hit_rate
            ),
            *_layers(layers, shares, f"hot {engine.units}", "activations covered", hot_neurons / max(1, neurons)),
        ],
        footer=[*([("command", command)] if command else []), ("model", str(planning.request.model))],
    )


def expert_plan_page(planning: ExpertPlanning, *, one_number: bool, command: str = "") -> str:
    """Returns the page of a plan of experts.

    Args:
        planning: the plan and what it was made from.
        one_number: whether the engine places equally many experts of every layer.
        command: the command line that made the page, for its footer; empty for none.
    """
    plan, account, candidates, choice = planning.plan, planning.account, planning.candidates, planning.choice
    placed, experts = sum(plan.solved_list), len(choice.chosen)
    covered = dict(zip(candidates.names, choice.covered, strict=True))
    verdict = [
        f"{placed:,} of {experts:,} experts ({placed / max(1, experts):.1%}) go on the GPU and cover "
        + _joined([f"{share:.1%} of the choices of {name}" for name, share in covered.items()])
        + f"; as many drawn at random would cover {planning.verdict.random:.1%}",
        f"they take {format_bytes(plan.vram_required_bytes)} of a budget of {format_bytes(account.budget_bytes)}",
    ]
    if (worst := planning.verdict.worst_unseen) is not None:
        verdict.append(f"on other text: {worst[1]:.1%} of {worst[0]}")
    else:
        verdict.append("on other text: unknown; record other text and give it with --tried-on")
    curves = expert_curves(candidates, one_number=one_number)
    shares, layers = [], []
    for position, group in enumerate(plan.groups):
        here = candidates.layer == position
        chosen = here & choice.chosen
        shares.append(group.placed / group.units if group.units else 0.0)
        of_layer = candidates.values[here].sum()
        layers.append(
            (
                group.label,
                f"{group.placed:,}",
                f"{group.units:,}",
                f"{shares[-1]:.1%}",
                _share(float(candidates.values[chosen].sum()), float(of_layer)),
                format_bytes(int(candidates.sizes[chosen].sum())),
            )
        )
    weights = candidates.weights
    mean = sum(weight * share for weight, share in zip(weights, choice.covered, strict=True)) / sum(weights)
    used_bytes = int(candidates.sizes[choice.chosen].sum())
    room_bytes = account.units_bytes + sum(n_bytes for _, n_bytes in planning.request.lanes)
    return framed(
        f"Plan of experts for {Path(planning.request.model).name}",
        _header(verdict, account, "", planning.notes),
        [
            *_bill(account, min(used_bytes, account.units_bytes), "experts"),
            *_curves(list(zip(candidates.names, curves, strict=True)), "choices covered", room_bytes, used_bytes, mean),
            *_layers(layers, shares, "experts on the GPU", "choices covered", placed / max(1, experts)),
        ],
        footer=[*([("command", command)] if command else []), ("model", str(planning.request.model))],
    )


def _share(part: float, total: float) -> str:
    return f"{part / total:.1%}" if total else "0.0%"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _header(verdict: Sequence[str], account: Account, condition: str, notes: Sequence[str]) -> Iterator[str]:
    yield '<div class="verdict">'
    yield from (f"<p>{escaped(line[:1].upper() + line[1:], limit=1000)}.</p>" for line in verdict)
    yield "</div>"
    for line in (*sentences(account, condition), projection(account)):
        yield f"<p>{escaped(line, limit=1000)}</p>"
    yield from (f'<p class="quiet">Note: {escaped(line, limit=1000)}</p>' for line in notes)


def _bill(account: Account, used_bytes: int, units: str) -> Iterator[str]:
    """Yields the budget as a bar of its parts, and the whole bill below."""
    left_bytes = max(0, account.units_bytes - used_bytes)
    parts = [
        ("p0", account.dense_bytes, "dense part"),
        ("p1", account.kv_cache_bytes, "KV cache"),
        ("p7", account.reserve_bytes, "reserve, for what the engine takes uncharged"),
        ("p2", used_bytes, f"{units} on the GPU"),
        ("p8", left_bytes, f"left, of what {units} may take"),
    ]
    total_bytes = max(1, account.budget_bytes)
    yield f"<section><h2>Where the budget of {format_bytes(account.budget_bytes)} goes</h2><figure>"
    yield stacked_bar(
        f"The budget of {format_bytes(account.budget_bytes)}",
        [(css, size, f"{name}: {format_bytes(size)} ({size / total_bytes:.1%})") for css, size, name in parts],
    )
    yield '<ul class="legend">'
    for css, size, name in parts:
        if size:
            square = f'<rect class="{css}" width="10" height="10"/>'
            yield f'<li><svg class="key" viewBox="0 0 10 10" aria-hidden="true">{square}</svg>'
            yield f"{escaped(name)}: <b>{format_bytes(size)}</b> ({size / total_bytes:.1%})</li>"
    yield "</ul></figure><h3>The bill</h3>"
    yield '<div class="scroll" tabindex="0" role="group" aria-label="the bill"><table class="bill"><thead><tr>'
    yield '<th scope="col"><span class="unseen">sign</span></th><th scope="col">item</th>'
    yield '<th scope="col" class="number">size</th><th scope="col" class="number">left</th>'
    yield '<th scope="col">basis</th></tr></thead><tbody>'
    for line in account.lines:
        # What comes back into the budget is a negative deduction.
        sign = "+" if line.kind == "minus" and line.n_bytes < 0 else _SIGNS[line.kind]
        size_bytes = abs(line.n_bytes) if line.kind == "minus" else line.n_bytes
        cell = "b" if line.kind == "equals" else "span"
        yield (
            f"<tr><td>{sign}</td><td><{cell}>{escaped(line.label)}</{cell}></td>"
            f'<td class="number">{format_bytes(size_bytes)}</td><td class="number">{format_bytes(line.left_bytes)}</td>'
            f"<td>{escaped(line.basis, limit=400)}</td></tr>"
        )
    yield "</tbody></table></div></section>"


def _curves(
    curves: Sequence[tuple[str, Curve]], what: str, room_bytes: int, used_bytes: int, covered: float
) -> Iterator[str]:
    """Yields the chart of what so many bytes cover, with the plan as a dot and the room for units as a line."""
    end_bytes = max(curve.n_bytes.tolist()[-1] for _, curve in curves)
    unit, unit_name = next(((size, name) for size, name in _UNITS if end_bytes >= size), _UNITS[-1])
    lines = []
    for name, curve in curves:
        points = [
            Point(n_bytes / unit, 100 * share, f"{name}: {format_bytes(n_bytes)} cover {share:.1%}")
            for n_bytes, share in zip(curve.n_bytes.tolist(), curve.covered.tolist(), strict=True)
        ]
        lines.append(Series(name, tuple(points), dots=False))
    lines.append(
        Series("random choice", (Point(0.0, 0.0, "nothing"), Point(end_bytes / unit, 100.0, "everything")), dots=False)
    )
    here = f"this plan: {format_bytes(used_bytes)} cover {covered:.1%}"
    lines.append(Series("this plan", (Point(used_bytes / unit, 100 * covered, here, name="this plan"),), joined=False))
    yield "<section><h2>What more memory would cover</h2><figure>"
    yield f"<figcaption>{what.capitalize()} over bytes</figcaption>"
    marks = (
        [Mark(room_bytes / unit, f"budget for them: {format_bytes(room_bytes)}", upright=True)]
        if room_bytes <= end_bytes
        else []
    )
    yield line_chart(
        f"{what} over bytes", lines, x_name=f"VRAM for them, {unit_name}", y_name=f"{what}, %", y_top=100, marks=marks
    )
    yield legend(lines)
    if not marks:
        yield f'<p class="quiet">The budget of {format_bytes(room_bytes)} is more than all of them take.</p>'
    yield "</figure></section>"


def _layers(
    layers: Sequence[tuple[str, ...]], shares: Sequence[float], placed: str, covered: str, mean: float
) -> Iterator[str]:
    yield "<section><h2>Layers</h2>"
    if layers:
        yield "<figure><figcaption>Share of each layer that is on the GPU</figcaption>"
        yield heat_map(
            "Share of each layer that is on the GPU",
            [HeatRow("this plan", tuple(shares), f"{mean:.1%}")],
            first=f"layer {layers[0][0]}",
            last=f"layer {layers[-1][0]}",
            end="all",
            unit="layer",
        )
        yield "</figure>"
    yield '<div class="scroll" tabindex="0" role="group" aria-label="the layers"><table class="layers"><thead><tr>'
    headings = ("layer", placed, "of", "share of layer", covered, "VRAM")
    yield "".join(f'<th scope="col" class="number">{escaped(name)}</th>' for name in headings)
    yield "</tr></thead><tbody>"
    for row in layers[:_MAX_LAYERS]:
        yield "<tr>" + "".join(f'<td class="number">{escaped(text)}</td>' for text in row) + "</tr>"
    yield "</tbody></table></div>"
    if len(layers) > _MAX_LAYERS:
        yield f'<p class="quiet">The first {_MAX_LAYERS:,} of {len(layers):,} rows; the JSON has all.</p>'
    yield "</section>"
