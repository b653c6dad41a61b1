"""The short way to plans and studies, for notebooks and scripts; `docs/api.md` is its page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, overload

from planner.catalogue.entries import load_catalogue
from planner.planning import Planning, PlanRequest, make_plan
from planner.studies.answer import Answer
from planner.studies.study import Study, load_study, study_of
from planner.studies.sweep import sweep


def plan(
    model: str | Path,
    *,
    vram_budget: int | str | None = None,
    gpu: int | str | None = None,
    statistics: str | Path | None = None,
    engine: str = "powerinfer",
    context: int | None = None,
    kv_type: str | None = None,
    **fields: Any,
) -> Planning:
    """Returns the plan of a model: which units go on the GPU, with the account, the proof and what it was made from.

    Args:
        model: the model file.
        vram_budget: what the engine may take: bytes, or text such as `8GiB`. None asks the GPU.
        gpu: the GPU whose free memory counts, by index or UUID; None for the one that the engine would use.
        statistics: the recorded counts; None for where the engine looks.
        engine: a name of `planner.engines.registry`.
        context: tokens of context; None, here and for the next one, is the engine's default.
        kv_type: type of the KV cache, such as `f16`.
        **fields: further fields of `planner.PlanRequest`.

    Raises:
        InputError: a file, a size or a name is not what it must be; the message is one line.
        NoAnswerError: the model does not fit the budget, or no placement holds all constraints.
        OSError: a file cannot be read.

    Example:
        >>> import planner
        >>> planned = planner.plan("try/relu-llama-7b.powerinfer.gguf", vram_budget="10GiB")  # doctest: +SKIP
        >>> planned.hit_rate  # doctest: +SKIP
        0.69...
    """
    # The request turns text into paths and bytes, and refuses what is neither.
    asked: dict[str, Any] = {
        "model": model,
        "vram_budget_bytes": vram_budget,
        "gpu": gpu,
        "activations": statistics,
        "engine": engine,
        "context": context,
        "kv_type": kv_type,
        **fields,
    }
    return make_plan(PlanRequest(**asked))


class StudyAnswers(Sequence[Answer]):
    """The answers of a study, one for each cell, in the order of its cells.

    Attributes:
        study: the study.
        answers: one for each cell.
    """

    def __init__(self, study: Study, answers: Sequence[Answer]) -> None:
        self.study = study
        self.answers = tuple(answers)

    def __len__(self) -> int:
        return len(self.answers)

    @overload
    def __getitem__(self, index: int) -> Answer: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Answer]: ...
    def __getitem__(self, index: int | slice) -> Answer | Sequence[Answer]:
        return self.answers[index]

    def __iter__(self) -> Iterator[Answer]:
        return iter(self.answers)

    def __repr__(self) -> str:
        aims = [answer for answer in self.answers if answer.verdict]
        meeting = sum(answer.verdict == "meets" for answer in aims)
        targets = f", {meeting} of {len(aims)} meet their targets" if aims else ""
        return f"StudyAnswers({self.study.title!r}, {len(self)} cells{targets})"

    def to_dicts(self) -> list[dict[str, Any]]:
        """Returns the answers as JSON values, as `hotsplit whatif --json` prints them."""
        return [answer.to_dict() for answer in self.answers]

    def _repr_html_(self) -> str:
        """Returns the answers as a table, for notebooks."""
        rows = (
            (
                answer.name,
                answer.path.words,
                "" if answer.hit_rate is None else f"{answer.hit_rate:.1%}",
                "unknown" if answer.tokens_per_s is None else f"{answer.tokens_per_s:.1f}",
                answer.verdict,
            )
            for answer in self.answers
        )
        return html_table(("cell", "engine", "hit rate", "tokens/s", "targets"), rows)


def whatif(
    study: str | Path | Mapping[str, Any], *, catalogue: str | Path | None = None, processes: int = 1
) -> StudyAnswers:
    """Returns the answers of a what-if study.

    Args:
        study: a YAML file, or a mapping with the keys of one.
        catalogue: a directory with a catalogue of your own.
        processes: how many to use; more than one need the usual `if __name__ == "__main__":` in a script.

    Raises:
        FaultsError: every fault of the study, one line each (an `InputError`).
        OSError: a file cannot be read.

    Example:
        >>> import planner
        >>> answers = planner.whatif({"models": "relu-llama-7b", "gpus": "rtx-4060", "hosts": "ddr5-5600-dual"})
        >>> len(answers)
        1
    """
    directory = None if catalogue is None else Path(catalogue)
    if isinstance(study, Mapping):
        loaded = study_of(study, load_catalogue(directory))
    else:
        loaded = load_study(Path(study), catalogue_directory=directory)
    return StudyAnswers(loaded, sweep(loaded.cells, loaded.catalogue, processes=processes))


def html_table(headings: Sequence[str], rows: Iterator[Sequence[str]]) -> str:
    """Returns a plain HTML table; every cell is escaped."""
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
