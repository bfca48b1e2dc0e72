"""Tables of a segmentation report, from the parts of metrics.json that they show.

Each takes its part as plain JSON and returns no block where there is nothing to show.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from lesionkeras.report.page import Block, Paragraph, Table
from lesionkeras.report.segmentation_tables import (
    P4_SOURCE,
    P5_SOURCE,
    PAPER_SCORES,
    PAPER_SEGMENTERS,
    name_score,
)

UNDEFINED = "undefined"
LEFT_OUT = {
    "slices": "the tested slices alone",
    "volumes": "the whole scan",
    "patients": "all scans of the patient",
}
LEAK_SCORES = {"dice_by_slice": "by slice", "dice": "mean of cases", "dice_global": "all voxels"}
Pair = tuple[str, Any, Any]  # label, FIGURE of corrected, FIGURE of LiTS
SAME_SCORE = 5e-4  # two scores that differ by less are printed alike
MM3_IN_ML = 1000.0
# Columns of the table of cases: keys of a row (the first that is there), heading.
CASE_COLUMNS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("tumour_dice",), "Tumour Dice"),
    (("liver_dice",), "Liver Dice"),
    (("tumour_assd_mm", "assd_mm"), "ASSD, mm"),
    (("tumour_msd_mm", "msd_mm"), "MSD, mm"),
    (("burden_error",), "Burden error"),
)
COUNTS = ("lesions_found", "lesions", "false_components")
NO_SCORES = ("case", "patient", "lesion_free")
LITS_FAULTS = (
    "The organisers' final program, faults included: it looks a lesion's prediction up by a "
    "component's number where it wrote the lesion's; it measures only lesions that it counts as "
    "found; it merges lesions that one prediction touches; and its RVD divides by the predicted "
    "volume. The corrected protocol does none of these."
)


def get_value(figure: Any) -> float | None:
    """Returns the number of a FIGURE; None where it is undefined.

    >>> get_value({"value": 0.5, "low": 0.25, "high": 0.75}), get_value(1), get_value(None)
    (0.5, 1.0, None)
    """
    value = figure.get("value") if isinstance(figure, Mapping) else figure
    return None if value is None or math.isnan(float(value)) else float(value)


def format_figure(figure: Any) -> str:
    """Prints the number of a FIGURE, or that it is undefined.

    >>> format_figure(0), format_figure({"value": None, "low": None, "high": None})
    ('0.000', 'undefined')
    """
    value = get_value(figure)
    return UNDEFINED if value is None else f"{value:.3f}"


def format_interval(figure: Any) -> str:
    """Prints the interval of a FIGURE, or nothing.

    >>> format_interval({"value": 0.5, "low": 0.25, "high": 0.75}), format_interval(0.5)
    ('(0.250 to 0.750)', '')
    """
    if not isinstance(figure, Mapping):
        return ""
    low, high = get_value(figure.get("low")), get_value(figure.get("high"))
    return "" if low is None or high is None else f"({low:.3f} to {high:.3f})"


SCATTERED = (
    "Scattered slices: overlap only, of each scan's held-out slices together; the last row has "
    "means of the cases that define a figure. Undefined: the truth has no such structure there, or "
    "the network does not know it."
)
VOLUMES = (
    "Each scan in 3-D at its own resolution; the last row has sums, and means of the cases "
    "that define a figure. A lesion is found at any overlap; a false tumour is a component "
    "that touches no lesion. ASSD and MSD: mean and greatest distance of the surfaces of all "
    "tumours. Burden error: share of the liver that is tumour, predicted less true; where no liver "
    "is predicted that share is 0. Undefined is a Dice where the truth has no such structure, a "
    "distance where truth or prediction have none, a burden error where the truth has no liver, "
    "and whatever the network does not know."
)


def build_case_tables(protocol: Mapping[str, Any], scattered: bool = False) -> list[Block]:
    """Builds the table of cases, and one with every figure, folded.

    Args:
        protocol: "per_case": rows of "case", "patient", scores, "lesions", "lesions_found",
            "false_components" and, of a scan without a lesion, "lesion_free" and
            "false_positive_mm3"; "mean" for the last row; "counts", where they are there: of how
            many cases each mean is.
        scattered: Whether slices were held out, not whole scans: then there are no lesions.
    """
    rows, mean = protocol["per_case"], protocol["mean"]
    if not rows:
        return []
    columns = [(keys, name) for keys, name in CASE_COLUMNS if any(_has(row, keys) for row in rows)]
    has_free = any(row.get("lesion_free") and not _is_blank(row) for row in rows)
    cells = []
    for row in rows:
        line = [str(row["case"]), str(row.get("patient", ""))]
        line += [] if scattered else _format_lesions(row)
        line += [format_figure(_get(row, keys)) for keys, _ in columns]
        cells.append(line + [_format_marked(row)] * has_free)
    last = ["all", ""]
    last += [] if scattered else _format_lesions({key: _add(rows, key) for key in COUNTS})
    last += [format_figure(_get(mean, k)) if _has(mean, k) else "" for k, _ in columns]
    cells.append(last + [""] * has_free)
    header = ["Case", "Patient", *([] if scattered else ["Lesions found", "False tumours"])]
    header += [name for _, name in columns]
    caption = SCATTERED if scattered else VOLUMES + _tell_undefined(rows, "burden_error")
    numbers = range(2, len(header) + 1)
    table = Table(
        header + ["False tumour, ml"] * has_free, cells, caption, numbers, strong=(len(rows),)
    )
    return [table, _build_everything(rows, mean, protocol.get("counts", {}))]


def _build_everything(
    rows: Sequence[Mapping[str, Any]], mean: Mapping[str, Any], counts: Mapping[str, int]
) -> Table:
    keys = dict.fromkeys(key for row in (*rows, mean) for key in row if key not in NO_SCORES)
    cells = [
        [
            name_score(key),
            *(_format_cell(row[key]) if key in row else "" for row in rows),
            _join(format_figure(mean[key]), format_interval(mean[key])) if key in mean else "",
            f"{counts[key]:,}" if key in counts else "",
        ]
        for key in keys
    ]
    return Table(
        ["Figure", *(str(row["case"]) for row in rows), "Mean", "Of cases"],
        cells,
        "Every figure of every case by the corrected protocol, and the mean of the cases that "
        "define it. VOE and RVD are shares: 0 is best, RVD below 0 is too small.",
        numbers=range(1, len(rows) + 3),
        folded=f"All {len(cells)} figures of each case",
    )


def build_paper_table(metrics: Mapping[str, Any]) -> list[Block]:
    """Builds P4's and P5's table with this run's rows, by slice as theirs and by scan.

    Args:
        metrics: "slices": rows of "definition", "target" and P4's and P5's scores; "protocol".
    """
    mean = metrics["protocol"]["corrected"]["mean"]
    rows = [
        [paper.name, "not said", *(_or_nothing(getattr(paper, key)) for key, _ in PAPER_SCORES)]
        for paper in PAPER_SEGMENTERS
    ]
    for row in metrics.get("slices", ()):
        shown = [
            _join(format_figure(row.get(k)), format_interval(row.get(k))) for k, _ in PAPER_SCORES
        ]
        rows.append([f"This run, by slice: {row['definition']}", str(row["target"]), *shown])
    for organ in ("tumour", "liver"):
        keys = [(f"{organ}_{key}", *[key] * (organ == "tumour")) for key, _ in PAPER_SCORES]
        shown = [
            _join(format_figure(_get(mean, k)), format_interval(_get(mean, k)))
            if _has(mean, k)
            else ""
            for k in keys
        ]
        scan = "of each scan's slices" if metrics.get("scattered") else "by scan, 3-D"
        rows.append([f"This run, {scan}: mean of cases", organ, *shown])
    ours = range(len(PAPER_SEGMENTERS), len(rows))
    caption = (
        f"{P4_SOURCE}; {P5_SOURCE}. Neither says whether liver or tumour is meant, how slices "
        "are averaged, what an empty slice scores, or whether slices of one patient lie on both "
        "sides of the split; so the rows are no race. By slice, empty slices lift the Dice; the "
        "background lifts accuracy either way."
    )
    header = ["Network", "Of", *(name for _, name in PAPER_SCORES)]
    return [Table(header, rows, caption, numbers=range(2, 6), strong=ours)]


def build_step_table(steps: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Builds the table of scores with and without each step of post-processing.

    Args:
        steps: "step", "tumour_dice", "liver_dice", "lesions_found", "lesions",
            "false_components" and "used".
    """
    has_counts = any(row.get("lesions_found") is not None for row in steps)
    cells = [
        [
            str(row["step"]) + (" (used)" if row.get("used") else ""),
            *(
                _join(format_figure(row.get(key)), format_interval(row.get(key)))
                for key in ("tumour_dice", "liver_dice")
            ),
            *(_format_lesions(row) if has_counts else ()),
        ]
        for row in steps
    ]
    header = ["Step", "Tumour Dice", "Liver Dice"]
    header += ["Lesions found", "False tumours"] * has_counts
    caption = (
        "The same predictions with and without each step, mean of cases: a step earns its place "
        "where the false tumours fall and the lesions found do not. Closing is P5's (3.6), "
        "filling holes P3's (2.6)."
    )
    return [Table(header, cells, caption, numbers=range(1, len(header)))] * bool(cells)


def build_leak_table(leaks: Sequence[Mapping[str, Any]]) -> list[Block]:
    """Builds the table of the same recipe under three splits.

    Args:
        leaks: "split", "held_out", "trained", and of tumour and liver "_dice", "_dice_global" and
            "_dice_by_slice"; what is undefined everywhere has no column.
    """
    columns = {
        f"{organ}_{key}": f"{organ.capitalize()} Dice, {words}"
        for organ in ("tumour", "liver")
        for key, words in LEAK_SCORES.items()
    }
    used = [key for key in columns if any(get_value(row.get(key)) is not None for row in leaks)]
    cells = [
        [
            LEFT_OUT[row["split"]],
            str(row.get("held_out", "")),
            str(row.get("trained", "")),
            *(_join(format_figure(row.get(key)), format_interval(row.get(key))) for key in used),
        ]
        for row in leaks
    ]
    caption = (
        "One recipe, tested three times on the same slices of one scan; what differs is what was "
        "left out of training. Slices alone leave neighbours of a millimetre, the scan "
        "alone leaves another scan of the patient; only the split by patient says what a new "
        "patient can expect. What the others say more is the leak. Every training saw as many "
        "images an epoch, or as many CPU seconds. By slice, one that is rightly empty scores 1."
    )
    header = ["Trained without", "Tested on", "Trained on", *(columns[key] for key in used)]
    table = Table(header, cells, caption, numbers=range(3, len(header)))
    return [table] * bool(cells)


def build_protocol_table(protocols: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    """Builds the table of figures on which the organisers' program and the corrected one differ.

    Args:
        protocols: "corrected" and, where it was computed, "lits".
    """
    if "lits" not in protocols:
        return []
    tables: list[Block] = []
    same = 0
    for pairs, caption, folded in (
        (_pair_summaries, LITS_FAULTS, ""),
        (_pair_cases, "The same, case by case.", "Cases that differ"),
    ):
        cells = []
        for label, ours, theirs in pairs(protocols["corrected"], protocols["lits"]):
            if _is_same(ours, theirs):
                same += 1
            else:
                cells.append([label, _format_cell(ours), _format_cell(theirs)])
        if cells:
            header = ["Figure", "Corrected", "LiTS"]
            tables.append(Table(header, cells, caption, numbers=(1, 2), folded=folded))
    agreed = f"{same} further figure{'s are' if same != 1 else ' is'} the same under both."
    return [*tables, Paragraph(agreed if tables else f"Nowhere in this run: {agreed}")]


def _pair_summaries(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Pair]:
    for part, place in (("mean", "mean of cases"), ("global", "all cases together")):
        both = (ours.get(part, {}), theirs.get(part, {}))
        for key in (key for key in both[0] if key in both[1]):
            label = f"{name_score(key)}, {place}"
            yield label, both[0][key], both[1][key]


def _pair_cases(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> Iterator[Pair]:
    rows = {row["case"]: row for row in theirs["per_case"]}
    for row in ours["per_case"]:
        other = rows.get(row["case"], {})
        for key in (key for key in row if key in other and key not in NO_SCORES):
            label = f"{name_score(key)}, case {row['case']}"
            yield label, row[key], other[key]


def _is_same(ours: Any, theirs: Any) -> bool:
    one, other = get_value(ours), get_value(theirs)
    if one is None or other is None:
        return one is other
    return abs(one - other) < SAME_SCORE


def _has(row: Mapping[str, Any], keys: Sequence[str]) -> bool:
    return any(key in row for key in keys)


def _get(row: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((row[key] for key in keys if key in row), None)


def _add(rows: Sequence[Mapping[str, Any]], key: str) -> int | None:
    """The sum of what is there, or None where nothing is."""
    there = [int(row[key]) for row in rows if row.get(key) is not None]
    return sum(there) if there else None


def _is_blank(row: Mapping[str, Any]) -> bool:
    """Whether nothing is known of the lesions of a case: the network was not taught them."""
    return get_value(row.get("false_positive_mm3")) is None


def _tell_undefined(rows: Sequence[Mapping[str, Any]], key: str) -> str:
    """How many cases have no such figure, where it is one of some: they are in no mean."""
    there = [get_value(row[key]) is not None for row in rows if key in row]
    if all(there):
        return ""
    return f" {name_score(key)}: undefined for {there.count(False)} of {len(there)} cases."


def _format_lesions(row: Mapping[str, Any]) -> list[str]:
    return [_format_found(row), _format_count(row.get("false_components"))]


def _join(value: str, interval: str) -> str:
    return f"{value} {interval}" if interval else value


def _or_nothing(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _format_found(row: Mapping[str, Any]) -> str:
    if row.get("lesions") is None or row.get("lesions_found") is None:
        return ""
    return f"{row['lesions_found']} of {row['lesions']}"


def _format_count(value: Any) -> str:
    return "" if value is None else f"{int(value):,}"


def _format_marked(row: Mapping[str, Any]) -> str:
    if not row.get("lesion_free"):
        return ""
    marked = get_value(row.get("false_positive_mm3"))
    return UNDEFINED if marked is None else f"{marked / MM3_IN_ML:.2f}"


def _format_cell(value: Any) -> str:
    if isinstance(value, (bool, str)):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else format_figure(value)
