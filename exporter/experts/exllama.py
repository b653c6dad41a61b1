"""exllamav3: which experts come first in each layer, and how many at the end stay on the CPU.

The file is what `EXL3_MOE_CPU_SPLIT_STATS` names (`exporter.experts.rules.exllama` has the source): a count of 1 for
each planned expert and 0 for all others. `-mcs N` is one number for all layers.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.experts.choice import LayerChoice
from exporter.experts.rules import exllama as rule
from exporter.experts.rules.loaded import Loaded
from exporter.experts.writer import (
    ExpertWriter,
    missing_sizes,
    model_of,
    one_device,
    same_number_everywhere,
    settings_of,
)
from planner.base.outputs import EXLLAMAV3_COUNTS

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.plans.plan import Plan

_MODULE = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]*\.)*layers\.([0-9]{1,4})\.[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_START = re.compile(rb'\s*\{\s*"(?:[A-Za-z_]\w*\.)*layers\.[0-9]{1,4}\.[A-Za-z_]\w*"\s*:\s*\[')


def variable_form(counts: Mapping[str, Sequence[Any]]) -> bytes:
    """Returns the JSON that `EXL3_MOE_CPU_SPLIT_STATS` takes, a line for each layer."""
    lines = (f" {json.dumps(key)}: {json.dumps(list(row))}" for key, row in counts.items())
    return ("{\n" + ",\n".join(lines) + "\n}\n").encode()


class ExllamaWriter(ExpertWriter):
    """See `exporter.engines.Writer`."""

    name = "exllamav3"
    file_kind = "file of counts"
    kind = EXLLAMAV3_COUNTS
    ending = ".exllamav3.json"

    def objections(self, plan: Plan) -> list[str]:
        """Returns what one number for all layers cannot say, and modules whose names the plan lacks."""
        lines = missing_sizes(plan) or [*one_device(plan), *same_number_everywhere(plan, "-mcs", on_cpu=True)]
        settings = settings_of(plan)
        for group in plan.groups:
            key = f"module.{group.label}"
            match = _MODULE.fullmatch(settings.get(key, ""))
            if key not in settings:
                lines.append(
                    f"engine.settings.{key}: is not there; expected the name of what holds the experts of layer "
                    f"{group.label}, such as model.layers.{group.label}.mlp"
                )
            elif match is None or int(match[1]) != int(group.label):
                lines.append(
                    f"engine.settings.{key}: found {settings[key][:80]!r}, expected a name such as "
                    f"model.layers.{group.label}.mlp"
                )
        return lines

    def content(self, plan: Plan, layers: Sequence[LayerChoice], statistics: Statistics | None) -> bytes:
        """Returns the JSON."""
        settings = settings_of(plan)
        counts = {}
        for each in layers:
            row = [0] * each.n_expert
            for expert in each.placed:
                row[expert] = 1
            counts[settings[f"module.{each.layer}"]] = row
        return variable_form(counts)

    def looks_like(self, start: bytes) -> bool:
        """Says whether it is JSON whose first key is a layer's module."""
        return _START.match(start) is not None

    def load(self, path: Path, plan: Plan | None) -> Loaded:
        """Returns what exllamav3 ends with."""
        return rule.load(path, plan)

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns the command; SCRIPT stands for any of exllamav3's programs, which all take these options."""
        on_cpu = (plan.groups[0].units or 0) - plan.groups[0].placed
        return (
            f"EXL3_MOE_CPU_SPLIT_STATS={shlex.quote(str(output))} EXL3_MOE_CPU_SWAP=0 python SCRIPT "
            f"-m {model_of(plan)} -mcs {on_cpu} -cs {settings_of(plan).get('context', 'CACHE_SIZE')}",
        )


WRITER = ExllamaWriter()
