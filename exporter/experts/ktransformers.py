"""KTransformers (sglang-kt): counts of 0 and 1 that its global choice turns into exactly the plan.

It takes the experts with the highest counts of the whole model, dense layers' rows included, and how many it takes is a
ratio (`exporter.experts.rules.ktransformers` has the source). A count of 1 for each planned expert and 0 for all others
leaves it no other choice.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exporter.experts.choice import LayerChoice
from exporter.experts.rules import ktransformers as rule
from exporter.experts.rules.loaded import Loaded
from exporter.experts.writer import ExpertWriter, missing_sizes, model_of, natural, one_device, settings_of
from planner.base.errors import InputError
from planner.base.outputs import TORCH_COUNTS

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.plans.plan import Plan


def gpu_experts_ratio(n_placed: int, n_total: int) -> float:
    """Returns the value of `--kt-gpu-experts-ratio` for which `int(n_total * ratio)` is `n_placed`.

    Half an expert more than the plan has, because the product is cut off and not rounded: 100 x 0.29 gives 28.

    Args:
        n_placed: experts on the GPU, 0 to `n_total`.
        n_total: experts of all layers that have any.
    """
    return 1.0 if n_placed == n_total else (n_placed + 0.5) / n_total


class KTransformersWriter(ExpertWriter):
    """See `exporter.engines.Writer`."""

    name = "ktransformers"
    file_kind = "file of counts"
    kind = TORCH_COUNTS
    ending = ".ktransformers.pt"

    def objections(self, plan: Plan) -> list[str]:
        """Returns what the tensor or the ratio cannot say."""
        lines = missing_sizes(plan) or one_device(plan)
        if lines:
            return lines
        sizes = {group.units for group in plan.groups}
        if len(sizes) > 1:
            lines.append(f"units.groups: have {' and '.join(map(str, sorted(map(int, filter(None, sizes)))))} experts; "
                         "KTransformers takes the same number in all layers")  # fmt: skip
        try:
            n_layer = natural(settings_of(plan), "n_layer")
        except InputError as error:
            return [*lines, str(error)]
        last = int(plan.groups[-1].label)
        if n_layer is None:
            lines.append(
                "engine.settings.n_layer: is not there; expected the number of all layers, dense ones included"
            )
        elif not last < n_layer <= 1024:
            lines.append(f"engine.settings.n_layer: found {n_layer}, expected {last + 1} to 1024")
        return lines

    def check_name(self, output: Path) -> None:
        """KTransformers reads counts by the file's ending (`kt_ep_wrapper.py` 4626); with another it takes none."""
        if output.suffix != ".pt":
            raise InputError(f"{output}: KTransformers reads counts only from a name that ends in .pt; name one")

    def content(self, plan: Plan, layers: Sequence[LayerChoice], statistics: Statistics | None) -> bytes:
        """Returns a `.pt` file with a count of 1 for each planned expert, shape [1, all layers, experts]."""
        from exporter.experts.torch_bytes import logical_count

        counts = np.zeros((natural(settings_of(plan), "n_layer") or 0, layers[0].n_expert), dtype=np.int32)
        for each in layers:
            counts[each.layer, list(each.placed)] = 1
        return logical_count(counts)

    def looks_like(self, start: bytes) -> bool:
        """Says whether it is a `.pt` file with counts of experts."""
        return start.startswith((b"PK\x03\x04", b"\x80\x02")) and b"logical_count" in start

    def load(self, path: Path, plan: Plan | None) -> Loaded:
        """Returns what KTransformers ends with."""
        return rule.load(path, plan)

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns the server's command; words in capitals stand for what the plan does not know."""
        settings = settings_of(plan)
        total = sum(group.units or 0 for group in plan.groups)
        # Where the engine counts dense layers as well, its ratio is one of more experts.
        if counted := settings.get("counted_layers"):
            total = int(counted) * (plan.groups[0].units or 0)
        ratio = gpu_experts_ratio(sum(plan.solved_list), total)
        return (
            f"python -m sglang.launch_server --model-path {model_of(plan)} --kt-weight-path KT_WEIGHT_PATH "
            f"--kt-method KT_METHOD --kt-gpu-experts-ratio {ratio!r} --kt-expert-placement-strategy frequency "
            f"--init-expert-location {shlex.quote(str(output))} --tp-size {settings.get('tp', 'TP_SIZE')} "
            f"--max-total-tokens {settings.get('context', 'MAX_TOTAL_TOKENS')}",
        )


WRITER = KTransformersWriter()
