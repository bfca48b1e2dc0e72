"""What an evaluation of masks found: tables as CSV, figures as JSON, a page."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from lesionkeras.files import write_json
from lesionkeras.metrics.scores import Lesion
from lesionkeras.metrics.volumes import ScoredCase, compare_protocols
from lesionkeras.report.evaluate_tables import (
    list_case_rows,
    list_lesion_rows,
    pick_shown_rows,
    write_csv,
)
from lesionkeras.report.mask_evaluation import Evaluation, ScoringOptions
from lesionkeras.report.page import (
    Block,
    Notice,
    Paragraph,
    Scores,
    Section,
    Table,
    format_count,
    write_report,
)

CASES_FILE, LESIONS_FILE = "cases.csv", "lesions.csv"
SCORES_FILE, PAGE_FILE = "scores.json", "report.html"
ABOUT = {
    "lits": "Scored as the final program of the LiTS challenge scores, its faults included; "
    "lesions' Dice and distances are means over lesions found at overlap .5.",
    "corrected": "Means over the cases where a score exists, with 95 % intervals over patients "
    "drawn with replacement. A lesion is found at overlap 0 if a predicted voxel lies in it, and "
    "at .5 if intersection by union with all components that overlap it is above .5. Cases "
    "without a lesion have no tumour Dice; what was predicted in them stands under lesion-free "
    "cases.",
}
SURFACES = (
    "Surface: voxels with one of 18 neighbours outside; distances in mm, of all surface voxels of "
    "both masks."
)


def name_folder(truth: Path, prediction: Path, options: ScoringOptions) -> Path:
    """Names the folder where none was given: the same for the same masks and flags.

    Args:
        truth: Where the true masks are.
        prediction: Where the predicted masks are.
        options: How they are scored.
    """
    asked = "".join(f"\n{name} {value}" for name, value in sorted(options.given.items()))
    places = f"{truth.absolute()}\n{prediction.absolute()}{asked}"
    digest = hashlib.sha256(places.encode()).hexdigest()[:8]
    return Path("runs") / f"evaluate-{options.protocol}-{digest}"


def write_evaluation(folder: Path, protocol: str, evaluation: Evaluation) -> dict[str, Any]:
    """Writes cases.csv, lesions.csv, scores.json and report.html into a folder.

    Args:
        folder: Made if it is not there.
        protocol: "lits" or "corrected".
        evaluation: What was scored.

    Returns:
        The summary, as in scores.json.
    """
    cases = evaluation.evaluator.cases
    summary = evaluation.evaluator.summarise(protocol)
    case_rows = list_case_rows(cases, protocol, evaluation.predictions)
    lesion_rows = list_lesion_rows(cases, protocol)
    columns = ["case", "patient", *(f.name for f in fields(Lesion) if f.name != "centroid_zyx")]
    columns += ["centroid_k", "centroid_j", "centroid_i"]
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / CASES_FILE, list(case_rows[0]), case_rows)
    write_csv(folder / LESIONS_FILE, columns, lesion_rows)
    write_json(
        folder / SCORES_FILE,
        {
            "summary": summary,
            "options": dict(evaluation.given),
            "cases": case_rows,
            "lesions": lesion_rows,
            "differences": _list_differences(cases),
            "notes": evaluation.notes,
            "knows_patients": evaluation.knows_patients,
        },
    )
    write_report(
        folder / PAGE_FILE,
        f"Masks scored, protocol {protocol}",
        _build_summary(protocol, evaluation, summary),
        _build_sections(protocol, cases, case_rows, lesion_rows, summary),
    )
    return summary


def _list_differences(cases: Sequence[ScoredCase]) -> list[dict[str, Any]]:
    return [
        {"case": case.case} | asdict(row)
        for case in cases
        for row in compare_protocols(case.lits, case.corrected)
    ]


def list_headlines(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Lists the figures that a reader came for.

    Args:
        summary: Of either protocol.

    Returns:
        (name, value, remark) each.
    """
    if summary["protocol"] == "lits":
        return _list_lits_headlines(summary)
    rows = []
    for name in ("tumour", "liver"):
        scores = summary[name]
        remark = f"mean of {scores['dice']['num_cases']} cases{_format_interval(scores['dice'])}"
        if name == "liver" and summary["num_tumour_alone"]:
            remark += f"; {summary['num_tumour_alone']} predictions have tumours alone"
        rows.append((f"{name} Dice", _format(scores["dice"]["value"]), remark))
        rows.append((f"{name} Dice, global", _format(scores["dice_global"]["value"]), "all voxels"))
    for threshold, scores in summary["lesions"].items():
        found, missed = scores["num_found"], scores["num_missed"]
        remark = f"of {found + missed}; {scores['num_false_components']} false components"
        rows.append((f"lesions found, overlap above {threshold}", str(found), remark))
    return rows


def _list_lits_headlines(summary: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    rows = []
    for name in ("lesion", "liver"):
        scores = summary[f"{name}_segmentation"]
        rows.append((f"{name} Dice per case", _format(scores["dice_per_case"]), ""))
        rows.append((f"{name} Dice, global", _format(scores["dice_global"]), "all voxels"))
    for name, value in summary["lesion_detection"].items():
        rows.append((f"lesion {name.replace('_', ' ')}", _format(value), ""))
    return rows


def _build_summary(
    protocol: str, evaluation: Evaluation, summary: Mapping[str, Any]
) -> list[Block]:
    cases = evaluation.evaluator.cases
    free = sum(not case.corrected.has_lesion for case in cases)
    whose = f"of {format_count(summary['num_patients'], 'patient')}"
    if not evaluation.knows_patients:
        whose = "each taken for a patient of its own (--patients says whose they are)"
    text = f"{format_count(len(cases), 'case')} {whose}, {free} without a lesion."
    asked = [
        f"{name} {value}" + " where a truth says none" * (name == "spacing_mm")
        for name, value in evaluation.given.items()
        if name != "protocol"
    ]
    text += f" Scored with {', '.join(asked)}." if asked else ""
    blocks: list[Block] = [Scores(list_headlines(summary)), Paragraph(f"{text} {ABOUT[protocol]}")]
    for case, note in evaluation.notes.items():
        blocks.append(Notice(f"{case}:", f"{note}."))
    for key, whose in (("num_tumour_alone", "predictions"), ("num_truth_alone", "truths")):
        words = "have tumours and no liver beside them. Scores of the liver and of the burden take "
        words += "these tumours for the whole liver: where tumours alone are outlined they say "
        words += "nothing."
        if summary.get(key, 0):
            blocks.append(Notice(f"{summary[key]} of {len(cases)} {whose}", words))
    no_liver = [case.case for case in cases if not case.corrected.liver.num_truth]
    if no_liver and protocol == "lits":
        stops = "no liver in the truth: the organisers' program stops at the tumour burden of such "
        stops += "a case, so that its error has no mean and no maximum here."
        blocks.append(Notice(f"{', '.join(no_liver)}:", stops))
    return blocks


def _build_sections(
    protocol: str,
    cases: Sequence[ScoredCase],
    case_rows: Sequence[Mapping[str, Any]],
    lesion_rows: Sequence[Mapping[str, Any]],
    summary: Mapping[str, Any],
) -> list[Section]:
    if protocol == "corrected":
        sections = [
            Section("Tumour and liver", [_build_structures(summary), Paragraph(SURFACES)]),
            Section("Lesions", [_build_detection(summary), _build_lesion_free(summary)]),
        ]
    else:
        sections = [Section("The organisers' figures", [_build_lits(summary)])]
    columns = [
        ("case", "case"),
        ("patient", "patient"),
        ("prediction", "prediction"),
        ("tumour_dice", "tumour Dice"),
        ("liver_dice", "liver Dice"),
        ("tumour_assd_mm", "tumour ASSD mm"),
        ("num_found_0", "found > 0"),
        ("num_missed_0", "missed"),
        ("num_false_0", "false"),
        ("num_found_0.5", "found > .5"),
        ("false_positive_mm3", "false positive mm3"),
    ]
    lesions = pick_shown_rows(lesion_rows)
    told = "" if len(lesions) == len(lesion_rows) else f"{len(lesions)}, the largest, of "
    shown = ["kind", "number", "volume_mm3", "num_components", "dice", "iou", "found", "found_half"]
    return [
        *sections,
        Section("Cases", [_build_rows(case_rows, columns, f"All columns: {CASES_FILE}.")]),
        Section(
            "Each lesion",
            [
                _build_rows(
                    lesions,
                    [("case", "case"), *((name, name.replace("_", " ")) for name in shown)],
                    f"All columns and rows: {LESIONS_FILE}.",
                    f"{told}{len(lesion_rows)} lesions and false components",
                )
            ],
        ),
        Section("Where the protocols differ", [_build_differences(cases)]),
    ]


def _build_rows(
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[tuple[str, str]],
    caption: str,
    folded: str = "",
) -> Table:
    header = [title for _, title in columns]
    cells = [[_format(row[name]) for name, _ in columns] for row in rows]
    return Table(header, cells, caption, range(2, len(header)), folded=folded)


def _build_structures(summary: Mapping[str, Any]) -> Table:
    rows = []
    for score in summary["tumour"]:
        if not isinstance(summary["tumour"][score], dict):
            continue
        cells = [score.replace("_", " ")]
        for name in ("tumour", "liver"):
            found = summary[name][score]
            cells += [_format(found["value"]), _format_interval(found).lstrip(", ")]
            cells += [str(found["num_cases"])]
        rows.append(cells)
    header = ["score", "tumour", "95 %", "cases", "liver", "95 %", "cases"]
    empty = [
        f"{summary[name]['num_predicted_empty']} without a predicted {name}"
        for name in ("tumour", "liver")
    ]
    caption = (
        "A column of cases says for how many a score exists; among those with the structure are "
        f"{' and '.join(empty)}."
    )
    return Table(header, rows, caption, range(1, 7))


def _build_detection(summary: Mapping[str, Any]) -> Table:
    rows = [
        [
            f"above {threshold}",
            str(found["num_found"]),
            str(found["num_missed"]),
            str(found["num_false_components"]),
            _format(found["recall"]["value"]) + _format_interval(found["recall"]),
            _format(found["precision"]["value"]) + _format_interval(found["precision"]),
            _format(found["f1"]),
        ]
        for threshold, found in summary["lesions"].items()
    ]
    header = ["overlap", "found", "missed", "false components", "recall", "precision", "F1"]
    caption = f"Dice per lesion, missed ones as 0: {_format(summary['dice_per_lesion']['value'])}."
    return Table(header, rows, caption, range(1, 7))


def _build_lesion_free(summary: Mapping[str, Any]) -> Table:
    free, burden = summary["lesion_free"], summary["tumour_burden"]
    rows = [
        ["lesion-free cases", str(free["num_cases"])],
        ["of these left clean", str(free["num_left_clean"])],
        ["false positive mm3, mean of these", _format(free["false_positive_mm3"]["value"])],
        ["specificity of voxels, mean of these", _format(free["specificity"]["value"])],
        [
            "false positive mm3, mean of all cases",
            _format(free["false_positive_mm3_of_all_cases"]["value"]),
        ],
        ["tumour burden error, RMSE", _format(burden["rmse"]["value"])],
        ["tumour burden error, largest", _format(burden["max_absolute"])],
        ["cases without one: no liver in the truth", str(burden["num_undefined"])],
    ]
    return Table(["what was predicted in vain", ""], rows, numbers=[1])


def _build_lits(summary: Mapping[str, Any]) -> Table:
    rows = []
    for part in ("lesion_detection", "lesion_segmentation", "liver_segmentation"):
        prefix = part.split("_")[0]
        for name, value in summary[part].items():
            low, high = summary["intervals"][f"{prefix}_{name}"]
            shown = _format_interval({"low": low, "high": high}).lstrip(", ")
            rows.append([f"{prefix} {name.replace('_', ' ')}", _format(value), shown])
    rows.append(["tumour burden RMSE", _format(summary["tumour_burden_rmse"]), ""])
    rows.append(["tumour burden maximum", _format(summary["tumour_burden_max"]), ""])
    caption = "Intervals are ours: 95 % over patients. Distances in mm."
    return Table(["score", "value", "95 %"], rows, caption, [1, 2])


def _build_differences(cases: Sequence[ScoredCase]) -> Table:
    rows = [
        [row["case"], row["score"], _format(row["lits"]), _format(row["corrected"]), row["reason"]]
        for row in _list_differences(cases)
    ]
    header = ["case", "score", "lits", "corrected", "why"]
    caption = "Numbers in brackets: the list of faults in lesionkeras/metrics/lits_protocol.py."
    return Table(header, rows, caption, [2, 3])


def _format(value: Any) -> str:
    """Format a cell.

    >>> [_format(value) for value in (0.12345, float("nan"), 7, 1234.5, True)]
    ['0.1235', 'none', '7', '1234.5', 'yes']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return str(value)
    if math.isnan(value):
        return "none"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.4f}"


def _format_interval(found: Mapping[str, Any]) -> str:
    """Format an interval, or nothing for one patient."""
    if math.isnan(found["low"]) or math.isnan(found["high"]):
        return ""
    return f", {_format(found['low'])} to {_format(found['high'])}"
