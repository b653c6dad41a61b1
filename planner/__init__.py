"""Plans which parts of a model go on the GPU: how many bytes there are, which units fit, and a proof. No torch.

The names in `__all__` are the library; `docs/api.md` describes each. They are loaded when they are first used, so that
`import planner` itself brings in no library.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from planner.activations.folder import Statistics as Statistics
    from planner.activations.folder import read_statistics as read_statistics
    from planner.api import StudyAnswers as StudyAnswers
    from planner.api import plan as plan
    from planner.api import whatif as whatif
    from planner.base.errors import HotsplitError as HotsplitError
    from planner.base.errors import InputError as InputError
    from planner.base.errors import NoAnswerError as NoAnswerError
    from planner.catalogue.entries import load_catalogue as load_catalogue
    from planner.planning import Planning as Planning
    from planner.planning import PlanRequest as PlanRequest
    from planner.planning import make_plan as make_plan
    from planner.plans.file import read_plan as read_plan
    from planner.plans.file import write_plan as write_plan
    from planner.plans.plan import Plan as Plan
    from planner.studies.study import load_study as load_study

__version__ = "0.1.0"

_HOMES = {
    "HotsplitError": "planner.base.errors",
    "InputError": "planner.base.errors",
    "NoAnswerError": "planner.base.errors",
    "Plan": "planner.plans.plan",
    "PlanRequest": "planner.planning",
    "Planning": "planner.planning",
    "Statistics": "planner.activations.folder",
    "StudyAnswers": "planner.api",
    "load_catalogue": "planner.catalogue.entries",
    "load_study": "planner.studies.study",
    "make_plan": "planner.planning",
    "plan": "planner.api",
    "read_plan": "planner.plans.file",
    "read_statistics": "planner.activations.folder",
    "whatif": "planner.api",
    "write_plan": "planner.plans.file",
}

__all__ = [
    "HotsplitError",
    "InputError",
    "NoAnswerError",
    "Plan",
    "PlanRequest",
    "Planning",
    "Statistics",
    "StudyAnswers",
    "load_catalogue",
    "load_study",
    "make_plan",
    "plan",
    "read_plan",
    "read_statistics",
    "whatif",
    "write_plan",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
