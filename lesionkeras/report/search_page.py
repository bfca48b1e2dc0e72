"""The page of a search: its trials as a table and, field by field, as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lesionkeras.recipe import format_value
from lesionkeras.report.page import (
    Block,
    Notice,
    Paragraph,
    Picture,
    Scores,
    Section,
    Table,
    write_report,
)
from lesionkeras.training.search import SearchPlan, TrialResult, choose_winner
from lesionkeras.training.space import Dimension, parse_space

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PANEL_INCHES = 3.2
_PANELS_A_ROW = 3
_DPI = 110
_LOG_MARGIN = 1.3  # room beside the ends of a logarithmic range


def write_search_report(path: Path, plan: SearchPlan, results: Sequence[TrialResult]) -> Path:
    """Writes `report.html` of a search.

    Args:
        path: The HTML file; its folder exists.
        plan: What was searched.
        results: All trials, one of them completed.

    Returns:
        The path.

    Raises:
        RunError: No trial was completed.
    """
    winner = choose_winner(list(results))
    failed = [result for result in results if result.status == "failed"]
    command = f"python -m experiments.{plan.experiment} --recipe {path.parent / 'winner.json'}"
    summary: list[Block] = [
        Paragraph(
            f"{len(results)} trials of {plan.experiment} from recipe {plan.recipe.name!r}, "
            f"proposed by {plan.tuner} search. Scores are of validation patients only, and the "
            "winner's is the best of many: expect less on patients that no trial saw."
        ),
        Scores([(winner.metric, f"{winner.score:.3f}", f"trial {winner.number}")]),
        Paragraph(f"Train the winner: {command}"),
    ]
    if failed:
        reason = f"{failed[0].reason} (trial {failed[0].number})"
        summary.append(Notice(f"{len(failed)} of {len(results)} trials failed.", reason))
    dimensions = parse_space(plan.space, plan.recipe)
    fields = ", ".join(dimension.path for dimension in dimensions)
    picture = Picture(
        draw_search(dimensions, results),
        f"{winner.metric} of every trial against {fields}",
        f"{winner.metric} by field; filled: the winner; crosses: failed trials.",
    )
    sections = [Section("Fields", [picture]), Section("Trials", [_build_table(results, winner)])]
    return write_report(path, f"Search of {plan.experiment}", summary, sections)


def draw_search(dimensions: Sequence[Dimension], results: Sequence[TrialResult]) -> bytes:
    """Draws one panel a dimension: its values across, the score upwards.

    Args:
        dimensions: The search space.
        results: All trials, one of them completed.

    Returns:
        A PNG's bytes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    num_columns = min(_PANELS_A_ROW, len(dimensions))
    num_rows = math.ceil(len(dimensions) / num_columns)
    size = (_PANEL_INCHES * num_columns, _PANEL_INCHES * num_rows)
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel()
    for panel, dimension in zip(panels, dimensions, strict=False):
        _draw_panel(panel, dimension, results)
    for panel in panels[len(dimensions) :]:
        panel.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _draw_panel(panel: Axes, dimension: Dimension, results: Sequence[TrialResult]) -> None:
    winner = choose_winner(list(results))
    completed = [result for result in results if result.status == "completed"]
    lowest = min(result.score for result in completed)
    for result in results:
        if result.status == "running":
            continue
        value = result.values[dimension.path]
        across = dimension.choices.index(value) if dimension.choices else value
        if result in completed:
            face = "tab:blue" if result is winner else "none"
            panel.scatter(across, result.score, facecolors=face, edgecolors="tab:blue")
        else:
            panel.scatter(across, lowest, marker="x", color="tab:red")
    panel.set_xlabel(dimension.path)
    panel.set_ylabel(winner.metric)
    panel.grid(alpha=0.3)
    if dimension.is_log:
        panel.set_xscale("log")
        panel.set_xlim(dimension.low / _LOG_MARGIN, dimension.high * _LOG_MARGIN)
        panel.xaxis.set_minor_formatter("")  # its numbers would lie over each other
    if dimension.choices:
        panel.set_xticks(range(len(dimension.choices)), dimension.choices)
        panel.set_xlim(-0.5, len(dimension.choices) - 0.5)


def _build_table(results: Sequence[TrialResult], winner: TrialResult) -> Table:
    paths = list(dict.fromkeys(path for result in results for path in result.values))
    ranked = sorted(results, key=lambda each: (each.status != "completed", -_order(each)))
    rows = [
        [
            str(result.number),
            f"{result.score:.3f}" if result.status == "completed" else result.status,
            *[_shorten(result.values.get(path, "")) for path in paths],
            f"{result.seconds:.0f}",
            result.reason,
        ]
        for result in ranked
    ]
    header = ["trial", winner.metric, *paths, "seconds", "why it failed"]
    return Table(header, rows, "Best first; trials.csv holds the same.", range(2), strong=[0])


def _order(result: TrialResult) -> float:
    return result.score if result.status == "completed" else 0.0


def _shorten(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else format_value(value)
