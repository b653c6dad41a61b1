"""thecodacus/llama.cpp's slots: a profile with each planned expert once.

As its pull requests 5 to 8 (July 2026) describe it; not seen running.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.experts.choice import LayerChoice
from exporter.experts.rules import slots as rule
from exporter.experts.rules.loaded import Loaded
from exporter.experts.writer import ExpertWriter, first_part_of, one_device, same_number_everywhere, settings_of
from planner.base.outputs import SLOTS

if TYPE_CHECKING:
    from planner.activations.folder import Statistics
    from planner.plans.plan import Plan

_HEADER = b"layer,expert"


class SlotsWriter(ExpertWriter):
    """See `exporter.engines.Writer`."""

    name = "slots"
    file_kind = "list of experts"
    kind = SLOTS
    ending = ".slots.csv"

    def objections(self, plan: Plan) -> list[str]:
        """Returns what one number for all layers cannot say."""
        return [*one_device(plan), *same_number_everywhere(plan, "--moe-cache-slots", on_cpu=False)]

    def content(self, plan: Plan, layers: Sequence[LayerChoice], statistics: Statistics | None) -> bytes:
        """Returns a line for each planned expert."""
        rows = [b"%d,%d\n" % (each.layer, expert) for each in layers for expert in each.placed]
        return b"".join([_HEADER, b"\n", *rows])

    def looks_like(self, start: bytes) -> bool:
        """Says whether its first line is the header of such a profile."""
        return start.split(b"\n", 1)[0].rstrip(b"\r") == _HEADER

    def load(self, path: Path, plan: Plan | None) -> Loaded:
        """Returns what is in the cache."""
        return rule.load(path, plan)

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns the server's command."""
        return (
            f"llama-server -m {first_part_of(plan)} -c {settings_of(plan).get('context', 'CONTEXT')} -ncmoe 99 "
            f"--moe-cache-profile {shlex.quote(str(output))} --moe-cache-slots {plan.groups[0].placed}",
        )


WRITER = SlotsWriter()
