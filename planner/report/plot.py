"""Figures for papers: hit rate and decode speed over VRAM, a row for each model. The only module with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from planner.base.errors import InputError, install_advice
from planner.base.files import staged
from planner.base.outputs import GENERATOR
from planner.base.text import printable
from planner.studies.answer import Answer

if TYPE_CHECKING:
    from planner.report.charts import Series
    from planner.studies.study import Study

FORMATS = ("png", "pdf", "svg")

_INSTALL = f"matplotlib is not installed; {install_advice('plot')}"


def check_plot(path: Path) -> None:
    """Stops before the work when the plot could not be drawn after it.

    Raises:
        InputError: matplotlib is missing, or the file's name is not that of a known format.
    """
    if path.suffix[1:].lower() not in FORMATS:
        raise InputError(f"{path}: found the ending {path.suffix!r}, expected one of .png, .pdf, .svg")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise InputError(_INSTALL) from None


def plot(path: Path, study: Study, answers: Sequence[Answer]) -> None:
    """Draws the study into a file, whole or not at all; equal answers give equal bytes.

    Raises:
        InputError: as `check_plot`.
        OSError: the file cannot be written.
    """
    check_plot(path)
    import matplotlib

    from planner.report.series import series_of

    kind = path.suffix[1:].lower()
    # No dates and fixed identifiers, or the same answers would give other bytes every time.
    metadata: dict[str, dict[str, Any]] = {
        "png": {"Software": GENERATOR},
        "pdf": {"Creator": GENERATOR, "CreationDate": None},
        "svg": {"Creator": GENERATOR, "Date": None},
    }
    with matplotlib.rc_context({"svg.hashsalt": "hotsplit", "text.usetex": False, "text.parse_math": False}):
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        models = list(dict.fromkeys(answer.model for answer in answers))
        figure = Figure(figsize=(9, 3.2 * max(1, len(models))), layout="constrained")
        FigureCanvasAgg(figure)
        for row, model in enumerate(models):
            hits = series_of(answers, model, speed=False)
            speeds = series_of(answers, model, speed=True)
            for column, (series, name) in enumerate(((hits, "hit rate, %"), (speeds, "tokens/s"))):
                axes = figure.add_subplot(len(models), 2, 2 * row + column + 1)
                _draw(axes, series)
                axes.set(xlabel="VRAM, GiB", ylabel=name, title=printable(model, limit=60) if column == 0 else "")
                axes.set_ylim(bottom=0, top=103 if column == 0 else 1.05 * _most(series))
            if len(hits) > 1:
                figure.axes[-1].legend(fontsize="x-small")
        with staged(path) as staged_path:
            figure.savefig(staged_path, format=kind, dpi=200, metadata=metadata[kind])


def _draw(axes: Any, series: Sequence[Series]) -> None:
    for line in series:
        xs, ys = [point.x for point in line.points], [point.y for point in line.points]
        axes.plot(
            xs, ys, marker="o", markersize=4, linestyle="-" if line.joined else "none", label=printable(line.name)
        )
    axes.grid(alpha=0.3)
    axes.set_xlim(left=0)


def _most(series: Sequence[Series]) -> float:
    return max((point.y for line in series for point in line.points), default=1.0) or 1.0
