"""What the writers of expert files have in common; each engine's module adds its form, its rule and its command."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.experts.choice import LayerChoice, choose
from exporter.experts.plan_checks import disagreements
from exporter.experts.verify import verify_file
from planner.base.errors import FaultsError, InputError
from planner.base.outputs import Kind, replacing

if TYPE_CHECKING:
    from exporter.experts.rules.loaded import Loaded
    from planner.activations.folder import Statistics
    from planner.engines.engine import EngineModel
    from planner.plans.plan import Plan

_START_BYTES = 8192


class ExpertWriter:
    """See `exporter.engines.Writer`. A subclass sets the attributes and fills the methods that raise.

    Attributes:
        kind: whose files may be replaced.
        ending: what is added to the model's name for the file beside it.
    """

    name: str
    file_kind: str
    kind: Kind
    ending: str

    def content(self, plan: Plan, layers: Sequence[LayerChoice], statistics: Statistics | None) -> bytes:
        """Returns the file."""
        raise NotImplementedError

    def objections(self, plan: Plan) -> list[str]:
        """Returns why the engine cannot express a plan that is sound in itself, one line each."""
        raise NotImplementedError

    def looks_like(self, start: bytes) -> bool:
        """Says whether a file that begins with these bytes is one of this engine's."""
        raise NotImplementedError

    def load(self, path: Path, plan: Plan | None) -> Loaded:
        """Returns what the engine makes of a file (`exporter.experts.rules`)."""
        raise NotImplementedError

    def next_steps(self, plan: Plan, output: Path) -> Sequence[str]:
        """Returns the engine's command line."""
        raise NotImplementedError

    def output_beside(self, model: Path) -> Path:
        """Returns a name next to the model's; these engines take the file's path as an option."""
        return model.with_name(model.name + self.ending)

    def check_model(self, model: EngineModel) -> str | None:
        """Returns the engine's first objection to the model."""
        return f"{model.source}: {model.objections[0]}" if model.objections else None

    def write(
        self,
        plan: Plan,
        statistics: Statistics | None,
        output: Path,
        *,
        model: EngineModel | None,
        device: str,
        force: bool,
        note: Callable[[str], None],
        where: str,
    ) -> None:
        """Writes the file; see `exporter.engines.Writer`."""
        lines = disagreements(plan, engine=self.name, model=model, statistics=statistics) or self.objections(plan)
        if lines:
            raise FaultsError(f"{where}: {line}" for line in lines)
        self.check_name(output)
        layers = choose(plan, statistics, device=device, note=note)
        content = self.content(plan, layers, statistics)
        with replacing(output, self.kind, force=force) as staged_path:
            staged_path.write_bytes(content)

    def check_name(self, output: Path) -> None:
        """Refuses a name that the engine would not read."""

    def recognises(self, path: Path) -> bool:
        """Says whether a file is one of this engine's, from its first bytes."""
        if not path.is_file():
            return False  # a pipe might be waited for without an end
        with open(path, "rb") as file:
            return self.looks_like(file.read(_START_BYTES))

    def verify(
        self, path: Path, *, model: EngineModel | None, statistics: Statistics | None, plan: Plan | None
    ) -> list[str]:
        """Returns the faults of a file (`exporter.experts.verify`)."""
        if plan is not None and (lines := self.objections(plan)):
            return [f"plan: {line}" for line in lines]
        return verify_file(path, self.load, engine=self.name, model=model, statistics=statistics, plan=plan)

    def notes(self, path: Path, statistics: Statistics | None) -> list[str]:
        """Returns nothing: what a sound file says is all there is to know."""
        return []


def settings_of(plan: Plan) -> dict[str, str]:
    """Returns the engine's settings as the plan has them."""
    return plan.engine.settings if plan.engine is not None else {}


def model_of(plan: Plan) -> str:
    """Returns the model's path for a command line, or a word that stands for it."""
    return shlex.quote(plan.model.path) if plan.model is not None else "MODEL"


def first_part_of(plan: Plan) -> str:
    """Returns the model's path for llama.cpp's command line: of a file in several parts the first."""
    return re.sub(r"-[0-9]{5}(-of-[0-9]{5}\.gguf)", r"-00001\1", model_of(plan))


def same_number_everywhere(plan: Plan, option: str, *, on_cpu: bool) -> list[str]:
    """Returns an objection when an option that holds for all layers would have to differ between them.

    Args:
        plan: a plan without contradictions.
        option: as in `-mcs`.
        on_cpu: whether it is the experts that are not placed that it counts.
    """
    numbers = {group.label: (group.units or 0) - group.placed if on_cpu else group.placed for group in plan.groups}
    first = plan.groups[0].label
    other = next((label for label, number in numbers.items() if number != numbers[first]), None)
    if other is None:
        return []
    place = "stay on the CPU" if on_cpu else "go on the GPU"
    return [
        f"units.groups: {numbers[first]} experts of layer {first} and {numbers[other]} of layer {other} {place}; "
        f"{option} takes one number for all layers, ktransformers and hot-cache take any"
    ]


def missing_sizes(plan: Plan) -> list[str]:
    """Returns an objection when the plan does not say how many experts a layer has."""
    lacking = next((number for number, group in enumerate(plan.groups) if group.units is None), None)
    return [] if lacking is None else [f"units.groups[{lacking}].units: is not there; expected the layer's experts"]


def one_device(plan: Plan) -> list[str]:
    """Returns an objection when the plan divides experts among devices and the engine cannot."""
    names = sorted({name for group in plan.groups for name in group.ids or ()})
    if len(names) < 2:
        return []
    return [f"units.groups: place experts on {', '.join(names)}; of these engines only hot-cache divides them"]


def natural(settings: dict[str, str], key: str) -> int | None:
    """Returns a setting that is a whole number.

    Raises:
        InputError: it is something else.
    """
    said = settings.get(key)
    if said is None:
        return None
    if not (said.isascii() and said.isdigit() and len(said) < 16):
        raise InputError(f"engine.settings.{key}: found {said[:40]!r}, expected a whole number")
    return int(said)
