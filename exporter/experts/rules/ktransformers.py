"""KTransformers' rule: counts summed over passes, then the experts with the highest sums of the whole model.

Source: sglang-kt 0.7.2, `sglang/srt/layers/moe/kt_ep_wrapper.py` 4590-4690, and kt-kernel 0.7.2,
`kt_kernel/experts_base.py` 162-213: `sum(dim=0).float()`, one `topk` over all rows, dense layers' rows included.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.experts.rules.loaded import Loaded
from planner.activations.torch_file import read_array
from planner.base.errors import InputError

if TYPE_CHECKING:
    from planner.plans.plan import Plan

_EXPECTED = "expected a dict with 'logical_count', [passes, layers, experts]"


def load(path: Path, plan: Plan | None) -> Loaded:
    """Returns what KTransformers ends with, for a plan's number of experts or, without one, all with a count.

    Raises:
        InputError: not a file that it reads.
        OSError: the file cannot be read.
    """
    with open(path, "rb") as file:
        # A bare tensor names no key; the server's own loader (`eplb/expert_location.py`) stops at it.
        if b"logical_count" not in file.read(8192):
            raise InputError(f"holds no 'logical_count'; {_EXPECTED}")
    counts = read_array(path, "logical_count", _EXPECTED)
    if counts.ndim != 3 or not counts.size:
        raise InputError(f"holds a tensor of shape {list(counts.shape)}; {_EXPECTED}")
    _, n_layer, n_expert = counts.shape
    frequency = counts.sum(axis=0, dtype=np.float64 if counts.dtype.kind == "f" else np.int64).astype(np.float32)
    flat = frequency.ravel()
    faults = []
    wanted = int((flat > 0).sum())
    n_moe_rows = None
    if plan is not None:
        wanted = sum(group.placed for group in plan.groups)
        said = plan.engine.settings.get("n_layer") if plan.engine is not None else None
        if said is not None and said != str(n_layer):
            faults.append(f"has rows for {n_layer} layers, but the model has {said}; the server would stop at it")
        n_moe_rows = {int(group.label) for group in plan.groups}
    if wanted > flat.size:
        faults.append(f"has {flat.size} counts, but the plan has {wanted} experts")
        wanted = flat.size
    falling = np.argsort(-flat, kind="stable")
    if 0 < wanted < flat.size and flat[falling[wanted - 1]] == flat[falling[wanted]]:
        cut = flat[falling[wanted]]
        tied = int((flat == cut).sum())
        faults.append(
            f"{tied} experts have the count {cut:g}, at which the choice of {wanted} ends; torch.topk promises nothing "
            "about which of them it takes"
        )
    rows, columns = np.divmod(np.sort(falling[:wanted]), n_expert)
    experts: dict[int, list[int]] = {}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        experts.setdefault(row, []).append(column)
    if n_moe_rows is not None:
        lost = sum(len(chosen) for layer, chosen in experts.items() if layer not in n_moe_rows)
        if lost:
            faults.append(f"{lost} of {wanted} choices fall on layers without experts and are lost")
        experts = {layer: experts.get(layer, []) for layer in sorted(n_moe_rows)}
    else:
        experts = {layer: experts.get(layer, []) for layer in range(n_layer)}
    return Loaded(
        {layer: tuple(chosen) for layer, chosen in experts.items()},
        {layer: n_expert for layer in experts if layer < n_layer},
        tuple(faults),
    )
