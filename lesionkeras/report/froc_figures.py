"""Pictures of what detectors find by what they wrongly show, and of P2's Figure 6."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lesionkeras.report.figures import (
    BLUE,
    GREY,
    column,
    finish_epochs,
    make_figure,
    plot_defined,
    to_number,
    to_png,
)
from lesionkeras.report.tables import P2_FROC_POINTS

# Okabe and Ito's, with a line style each, so that the curves stay apart in print.
_CURVE_STYLES = (
    {"color": BLUE, "linestyle": "-"},
    {"color": "#d55e00", "linestyle": "--"},
    {"color": "#009e73", "linestyle": "-."},
)
_POINT_MARKERS = ("s", "^", "v")
_LOSS_COLORS = (BLUE, "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")


def draw_froc(froc: Mapping[str, Any]) -> bytes:
    """Draws sensitivity by false positives an image, with 95 % intervals at the table's points.

    Args:
        froc: As `lesionkeras.metrics.froc_summary.evaluate_froc` returns it.

    Returns:
        A PNG.
    """
    figure, (axes,) = make_figure(1, 1, width_in=8.2, height_in=4.6)
    ticks = froc["fp_per_image"]
    rows = {row["label"]: row for row in froc["rows"] if row["convention"] == froc["convention"]}
    for number, (label, curve) in enumerate(froc["curves"].items()):
        style = _CURVE_STYLES[number % len(_CURVE_STYLES)]
        last = to_number(rows[label]["sensitivity"][-1]["value"])
        _draw_curve(axes, curve, (max(ticks), last), label, style)
        # Side by side, so that intervals at one number of false positives do not hide each other.
        _draw_intervals(axes, ticks, rows[label]["sensitivity"], 1.05 ** (number - 1), style)
    for (name, fp, sensitivity), marker in zip(P2_FROC_POINTS, _POINT_MARKERS, strict=True):
        axes.plot(
            fp,
            sensitivity,
            marker,
            color="white",
            markeredgecolor=GREY,
            markersize=7,
            label=name,
            linestyle="none",
        )
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(
        xlabel="False positives an image",
        ylabel="Sensitivity (share of lesions found)",
        xlim=(min(ticks) / 1.12, max(ticks) * 1.12),
        ylim=(-0.02, 1.02),
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return to_png(figure)


def _draw_curve(
    axes: Any,
    curve: Mapping[str, Any],
    end: tuple[float, float],
    label: str,
    style: Mapping[str, Any],
) -> None:
    """Draw the steps of a curve; it goes on flat to the right edge, where no more is shown."""
    last_fp, last = end
    if np.isnan(last):
        return
    fp = np.asarray(curve["fp_per_image"], np.float64)
    sensitivity = np.array([to_number(value) for value in curve["sensitivity"]])
    # A logarithmic axis has no 0: what is found before any false positive stands at the left edge.
    x = np.concatenate([[1e-3], np.maximum(fp, 1e-3), [max(fp.max(initial=0.0), 2 * last_fp)]])
    y = np.concatenate([[0.0], sensitivity, [sensitivity[-1] if len(fp) else last]])
    axes.plot(x, y, label=f"this run, {label}", drawstyle="steps-post", linewidth=1.8, **style)


def _draw_intervals(
    axes: Any,
    ticks: Sequence[float],
    scores: Sequence[Mapping[str, Any]],
    shift: float,
    style: Mapping[str, Any],
) -> None:
    for tick, score in zip(ticks, scores, strict=True):
        value, low, high = (to_number(score[part]) for part in ("value", "low", "high"))
        if np.isnan(value):
            continue
        axes.plot(tick * shift, value, "o", color=style["color"], markersize=4)
        if not np.isnan(low):
            axes.plot([tick * shift] * 2, [low, high], color=style["color"], linewidth=1, alpha=0.7)


def draw_losses(log_rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws P2's Figure 6: every part of the loss by epoch, in training and in validation.

    Args:
        log_rows: Rows of log.csv; columns that end on "loss" are drawn, left; those that begin with
            "val_" too, right.

    Returns:
        A PNG.
    """
    names = list(dict.fromkeys(name for row in log_rows for name in row if name.endswith("loss")))
    sides = [
        ("Training loss", [name for name in names if not name.startswith("val_")]),
        ("Validation loss", [name for name in names if name.startswith("val_")]),
    ]
    shown = [side for side in sides if side[1]] or sides[:1]
    figure, grid = make_figure(1, len(shown), width_in=4.75 * len(shown), height_in=3.8)
    epochs = column(log_rows, "epoch")
    for axes, (title, parts) in zip(grid, shown, strict=True):
        for name, color in zip(parts, _LOSS_COLORS * len(parts), strict=False):
            label = name.removeprefix("val_").removesuffix("loss").strip("_") or "all"
            text = label.replace("_", " ")
            plot_defined(axes, epochs, column(log_rows, name), text, color=color)
        axes.set(xlabel="Epoch", ylabel="Loss", title=title)
        finish_epochs(axes, len(log_rows))
        if axes.get_lines():
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False, fontsize=9)
    return to_png(figure)
