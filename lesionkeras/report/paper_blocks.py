"""What a page says of the papers: their figures beside the run's, and where its recipe differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lesionkeras.recipe import format_value
from lesionkeras.report.figures import column
from lesionkeras.report.froc_blocks import (
    build_p2_table,
    describe_gap,
    format_score,
)
from lesionkeras.report.page import Block, Paragraph, Table
from lesionkeras.report.tables import (
    P1_TABLE_1,
    P1_TABLE_1_SOURCE,
    SCORES,
    agrees_with,
    find_paper,
)


def compare_with_p1(metrics: Mapping[str, Any], log_rows: Sequence[Mapping[str, Any]]) -> Table:
    """Returns P1's Table 1 with this run below.

    Args:
        metrics: As `evaluate_detections` returns them.
        log_rows: Rows of log.csv.
    """
    rows = [
        [
            f"P1: {model.name}",
            *(f"{getattr(model, key):.3f}" for key, _ in SCORES),
            f"{model.train_loss:.3f}",
        ]
        for model in P1_TABLE_1
    ]
    ours = [format_score(metrics[key]) for key, _ in SCORES]
    losses = column(log_rows, "loss")
    losses = losses[losses == losses]
    rows.append(["This run", *ours, f"{losses[-1]:.3f}" if len(losses) else "-"])
    return Table(
        ["Model", *(heading for _, heading in SCORES), "Train loss"],
        rows,
        f"{P1_TABLE_1_SOURCE}, with this run (95 % intervals over patients). P1 measured on "
        "images whose augmented copies it trained on, states neither score threshold nor number "
        "of test patients, and its loss has another scale: the rows are no race.",
        numbers=range(1, len(SCORES) + 2),
        strong=(len(rows) - 1,),
    )


def compare_train_and_test(metrics: Mapping[str, Any]) -> list[Block]:
    """Returns P2's Figure 3 with this run below, and its training beside its test images.

    Args:
        metrics: Of a run; with "train" where training images were measured too.
    """
    train = metrics.get("train")
    own = [("This run", "test", metrics["counts"], metrics["p2"])]
    if not train:
        return [build_p2_table(own)]
    own.insert(0, ("This run", "train", train["counts"], train["p2"]))
    return [
        describe_gap(train["p2"], metrics["p2"]),
        build_p2_table(own),
        _build_both(train, metrics),
    ]


def _build_both(train: Mapping[str, Any], test: Mapping[str, Any]) -> Table:
    """Sensitivity at 1 false positive an image, and mAP50, of both."""
    rows = []
    for name, part in (("train", train), ("test", test)):
        cells = [name, str(part["counts"]["patients"]), format_score(part["map50"])]
        cells += [score for _, score in list_at_one(part["froc"])]
        rows.append(cells)
    labels = [f"Sensitivity at 1 FP, {label}" for label, _ in list_at_one(test["froc"])]
    return Table(
        ["Split", "Patients", "mAP50", *labels],
        rows,
        "Training images as they are, without augmentation, "
        f"{train['counts']['images']} of them spread evenly, and test images; 95 % intervals over "
        "patients. What differs is what the network knows of these patients only.",
        numbers=range(1, 3 + len(labels)),
    )


def list_at_one(froc: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Lists overlap and sensitivity at 1 false positive an image in the main convention.

    Args:
        froc: As `evaluate_froc` returns it.
    """
    place = froc["fp_per_image"].index(1.0)
    return [
        (row["label"], format_score(row["sensitivity"][place]))
        for row in froc["rows"]
        if row["convention"] == froc["convention"]
    ]


def compare_data_sets(metrics: Mapping[str, Any]) -> list[Block]:
    """Returns the scores in other conventions of boxes and on further data sets, if there are any.

    Args:
        metrics: Of a run; "box_conventions" maps a convention, "test_sets" a data set and a
            convention to scores.
    """
    parts = {"its own test split": metrics.get("box_conventions", {})}
    parts |= metrics.get("test_sets", {})
    rows = [
        [data_set, convention.replace("_", " "), str(scores["counts"]["lesions"])]
        + [format_score(scores["map50"])]
        + [text for _, text in list_at_one(scores["froc"])]
        for data_set, of_set in parts.items()
        for convention, scores in of_set.items()
    ]
    if not rows:
        return []
    labels = [f"Sensitivity at 1 FP, {label}" for label, _ in list_at_one(metrics["froc"])]
    caption = (
        "The same weights on data sets that were not trained on, and against boxes of either "
        "convention: tight about the lesion, or RECIST's extent with 5 px around it, as DeepLesion "
        "stores them. 95 % intervals over patients."
    )
    header = ["Data set", "Boxes", "Lesions", "mAP50", *labels]
    return [Table(header, rows, caption, range(2, len(header)))]


def describe_recipe(
    recipe_json: Mapping[str, Any], values: Mapping[str, Any], experiment: str
) -> list[Block]:
    """Returns where a recipe differs from its paper's, and all its fields.

    Args:
        recipe_json: The run's recipe.json.
        values: Its fields by path.
        experiment: Whose recipe it is ("ssd").
    """
    paper, says = find_paper(experiment, values)
    differing, rows = [], []
    for path, value in values.items():
        agrees = agrees_with(says, path, value)
        said = says.get(path)
        cells = [path, format_value(value), f"{said.said} ({paper}, {said.place})" if said else ""]
        rows.append([*cells, {None: "", True: "same", False: "differs"}[agrees]])
        if agrees is False:
            differing.append(cells)
    digest = recipe_json.get("digest", "")
    header = ["Field", "This run", paper]
    first: Block = Paragraph(f"All that {paper} states of the fields below is used as stated.")
    if differing:
        first = Table(header, differing, f"Where this run differs from what {paper} states.")
    caption = f"Digest {digest}." if digest else ""
    if not paper:
        plain = [row[:2] for row in rows]
        return [Table(header[:2], plain, caption, folded=f"All {len(rows)} fields")]
    everything = Table([*header, ""], rows, caption, folded=f"All {len(rows)} fields")
    return [first, everything]
