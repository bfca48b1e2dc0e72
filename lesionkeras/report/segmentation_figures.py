"""Pictures of a segmentation run, each as the bytes of a PNG; drawn as `report.figures` draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from lesionkeras.ct.window import window_numpy
from lesionkeras.report.figures import (
    BLUE,
    GREY,
    ORANGE,
    PREDICTION,
    RED,
    TRUTH,
    column,
    finish_epochs,
    make_figure,
    plot_defined,
    to_number,
    to_png,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LIVER, TUMOUR = 1, 2  # labels; the liver of a score is both
MARGIN_MM = 12.0  # about what is shown
LEAST_VIEW_MM = 60.0  # a small tumour is shown with what surrounds it
SCALE_BAR_MM = 20
LEGEND_INCHES = 5.0  # width of four words beside each other
SCORE_COLORS = (RED, BLUE, ORANGE, GREY)


def draw_contours(examples: Sequence[Mapping[str, Any]], window_hu: tuple[float, float]) -> bytes:
    """Draws the outlines of truth and prediction on CT slices: the liver, and its tumours larger.

    Args:
        examples: "image_hu" [H, W] HU, "truth" and "prediction" uint8 [H, W] of labels,
            "spacing_mm" (y, x) and "title"; a column each.
        window_hu: Low and high HU of black and white.

    Returns:
        A PNG.
    """
    columns = max(1, len(examples))
    figure, grid = make_figure(2, columns, width_in=3.6 * columns, height_in=7.6)
    rows = (grid[:columns], grid[columns:])
    for i, example in enumerate(examples):
        for axes, label in ((rows[0][i], LIVER), (rows[1][i], TUMOUR)):
            _draw_outlines(axes, example, window_hu, label)
        rows[0][i].set_title(str(example.get("title", "")), fontsize=10)
    if not examples:
        for axes in grid:
            axes.set_axis_off()
    _add_contour_legend(figure)
    return to_png(figure)


def _draw_outlines(
    axes: Axes, example: Mapping[str, Any], window_hu: tuple[float, float], label: int
) -> None:
    from matplotlib.patheffects import withStroke

    truth, prediction = np.asarray(example["truth"]), np.asarray(example["prediction"])
    pixel_y, pixel_x = (float(length) for length in example["spacing_mm"])
    height, width = truth.shape
    axes.imshow(
        window_numpy(np.asarray(example["image_hu"]), window_hu),
        cmap="gray",
        vmin=0,
        vmax=1,
        extent=(0, width * pixel_x, height * pixel_y, 0),
    )
    x_mm = (np.arange(width) + 0.5) * pixel_x
    y_mm = (np.arange(height) + 0.5) * pixel_y
    for mask, color, style in ((truth, TRUTH, "solid"), (prediction, PREDICTION, "dashed")):
        for least, line in ((LIVER, 1.0), (TUMOUR, 1.8)):
            inside = (mask >= least).astype(np.float32)
            if inside.min() < inside.max():
                axes.contour(
                    x_mm, y_mm, inside, [0.5], colors=color, linewidths=line, linestyles=style
                )
    left, right, top, bottom = _find_view(
        (truth >= label) | (prediction >= label), pixel_y, pixel_x
    )
    axes.set(xlim=(left, right), ylim=(bottom, top), xticks=[], yticks=[])
    x, y, name = left + 4, bottom - 4, f"{SCALE_BAR_MM} mm"
    ground = [withStroke(linewidth=3, foreground="black")]
    bar = [x, x + SCALE_BAR_MM], [y, y]
    axes.plot(*bar, color="black", linewidth=4.5)
    axes.plot(*bar, color="white", linewidth=2.5)
    axes.text(x, y - 2, name, color="white", fontsize=8, va="bottom", path_effects=ground)


def _find_view(shown: np.ndarray, pixel_y: float, pixel_x: float) -> tuple[float, ...]:
    """Left, right, top, bottom in mm of a square about what is shown; all of it if nothing is.

    The square lies inside the image where it fits.
    """
    shown = shown if shown.any() else np.ones_like(shown)
    spans = []
    for axis, length in ((0, pixel_x), (1, pixel_y)):
        at = np.flatnonzero(shown.any(axis=axis))
        spans.append((at[0] * length, (at[-1] + 1) * length))
    side = max(LEAST_VIEW_MM, *(high - low for low, high in spans)) + 2 * MARGIN_MM
    edges, extents = [], (shown.shape[1] * pixel_x, shown.shape[0] * pixel_y)
    for (low, high), extent in zip(spans, extents, strict=True):
        middle = (low + high) / 2
        if side <= extent:
            middle = min(max(middle, side / 2), extent - side / 2)
        edges += [middle - side / 2, middle + side / 2]
    return tuple(edges)


def _add_contour_legend(figure: Figure) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=TRUTH, linewidth=2, label="truth"),
        Line2D([], [], color=PREDICTION, linewidth=2, linestyle="--", label="prediction"),
        Line2D([], [], color="white", linewidth=2.5, label="tumour (thick)"),
        Line2D([], [], color="white", linewidth=1, label="liver (thin)"),
    ]
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=4 if figure.get_figwidth() >= LEGEND_INCHES else 2,
        facecolor="#222222",
        labelcolor="white",
        fontsize=9,
    )


def draw_curves(log_rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws the losses and the Dice of validation, by epoch.

    Args:
        log_rows: Rows of log.csv: epoch, loss, val_loss and every val_*_dice that is there.

    Returns:
        A PNG.
    """
    figure, (left, right) = make_figure(1, 2, width_in=9.5, height_in=3.6)
    epochs = column(log_rows, "epoch")
    for name, color, label in (("loss", BLUE, "training"), ("val_loss", ORANGE, "validation")):
        plot_defined(left, epochs, column(log_rows, name), label, color=color)
    left.set(xlabel="Epoch", ylabel="Loss", title="Loss")
    for name, color in zip(list_scores(log_rows), SCORE_COLORS, strict=False):
        label = name.removeprefix("val_").replace("_dice", "")
        plot_defined(right, epochs, column(log_rows, name), label, color=color)
    right.set(xlabel="Epoch", ylabel="Dice", title="Validation Dice", ylim=(0, 1.02))
    for axes in (left, right):
        finish_epochs(axes, len(log_rows))
        if axes.get_lines():
            axes.legend(frameon=False)
    return to_png(figure)


def list_scores(log_rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the columns of log.csv that are validation Dice, tumour first.

    >>> list_scores([{"loss": 1.0, "val_liver_dice": 0.9, "val_tumour_dice": 0.5}])
    ['val_tumour_dice', 'val_liver_dice']
    """
    names = {name for row in log_rows for name in row}
    found = [name for name in names if name.startswith("val_") and name.endswith("dice")]
    return sorted(found, key=lambda name: ("tumour" not in name, name))


def draw_lesion_sizes(lesions: Sequence[Mapping[str, Any]]) -> bytes:
    """Draws the Dice of each true lesion against its volume; those not found lie at 0.

    Args:
        lesions: {"volume_mm3", "dice" (None: not found), "detected"}.

    Returns:
        A PNG.
    """
    figure, (axes,) = make_figure(1, 1, width_in=7.0, height_in=4.2)
    volumes = np.array([float(row["volume_mm3"]) for row in lesions])
    dice = np.nan_to_num([to_number(row.get("dice")) for row in lesions])
    found = np.array([bool(row["detected"]) for row in lesions], bool)
    for chosen, color, marker, label in (
        (found, BLUE, "o", "found"),
        (~found, RED, "x", "not found"),
    ):
        if chosen.any():
            heights = np.where(chosen, dice, 0)[chosen]
            name = f"{label}: {int(chosen.sum())} of {len(lesions)}"
            axes.scatter(volumes[chosen], heights, c=color, marker=marker, s=34, label=name)
    axes.set(xlabel="Volume of the lesion (mm3)", ylabel="Dice of the lesion", ylim=(-0.04, 1.04))
    axes.grid(alpha=0.3)
    if len(lesions):
        axes.set_xscale("log")
        # A decade at least, so that the axis has labels where all lesions are of one size.
        axes.set_xlim(volumes.min() / 2, max(volumes.max() * 2, volumes.min() * 5))
        top = axes.secondary_xaxis("top", functions=(_to_diameter_mm, _to_volume_mm3))
        top.set_xlabel("Diameter of a ball of that volume (mm)")
        top.set_xticks(
            [d for d in (1, 2, 5, 10, 20, 50, 100, 200) if _is_within(d, axes.get_xlim())],
            minor=False,
        )
        top.set_xticks([], minor=True)
        top.xaxis.set_major_formatter("{x:g}")
        figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    else:
        axes.text(0.5, 0.5, "no lesion", transform=axes.transAxes, ha="center", color=GREY)
    return to_png(figure)


def _to_diameter_mm(volume_mm3: Any) -> Any:
    return np.cbrt(np.asarray(volume_mm3) * 6 / math.pi)


def _to_volume_mm3(diameter_mm: Any) -> Any:
    return np.asarray(diameter_mm) ** 3 * math.pi / 6


def _is_within(diameter_mm: float, limits_mm3: tuple[float, float]) -> bool:
    return limits_mm3[0] <= _to_volume_mm3(diameter_mm) <= limits_mm3[1]
