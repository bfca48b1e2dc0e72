"""The report of a segmentation run: its scores by case and by lesion, beside P4's and P5's.

A FIGURE of metrics.json is a number, null where it is undefined, or {"value", "low", "high"} with a
95 % interval over patients.  What is undefined is printed so, and is never 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesionkeras.files import write_bytes
from lesionkeras.recipe import flatten_tree, format_value
from lesionkeras.report import segmentation_figures as figures
from lesionkeras.report.detection_report import describe_software
from lesionkeras.report.fields_in_use import is_in_use
from lesionkeras.report.page import (
    Block,
    Notice,
    Paragraph,
    Picture,
    Scores,
    Section,
    Table,
    format_count,
    write_report,
)
from lesionkeras.report.segmentation_blocks import (
    build_case_tables,
    build_leak_table,
    build_paper_table,
    build_protocol_table,
    build_step_table,
    format_figure,
    format_interval,
)
from lesionkeras.report.segmentation_tables import P4_RECIPE, P5_RECIPE
from lesionkeras.report.tables import agrees_with

NETWORKS = {"unet": "U-Net", "segnet": "SegNet", "resnet50_unet": "ResNet50-UNet"}
DEFAULT_WINDOW_HU = (-160.0, 240.0)  # P3, 2.2
KINDS = ("best", "median", "worst")
LOADING = (
    "model.keras holds these weights; a process that loads it with keras.models.load_model must "
    "import lesionkeras.models first, which knows its layers."
)
LEAK_TITLE = "This split leaks."


def write_segmentation_report(
    run_path: Path,
    record: Mapping[str, Any],
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> Path:
    """Writes `report.html` and `figures/` into a run directory.

    Args:
        run_path: The run directory; exists.
        record: Its recipe.json: "experiment", "recipe", "digest" and "environment".
        log_rows: Rows of log.csv: epoch, loss, and val_loss and val_*_dice where validated.
        metrics: "protocol" with "corrected" and, where it was computed, "lits": {"per_case": rows,
            "mean" and "global": name -> FIGURE}.  Told where they are there: "lesions",
            "postprocessing", "slices", "leaks", "splits", "leak", "best_epoch", "cpu_seconds",
            "num_resamples"; see `segmentation_blocks` for their rows.
        examples: "title", "kind" (best, median or worst), "image_hu" int16 [H, W], "truth" and
            "prediction" uint8 [H, W] of labels, "spacing_mm" (y, x).

    Returns:
        The path of report.html.
    """
    values = flatten_tree(record.get("recipe", record))
    pictures = _draw(values, log_rows, metrics, examples)
    _save(run_path / "figures", pictures)
    network = NETWORKS.get(str(record.get("experiment")), "Segmentation network")
    sections = [
        Section("Best, median and worst case", _pick(pictures, "contours")),
        Section(
            "Cases",
            build_case_tables(metrics["protocol"]["corrected"], bool(metrics.get("scattered"))),
        ),
        Section("Lesions", _describe_lesions(metrics, pictures)),
        Section("Beside the papers", build_paper_table(metrics)),
        Section("Post-processing", build_step_table(metrics.get("postprocessing", ()))),
        Section("What a leaking split would say", build_leak_table(metrics.get("leaks", ()))),
        Section("Where the two protocols differ", build_protocol_table(metrics["protocol"])),
        Section("Training", _describe_training(log_rows, metrics, pictures)),
        Section("Data", _describe_data(record, values, metrics)),
        Section("Recipe", _describe_recipe(record, values)),
        Section("Software", describe_software(record)),
    ]
    title = f"LesionKeras: {network} on {_name_data(values)}"
    return write_report(run_path / "report.html", title, _summarize(metrics), sections)


def _draw(
    values: Mapping[str, Any],
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
) -> dict[str, Picture]:
    """Draws every picture that there is something for, and says what is on it."""
    low, high = values.get("data.window_hu") or DEFAULT_WINDOW_HU
    known = [example for kind in KINDS for example in examples if example.get("kind") == kind]
    shown = [{**example, "title": _name_example(example)} for example in known]
    pictures = {}
    if shown:
        names = "; ".join(example["title"].replace("\n", ", ") for example in shown)
        pictures["contours"] = Picture(
            figures.draw_contours(shown, (low, high)),
            f"CT slices with outlines of truth and prediction: {names}.",
            "Truth (blue, solid) and prediction (orange, dashed) on the slice with most tumour; "
            "above the liver, below its tumours larger. Where the two lines run together the "
            "mask is right; a blue line alone is missed, an orange one alone is false. Window "
            f"{low:g} to {high:g} HU.",
        )
    if log_rows:
        pictures["curves"] = Picture(
            figures.draw_curves(log_rows),
            f"Curves by epoch: {_describe_last(log_rows)}",
            "Loss (left) and Dice of the validation patients (right), by epoch. A training loss "
            "that falls while the other rises is learning by heart.",
        )
    if metrics.get("lesions"):
        pictures["lesion_sizes"] = Picture(
            figures.draw_lesion_sizes(metrics["lesions"]),
            f"Dice of each lesion against its volume: {_describe_found(metrics['lesions'])}",
            "Each true lesion by its volume (logarithmic) and its Dice; crosses at 0 were not "
            "found. Small lesions are expected on the lower left: a pixel more or less is a "
            "larger part of them.",
        )
    return pictures


def _name_example(example: Mapping[str, Any]) -> str:
    return f"{str(example['kind']).capitalize()}: {example.get('title', '')}"


def _save(folder: Path, pictures: Mapping[str, Picture]) -> None:
    folder.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        write_bytes(folder / f"{name}.png", picture.png)


def _pick(pictures: Mapping[str, Picture], name: str) -> list[Block]:
    return [pictures[name]] if name in pictures else []


def _summarize(metrics: Mapping[str, Any]) -> list[Block]:
    corrected = metrics["protocol"]["corrected"]
    rows, mean, pooled = corrected["per_case"], corrected["mean"], corrected.get("global", {})
    patients = {row.get("patient", row["case"]) for row in rows}
    lesions = sum(int(row.get("lesions") or 0) for row in rows)
    scattered = bool(metrics.get("scattered"))
    without = sum(bool(row.get("lesion_free")) for row in rows)
    resamples = metrics.get("num_resamples")
    intervals = (
        "In brackets are 95 % intervals over patients"
        + (f" ({resamples} resamples)" if resamples else "")
        + (
            f"; of {len(patients)} patients they say little."
            if 1 < len(patients) < 5
            else "; one patient has none."
            if len(patients) == 1
            else "."
        )
    )
    text = (
        "Measured in 3-D and at the scans' own resolution on "
        f"{format_count(len(rows), 'held-out scan')} of {format_count(len(patients), 'patient')} "
        f"with {format_count(lesions, 'lesion')}, by the corrected protocol. {intervals}"
    )
    if scattered:
        text = (
            "Scattered slices: overlap only. What was held out are slices of "
            f"{format_count(len(rows), 'scan')} of {format_count(len(patients), 'patient')}, "
            "not whole scans: surfaces and lesions in three dimensions do not exist, steps of "
            "post-processing that need a volume were left out, and no mask was written. "
            f"{intervals}"
        )
    elif without and any(row.get("false_positive_mm3") is not None for row in rows):
        text += (
            f" {format_count(without, 'scan')} without a lesion: the tumour Dice is undefined "
            "there and in no mean; what was marked on them stands in the table of cases."
        )
    tiles: list[tuple[str, Any]] = [
        ("Tumour Dice, mean of cases", mean.get("tumour_dice")),
        ("Liver Dice, mean of cases", mean.get("liver_dice")),
        ("Tumour Dice, all voxels", pooled.get("tumour_dice")),
        ("Lesion recall, any overlap", pooled.get("recall_0", mean.get("recall_0"))),
        ("Lesion precision, any overlap", pooled.get("precision_0", mean.get("precision_0"))),
    ]
    if scattered:
        tiles[3:] = [("Liver Dice, all voxels", pooled.get("liver_dice"))]
    scores = [(name, format_figure(value), format_interval(value)) for name, value in tiles]
    counts = [row["false_components"] for row in rows if row.get("false_components") is not None]
    if counts:
        false = f"{sum(counts)} on {format_count(len(counts), 'scan')}"
        scores.append(("False tumours a scan", f"{sum(counts) / len(counts):.1f}", false))
    blocks: list[Block] = [Paragraph(text), Scores(scores)]
    if metrics.get("leak"):
        warning = str(metrics["leak"])
        blocks.insert(0, Notice(LEAK_TITLE, warning.removeprefix("This split leaks: ")))
    return blocks


def _describe_lesions(metrics: Mapping[str, Any], pictures: Mapping[str, Picture]) -> list[Block]:
    if not metrics.get("lesions"):
        return []
    return [Paragraph(_describe_found(metrics["lesions"])), *_pick(pictures, "lesion_sizes")]


def _describe_found(lesions: Sequence[Mapping[str, Any]]) -> str:
    missed = sorted(float(row["volume_mm3"]) for row in lesions if not row["detected"])
    text = f"{len(lesions) - len(missed)} of {format_count(len(lesions), 'lesion')} found."
    if missed:
        text += f" The largest that was not has {missed[-1] / 1000:.2f} ml."
    return text


def _describe_training(
    log_rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, Any],
    pictures: Mapping[str, Picture],
) -> list[Block]:
    text = _describe_last(log_rows)
    if metrics.get("cpu_seconds") is not None:
        text += f" Training took {metrics['cpu_seconds']:,.0f} CPU-seconds."
    if metrics.get("best_epoch"):
        text += f" Measured are the weights of epoch {metrics['best_epoch']}."
    return [Paragraph(text), Paragraph(LOADING), *_pick(pictures, "curves")]


def _describe_last(log_rows: Sequence[Mapping[str, Any]]) -> str:
    names = {"loss": "training loss", "val_loss": "validation loss"}
    parts = [f"After {format_count(len(log_rows), 'epoch')}"]
    for key in ("loss", "val_loss", *figures.list_scores(log_rows)):
        filled = [row[key] for row in log_rows if row.get(key) not in (None, "")]
        if filled:
            name = key.replace("val_", "validation ").replace("_dice", " Dice")
            parts.append(f"{names.get(key, name)} {float(filled[-1]):.3f}")
    return ", ".join(parts) + "."


def _describe_data(
    record: Mapping[str, Any], values: Mapping[str, Any], metrics: Mapping[str, Any]
) -> list[Block]:
    names = {"slices": "Slices", "volumes": "Scans", "patients": "Patients"}
    names |= {"with_liver": "Slices with liver", "with_lesion": "Slices with lesion"}
    splits = metrics.get("splits", {})
    rows = [
        [split, *("" if row.get(key) is None else f"{row[key]:,}" for key in names)]
        for split, row in splits.items()
    ]
    fingerprint = record.get("environment", {}).get("data_fingerprint")
    caption = f"Data set {_name_data(values)}, split by {values.get('data.protocol', '?')}"
    caption += f", fingerprint {fingerprint}." if fingerprint else "."
    return [Table(["Split", *names.values()], rows, caption, numbers=range(1, 6))] * bool(rows)


def _name_data(values: Mapping[str, Any]) -> str:
    parts = [str(values[key]) for key in ("data.name", "data.config") if values.get(key)]
    return "/".join(parts) or "data"


def _describe_recipe(record: Mapping[str, Any], values: Mapping[str, Any]) -> list[Block]:
    papers = (P4_RECIPE, P5_RECIPE)
    rows = []
    for path in (path for path in values if any(path in paper for paper in papers)):
        cells = [path, format_value(values[path])]
        for paper in papers:
            agrees = agrees_with(paper, path, values[path])
            said = f"{paper[path].said} ({paper[path].place})" if path in paper else ""
            if agrees and not is_in_use(values, path):
                cells += [said, "not in use so"]
            else:
                cells += [said, {None: "", True: "same", False: "differs"}[agrees]]
        rows.append(cells)
    beside = Table(
        ["Field", "This run", "P4", "", "P5", ""],
        rows,
        "What P4 and P5 state, with its place in the paper; all else they leave open. P4's "
        "abstract and keywords say sigmoid and binary, its 3.3 and 3.4 that softmax is usual: "
        "the abstract is of the network that P4 trained. A value is the same only where it "
        "decides something in this run: else it is not in use so.",
    )
    everything = Table(
        ["Field", "This run"],
        [[path, format_value(value)] for path, value in values.items()],
        f"Digest {record['digest']}." if record.get("digest") else "",
        folded=f"All {len(values)} fields",
    )
    return [*[beside] * bool(rows), everything]
