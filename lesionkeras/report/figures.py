"""The report's pictures, each as the bytes of a PNG.

Matplotlib is imported when a picture is drawn, and without pyplot: no window, no global state.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionkeras.report.tables import P1_TABLE_1, SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
MAX_EXAMPLES = 12
EXAMPLE_COLUMNS = 4
BODY_UNIT, BODY_MARGIN = 0.05, 0.05  # darker is air; of the body's larger side
# Colours that stay apart for colour-blind readers (Okabe and Ito 2008); mAP in P1's own, Figure 5.
BLUE, TRUTH, PREDICTION = "#0072b2", "#56d4ff", "#ffa600"
ORANGE, RED, GREY = "#ff7f0e", "#d62728", "#555555"
PAPER_BLUES = ("#c6dbef", "#9ecae1", "#bdbdbd", "#969696")
# Keeps figures readable where a line or a bar passes behind them.
_TEXT_GROUND = {"facecolor": "white", "edgecolor": "none", "pad": 1.0, "alpha": 0.85}
WANTED_ANCHOR_SHARE = 0.95  # below it the page warns


def draw_training(log_rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws P1's Figure 5: training loss, and mAP50 (orange) with mAP50-95 (red), by epoch.

    Args:
        log_rows: Rows of log.csv: epoch, loss, and val_map50 and val_map50_95 where validated.

    Returns:
        A PNG.
    """
    figure, (left, right) = make_figure(1, 2, width_in=9.5, height_in=3.6)
    epochs = column(log_rows, "epoch")
    for name, style, label in (
        ("loss", "-", "all"),
        ("class_loss", "--", "class"),
        ("box_loss", ":", "box"),
    ):
        plot_defined(left, epochs, column(log_rows, name), label, color=BLUE, linestyle=style)
    left.set(xlabel="Epoch", ylabel="Training loss", title="Training loss")
    if left.get_lines():
        left.set_ylim(bottom=0)
    for name, color, label in (
        ("val_map50", ORANGE, "mAP50"),
        ("val_map50_95", RED, "mAP50-95"),
    ):
        plot_defined(right, epochs, column(log_rows, name), label, color=color)
    right.set(xlabel="Epoch", ylabel="mAP (share)", title="Validation mAP", ylim=(0, 1.02))
    for axes in (left, right):
        finish_epochs(axes, len(log_rows))
        if len(axes.get_lines()) > 1:
            axes.legend(frameon=False)
    return to_png(figure)


def draw_examples(examples: Sequence[Mapping[str, Any]], score_threshold: float = 0.0) -> bytes:
    """Draws P1's Figure 6: images with truth (solid) and predictions (dashed, with score).

    Args:
        examples: "image_unit" [H, W] or [H, W, 3] (the middle channel is shown) in 0..1 of the
            window; "truth" [n, 4], "boxes" [m, 4] xyxy px of the image; "scores" [m]; "title".
            The first 12 are drawn.
        score_threshold: Predictions from here on are drawn.

    Returns:
        A PNG.
    """
    shown = list(examples[:MAX_EXAMPLES])
    columns = max(1, min(EXAMPLE_COLUMNS, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure, grid = make_figure(rows, columns, width_in=3.1 * columns, height_in=3.35 * rows + 0.4)
    for axes, example in zip(grid, shown, strict=False):
        _draw_example(axes, example, score_threshold)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    for place, axes in enumerate(grid[: len(shown)]):
        if place % columns == 0:
            axes.set_ylabel("y in px")
        if place >= len(shown) - columns:
            axes.set_xlabel("x in px")
    _add_box_legend(figure)
    return to_png(figure)


def _draw_example(axes: Axes, example: Mapping[str, Any], score_threshold: float) -> None:
    from matplotlib.patheffects import withStroke

    image = np.asarray(example["image_unit"], np.float32)
    image = image[..., image.shape[-1] // 2] if image.ndim == 3 else image
    height, width = image.shape
    axes.imshow(image, cmap="gray", vmin=0, vmax=1, extent=(0, width, height, 0))
    truth = _real_boxes(example["truth"])
    scores = np.asarray(example.get("scores", ())).reshape(-1)
    boxes = np.asarray(example.get("boxes", ())).reshape(-1, 4)
    is_shown = (scores >= score_threshold) & (boxes[:, 2] > boxes[:, 0])
    left, top, right, bottom = find_body(image, np.concatenate([truth, boxes[is_shown]]))
    for box in truth:
        _add_box(axes, box, TRUTH, "-")
    for box, score in zip(boxes[is_shown], scores[is_shown], strict=True):
        _add_box(axes, box, PREDICTION, "--")
        # Above the box, or below it where it touches the top edge.
        above = box[1] > top + 0.08 * (bottom - top)
        gap = 0.012 * (bottom - top)
        axes.text(
            min(float(box[0]), left + 0.85 * (right - left)),
            box[1] - gap if above else box[3] + gap,
            f"{score:.2f}",
            color=PREDICTION,
            fontsize=9,
            fontweight="bold",
            va="bottom" if above else "top",
            path_effects=[withStroke(linewidth=2, foreground="black")],
        )
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[left, right], yticks=[top, bottom])
    axes.tick_params(labelsize=8)
    axes.set_title(str(example.get("title", "")), fontsize=9)


def find_body(image_unit: np.ndarray, boxes: np.ndarray) -> tuple[int, int, int, int]:
    """Find the part of a slice that is worth looking at: the body and all boxes, square.

    Args:
        image_unit: [H, W], 0..1 of the window.
        boxes: [n, 4] xyxy px.

    Returns:
        Left, top, right and bottom in px; within the image where it is square.

    >>> body = np.zeros((100, 100))
    >>> body[40:60, 30:70] = 0.5
    >>> find_body(body, np.zeros((0, 4)))
    (28, 28, 72, 72)
    """
    import cv2

    height, width = image_unit.shape
    bright = (image_unit > BODY_UNIT).astype(np.uint8)
    _, _, pieces, _ = cv2.connectedComponentsWithStats(bright)
    sizes = pieces[:, cv2.CC_STAT_AREA].copy()
    sizes[0] = 0  # what is dark; taken where nothing is bright
    x, y, across, down, _ = pieces[sizes.argmax()]
    low = np.min([*boxes[:, :2], (x, y)], axis=0)
    high = np.max([*boxes[:, 2:], (x + across, y + down)], axis=0)
    side = min((high - low).max() * (1 + 2 * BODY_MARGIN), max(height, width))
    start = np.clip((low + high - side) / 2, 0, np.maximum((width - side, height - side), 0))
    left, top = (int(value) for value in np.rint(start))
    return left, top, left + round(side), top + round(side)


def _real_boxes(boxes: Any) -> np.ndarray:
    rows = np.asarray(boxes, np.float64).reshape(-1, 4)
    return rows[rows[:, 2] > rows[:, 0]]


def _add_box(axes: Axes, box: np.ndarray, color: str, style: str) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (box[0], box[1]),
            box[2] - box[0],
            box[3] - box[1],
            fill=False,
            edgecolor=color,
            linestyle=style,
            linewidth=1.5,
        )
    )


def _add_box_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=TRUTH, linewidth=2, label="truth"),
        Line2D([], [], color=PREDICTION, linewidth=2, linestyle="--", label="prediction, score"),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=2,
        facecolor="#222222",
        labelcolor="white",
        fontsize=9,
    )


def draw_comparison(metrics: Mapping[str, Any], run_name: str) -> bytes:
    """Draws P1's Figure 7, its four models, with this run beside them.

    Args:
        metrics: As `evaluate_detections` returns them.
        run_name: Of this run, for the legend.

    Returns:
        A PNG; this run's bars carry their 95 % intervals.
    """
    figure, (axes,) = make_figure(1, 1, width_in=9.5, height_in=4.4)
    places, width = np.arange(len(SCORES)), 0.16
    for i, (model, color) in enumerate(zip(P1_TABLE_1, PAPER_BLUES, strict=True)):
        values = [getattr(model, key) for key, _ in SCORES]
        axes.bar(places + (i - 2) * width, values, width, color=color, label=f"P1: {model.name}")
    ours = {
        part: np.array([to_number(metrics[key][part]) for key, _ in SCORES])
        for part in ("value", "low", "high")
    }
    at = places + 2 * width
    axes.bar(at, np.nan_to_num(ours["value"]), width, color=BLUE, label=f"this run: {run_name}")
    for x, value, bottom, top in zip(at, *ours.values(), strict=True):
        if not math.isnan(bottom):
            axes.plot([x, x], [bottom, top], color="black", linewidth=1.2)
        text = "n/a" if math.isnan(value) else f"{value:.2f}"
        peak = max(np.nan_to_num([value, top]))
        axes.text(
            x, peak + 0.02, text, ha="center", va="bottom", fontweight="bold", bbox=_TEXT_GROUND
        )
    axes.set_xticks(places, [heading for _, heading in SCORES])
    axes.set(xlabel="Score at IoU 0.5 (mAP50-95: IoU 0.50 to 0.95)", ylabel="Share", ylim=(0, 1.1))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return to_png(figure)


def draw_precision_recall(metrics: Mapping[str, Any]) -> bytes:
    """Draws the precision-recall curve with the operating point.

    Args:
        metrics: As `evaluate_detections` returns them.

    Returns:
        A PNG.
    """
    figure, (axes,) = make_figure(1, 1, width_in=5.2, height_in=4.0)
    curve = metrics["precision_recall_curve"]
    recall = np.asarray(curve["recall"], np.float64)
    precision = np.array([to_number(value) for value in curve["precision"]])
    # COCO's precision at r is the best at any recall from r on: a step, up to what is reached.
    reached = np.where(precision > 0, precision, np.nan)
    label = "all score thresholds (interpolated as COCO does)"
    plot_defined(axes, recall, reached, label, color=BLUE, drawstyle="steps-pre", marker="")
    point = (to_number(metrics["recall"]["value"]), to_number(metrics["precision"]["value"]))
    if not any(map(math.isnan, point)):
        label = f"score of {metrics['score_threshold']:.2f} and more"
        axes.plot(*point, "o", color=RED, markersize=8, label=label)
    iou = metrics.get("iou_threshold", 0.5)
    axes.set(
        xlabel=f"Recall (share of lesions found at IoU {iou:g})",
        ylabel="Precision (share of boxes that are right)",
        xlim=(0, 1.02),
        ylim=(0, 1.03),
    )
    axes.grid(alpha=0.3)
    if axes.get_lines():
        axes.legend(frameon=False, loc="lower left", fontsize=9)
    mark_if_empty(axes)
    return to_png(figure)


def draw_anchor_recall(anchor_recall: Any) -> bytes:
    """Draws the share of training boxes that an anchor reaches, by lesion size.

    Args:
        anchor_recall: With `rows` of (label, count, share).

    Returns:
        A PNG.
    """
    rows = [(str(label), int(count), float(share)) for label, count, share in anchor_recall.rows]
    bars = [(label, share, f"{share:.1%}\nof {count:,}") for label, count, share in rows]
    return _draw_bars(
        bars, "Share of boxes reached by an anchor", "Longer side of the box", WANTED_ANCHOR_SHARE
    )


def draw_recall_by_size(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws which share of the lesions of a size was found.

    Args:
        rows: {"label", "count", "found", "recall"}, recall None where there is no lesion.

    Returns:
        A PNG.
    """
    bars = [
        (
            str(row["label"]),
            float(row["recall"]),
            f"{row['recall']:.0%}\n{row['found']}/{row['count']}",
        )
        for row in rows
        if row["count"]
    ]
    return _draw_bars(bars, "Recall (share of lesions found)", "Lesion size", None)


def _draw_bars(
    bars: Sequence[tuple[str, float, str]], ylabel: str, xlabel: str, wanted: float | None
) -> bytes:
    figure, (axes,) = make_figure(1, 1, width_in=6.4, height_in=3.8)
    places = range(len(bars))
    heights = [height for _, height, _ in bars]
    colors = [RED if wanted is not None and height < wanted else BLUE for height in heights]
    axes.bar(places, heights, 0.6, color=colors)
    for place, (_, height, text) in zip(places, bars, strict=True):
        axes.text(
            place, height + 0.025, text, ha="center", va="bottom", fontsize=9, bbox=_TEXT_GROUND
        )
    if wanted is not None:
        axes.axhline(wanted, color=GREY, linestyle="--", linewidth=1, label=f"wanted: {wanted:.0%}")
        figure.legend(loc="outside upper right", frameon=False, fontsize=9)
    axes.set_xticks(places, [label for label, _, _ in bars])
    axes.set(xlabel=xlabel, ylabel=ylabel, ylim=(0, 1.2), yticks=np.arange(0, 1.01, 0.2))
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    mark_if_empty(axes)
    return to_png(figure)


def make_figure(
    rows: int, columns: int, *, width_in: float, height_in: float
) -> tuple[Figure, list[Axes]]:
    """Makes a figure without a window.

    Args:
        rows: Of axes.
        columns: Of axes.
        width_in: Inches.
        height_in: Inches.

    Returns:
        The figure and its axes, row by row.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width_in, height_in), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid.flat)


def to_png(figure: Figure) -> bytes:
    """Returns a figure as the bytes of a PNG; the same figure gives the same bytes."""
    stream = io.BytesIO()
    # No "Software" entry: the same numbers give the same bytes under another Matplotlib patch.
    figure.savefig(stream, format="png", metadata={"Software": None})
    return stream.getvalue()


def to_number(value: Any) -> float:
    """Returns a figure of a JSON or CSV file; NaN for None and for an empty cell."""
    return float("nan") if value is None or value == "" else float(value)


def column(rows: Sequence[Mapping[str, Any]], name: str) -> np.ndarray:
    """Returns a column of log.csv, float64; NaN where a row has none."""
    return np.array([to_number(row.get(name)) for row in rows], np.float64)


def plot_defined(axes: Axes, x: np.ndarray, y: np.ndarray, label: str, **style: Any) -> None:
    """Plots what is there, few points as dots; what not every epoch has is joined by a line."""
    defined = np.isfinite(x) & np.isfinite(y)
    dots = {"marker": "o" if np.count_nonzero(defined) <= 40 else "", "markersize": 3}
    if defined.any():
        axes.plot(x[defined], y[defined], label=label, **dots | style)


def finish_epochs(axes: Axes, num_epochs: int) -> None:
    """Ends a picture of curves by epoch: whole epochs, a grid, a word where nothing was."""
    axes.grid(alpha=0.3)
    axes.set_xlim(0, max(1, num_epochs) + 1)
    axes.locator_params(axis="x", integer=True)
    mark_if_empty(axes)


def mark_if_empty(axes: Axes) -> None:
    """Says so where nothing was plotted."""
    if not axes.lines and not axes.patches:
        axes.text(0.5, 0.5, "nothing recorded", transform=axes.transAxes, ha="center", color=GREY)
