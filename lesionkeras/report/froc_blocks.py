"""What a page says of FROC: the curve, the table in every convention, lesions by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lesionkeras.metrics.froc_matching import CONVENTIONS
from lesionkeras.report.froc_figures import draw_froc
from lesionkeras.report.page import Block, Paragraph, Picture, Table
from lesionkeras.report.tables import P2_FIGURE_3, P2_SOURCE

SHOWN_BY_SIZE = (0.5, 1.0, 2.0, 4.0)  # false positives an image: MULAN's
_WORDS = {
    "all_hits": "a box finds every lesion that it meets, and further boxes on a found lesion "
    "count nowhere",
    "one_to_one": "a lesion takes one box, and each further one is a false positive",
    "any_hit": "a box is right if its overlap with some lesion is above the threshold, further "
    "ones too",
}


def build_froc(froc: Mapping[str, Any]) -> list[Block]:
    """Returns picture and tables.

    Args:
        froc: As `lesionkeras.metrics.froc_summary.evaluate_froc` returns it.
    """
    blocks: list[Block] = [
        draw_picture(froc),
        _build_main(froc),
        _build_conventions(froc),
    ]
    if froc["by_size"]:
        blocks.append(_build_sizes(froc))
    return blocks


def draw_picture(froc: Mapping[str, Any]) -> Picture:
    """Draws the curve and says what is on it."""
    at_one = froc["fp_per_image"].index(1.0)
    told = ", ".join(
        f"{row['label']} {format_value(row['sensitivity'][at_one]['value'])}"
        for row in _list_main(froc)
    )
    return Picture(
        draw_froc(froc),
        f"Sensitivity rises with false positives an image; at 1 an image: {told}.",
        "Free-response ROC, lesions counted as in DeepLesion's evaluation; bars are 95 % intervals "
        f"over patients. Grey: other models on other images, from {P2_SOURCE}: no race.",
    )


def _list_main(froc: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for row in froc["rows"] if row["convention"] == froc["convention"]]


def _build_main(froc: Mapping[str, Any]) -> Table:
    main = _list_main(froc)
    rows = [
        [f"{fp:g}", *(format_score(row["sensitivity"][place]) for row in main)]
        for place, fp in enumerate(froc["fp_per_image"])
    ]
    means = main[0]["mean_over"]
    if means:
        named = ", ".join(f"{fp:g}" for fp in means)
        rows.append([f"mean of {named}", *(format_score(row["mean"]) for row in main)])
    convention = CONVENTIONS[froc["convention"]]
    caption = (
        f"Sensitivity (95 % over patients), {convention.name}'s convention: "
        f"{_WORDS[convention.counting]}. IoBB is the intersection by the area of the box that was "
        f"predicted. {froc['detections_per_image']:.1f} boxes an image were given; where a curve "
        "ends before a number of false positives, its last value stands."
    )
    header = ["False positives an image", *(row["label"] for row in main)]
    return Table(header, rows, caption, range(len(header)), strong=[len(rows) - 1] * bool(means))


def _build_conventions(froc: Mapping[str, Any]) -> Table:
    rows = []
    for row in froc["rows"]:
        sign = "above " if row["is_strict"] else ""
        values = [format_value(score["value"]) for score in row["sensitivity"]]
        mean = format_value(row["mean"]["value"]) if row["mean"] else ""
        label = row["label"].replace(" ", f" {sign}", 1)
        rows.append([CONVENTIONS[row["convention"]].name, label, *values, mean])
    header = ["Convention", "Overlap", *(f"{fp:g}" for fp in froc["fp_per_image"]), "mean"]
    caption = "; ".join(
        f"{way.name}: {_WORDS[way.counting]} ({way.source})" for way in CONVENTIONS.values()
    )
    caption = (
        f"Sensitivity by false positives an image. {caption}. The mean is over .5, 1, 2 and 4 "
        "(DeepLesion) or .125 to 8 (nnDetection)."
    )
    return Table(header, rows, caption, range(2, len(header)), folded="Counted in every convention")


def _build_sizes(froc: Mapping[str, Any]) -> Table:
    places = [froc["fp_per_image"].index(fp) for fp in SHOWN_BY_SIZE]
    rows = [
        [row["label"], row["size"], str(row["count"])]
        + [format_score(row["sensitivity"][place], 2) for place in places]
        for row in froc["by_size"]
    ]
    header = ["Overlap", "Lesion size", "Lesions", *(f"{fp:g} FP" for fp in SHOWN_BY_SIZE)]
    of_what = "lesions in mm" if froc["size_unit"] == "mm" else "boxes in px"
    caption = (
        "Sensitivity by size (95 % over patients) at false positives an image of all sizes; sizes "
        f"are the longer sides of {of_what}."
    )
    return Table(header, rows, caption, range(2, len(header)))


def build_p2_table(
    rows: Sequence[tuple[str, str, Mapping[str, Any] | None, Mapping[str, Any]]],
) -> Table:
    """Returns P2's Figure 3 with rows of ours below.

    Args:
        rows: Name, split, counts ("images" and "lesions") or None, and P2's figures as
            `lesionkeras.metrics.p2_protocol.evaluate_p2` returns them, of each.
    """
    cells = [
        [
            row.name,
            row.split,
            "",
            f"{row.sensitivity:.2f}" if row.sensitivity >= 0.1 else f"{row.sensitivity:.3f}",
            *("" if v is None else f"{v:g}" for v in (row.false_share, row.fp_per_image)),
            "" if row.box_mse is None else f"{row.box_mse:g}",
        ]
        for row in P2_FIGURE_3
    ]
    first_own = len(cells)
    for name, split, counts, scores in rows:
        told = f"{counts['lesions']} on {counts['images']} images" if counts else ""
        keys = ("sensitivity", "false_share", "fp_per_image")
        figures = [format_score(scores[key], 2) for key in keys]
        error = scores.get("box_mse")
        figures.append("" if error is None else format_value(error["value"], 5))
        cells.append([name, split, told, *figures])
    return Table(
        [
            "Model",
            "Split",
            "Lesions",
            "Sensitivity, IoU above 0.1",
            "False share of boxes",
            "False positives an image",
            "MSE of the surest box",
        ],
        cells,
        f"P2's Figure 3 and 5.2 ({P2_SOURCE}; DeepLesion's liver lesions, 1,989 training and 203 "
        "test images) with ours (95 % over patients). The error is of coordinates as shares of the "
        "image, to the nearest lesion. Other images, other lesions: no race.",
        numbers=range(3, 7),
        strong=range(first_own, len(cells)),
    )


def describe_gap(train: Mapping[str, Any], test: Mapping[str, Any]) -> Paragraph:
    """Says how far training and test patients lie apart: P2's over-fitting, in words.

    Args:
        train: P2's figures on training images.
        test: The same on test images.
    """
    seen, unseen = (part["sensitivity"]["value"] for part in (train, test))
    if seen is None or unseen is None:
        return Paragraph("Sensitivity is undefined on training or test images: no lesion there.")
    gap = seen - unseen
    text = (
        f"Sensitivity at IoU above 0.1 is {seen:.3f} on training and {unseen:.3f} on test images, "
        f"{abs(gap):.3f} {'less' if gap >= 0 else 'more'}"
    )
    if unseen < seen / 2:
        text += ": like P2's one-box models, this one knows its training images better than lesions"
    return Paragraph(f"{text}.")


def format_value(value: float | None, digits: int = 3) -> str:
    """Formats a score.

    >>> format_value(0.12345), format_value(None)
    ('0.123', 'undefined')
    """
    return "undefined" if value is None else f"{value:.{digits}f}"


def format_score(score: Mapping[str, Any], digits: int = 3) -> str:
    """Formats a score with its interval.

    >>> format_score({"value": 0.5, "low": 0.25, "high": 0.75})
    '0.500 (0.250 to 0.750)'
    """
    value = format_value(score["value"], digits)
    if score["low"] is None:
        return value
    return f"{value} ({score['low']:.{digits}f} to {score['high']:.{digits}f})"
