"""A detector on data sets that it was not trained on, and in both conventions of boxes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lesionkeras.config import DetectionRecipe
from lesionkeras.data.box_convention import AS_STORED, CONVENTIONS, find_stored
from lesionkeras.data.opening import Split, Splits
from lesionkeras.files import write_json
from lesionkeras.inference.conventions import change_convention, find_learnt
from lesionkeras.inference.detect import Findings, detect_split
from lesionkeras.report.console import Counter
from lesionkeras.training.run import RunDirectory

Evaluate = Callable[[Findings], dict[str, Any]]
Detect = Callable[[Any], dict[str, Any]]


def name_files(data_set: str) -> tuple[str, str]:
    """Return the names of the files of a further data set's detections and of their truth.

    >>> name_files("deeplesion/liver")
    ('predictions-deeplesion-liver.json', 'truth-deeplesion-liver.json')
    """
    name = data_set.replace("/", "-")
    return f"predictions-{name}.json", f"truth-{name}.json"


def _evaluate_both(
    found: Findings, split: Split, recipe: DetectionRecipe, evaluate: Evaluate
) -> dict[str, dict[str, Any]]:
    learnt = find_learnt(recipe.data)
    if not learnt:  # of a mixture of boxes: what is found is held against what is stored
        return {AS_STORED: evaluate(found)}
    return {
        target: evaluate(change_convention(found, split, learnt, target)) for target in CONVENTIONS
    }


def _bring_together(found: Findings, split: Split, recipe: DetectionRecipe, name: str) -> Findings:
    """Detections and truth in one convention, where the detector learnt one."""
    learnt, asked = find_learnt(recipe.data), recipe.data.box_convention
    if not learnt:
        return found
    own = find_stored(name.partition("/")[0]) if asked == AS_STORED else asked
    return change_convention(found, split, learnt, own)


def measure_further(
    detect: Detect,
    splits: Splits,
    recipe: DetectionRecipe,
    directory: RunDirectory,
    found: Findings,
    evaluate: Evaluate,
) -> dict[str, Any]:
    """Measure what a recipe asks for beyond its own test split in its own boxes.

    Args:
        detect: From `inference.detect.make_detector`.
        splits: Of the run.
        recipe: Of the run.
        directory: Where predictions-NAME.json and truth-NAME.json are written, in one convention:
            the recipe's, or where that takes boxes as stored the further data set's own.
        found: On the run's own test split.
        evaluate: From findings to scores, at the run's score threshold.

    Returns:
        Nothing where nothing is asked for; else "box_conventions": convention -> scores of the test
        split, and "test_sets": data set -> convention -> scores.
    """
    data = recipe.data
    if data.box_convention == AS_STORED and not splits.further:
        return {}
    metrics: dict[str, Any] = {"test_sets": {}}
    if not splits.test.rows[:, 1].any():  # P1's copies have no boxes of their own
        metrics["box_conventions"] = _evaluate_both(found, splits.test, recipe, evaluate)
    for name, split in splits.further.items():
        with Counter(f"Testing {name}") as progress:
            there = detect_split(detect, split, recipe, progress)
        predictions, truth = name_files(name)
        shown = _bring_together(there, split, recipe, name)
        write_json(directory.path / predictions, shown.to_coco())
        write_json(directory.path / truth, shown.to_coco_truth())
        metrics["test_sets"][name] = _evaluate_both(there, split, recipe, evaluate)
    return metrics


def describe_further(metrics: dict[str, Any]) -> list[str]:
    """Return a line on each data set that was tested on besides, in each convention.

    Args:
        metrics: What metrics.json holds.
    """
    lines = []
    for name, scores in metrics.get("test_sets", {}).items():
        for convention, row in scores.items():
            words = {
                "map50": "mAP50",
                "recall": "recall",
                "fp_per_image": "false positives an image",
            }
            values = {key: row[key]["value"] for key in words}
            parts = [
                f"{word} {'undefined' if values[key] is None else f'{values[key]:.3f}'}"
                for key, word in words.items()
            ]
            lines.append(f"{name}, boxes {convention.replace('_', ' ')}: " + ", ".join(parts))
    return lines
