"""A made-up segmentation run: metrics.json, log.csv and slices, as the report takes them."""

from __future__ import annotations

from typing import Any

import numpy as np


def figure(value: float | None, half: float = 0.0) -> dict[str, float | None]:
    if value is None:
        return {"value": None, "low": None, "high": None}
    return {"value": value, "low": value - half, "high": value + half}


def make_case(name: str, patient: str, dice: float | None, **changes: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "case": name,
        "patient": patient,
        "tumour_dice": dice,
        "liver_dice": 0.9612,
        "tumour_jaccard": None if dice is None else dice / (2 - dice),
        "tumour_accuracy": 0.9991,
        "tumour_sensitivity": None if dice is None else dice + 0.05,
        "tumour_voe": None if dice is None else 1 - dice / (2 - dice),
        "tumour_rvd": None if dice is None else -0.125,
        "tumour_assd_mm": None if dice is None else 2.345,
        "tumour_rmsd_mm": None if dice is None else 4.567,
        "tumour_msd_mm": None if dice is None else 23.456,
        "liver_assd_mm": 1.234,
        "recall_0": None if dice is None else 0.75,
        "burden_error": -0.0123,
        "lesions": 0 if dice is None else 8,
        "lesions_found": 0 if dice is None else 6,
        "false_components": 3,
        "lesion_free": dice is None,
        "tumour_mm3": 0.0 if dice is None else 15900.0,
    }
    return row | changes


def make_protocol(dice: tuple[float | None, ...], shift: float = 0.0) -> dict[str, Any]:
    """Three cases of two patients, the last without a lesion."""
    free = {"false_positive_mm3": 1234.0}
    moved = [None if value is None else value + shift for value in dice]
    rows = [make_case(n, p, d) for n, p, d in zip("678", "FFG", moved, strict=True)]
    rows[2] |= free
    keys = ("tumour_dice", "liver_dice", "tumour_jaccard", "tumour_accuracy", "tumour_sensitivity")
    keys += ("tumour_voe", "tumour_assd_mm", "liver_assd_mm")
    mean = {}
    for key in keys:
        defined = [row[key] for row in rows if row[key] is not None]
        mean[key] = figure(float(np.mean(defined)), 0.031)
    pooled = {"tumour_dice": figure(0.7012, 0.05), "recall_0": figure(0.75, 0.1)}
    pooled |= {"precision_0": figure(12 / 21 - shift, 0.1), "burden_rmse": 0.0126}
    counts = {"tumour_dice": 2, "liver_dice": 3}
    return {"per_case": rows, "mean": mean, "counts": counts, "global": pooled}


def make_leaks() -> list[dict[str, Any]]:
    return [
        {
            "split": name,
            "held_out": "15 slices of 6",
            "trained": f"{1178 - 100 * i} slices of 4 scans",
            "tumour_dice": figure(dice, 0.01),
            "tumour_dice_global": figure(dice + 0.01),
            "liver_dice": figure(None),
            "liver_dice_by_slice": None,
        }
        for i, (name, dice) in enumerate(
            (("slices", 0.801), ("volumes", 0.742), ("patients", 0.651))
        )
    ]


def make_metrics() -> dict[str, Any]:
    rng = np.random.default_rng(2)
    volumes = np.exp(rng.uniform(np.log(40), np.log(60000), 16))
    lesions = [
        {
            "case": "67"[i % 2],
            "volume_mm3": float(v),
            "detected": bool(found := v > 300 or i % 3 == 0),
            "dice": float(np.clip(0.15 * np.log10(v) + rng.normal(0, 0.05), 0.1, 0.95))
            if found
            else None,
        }
        for i, v in enumerate(volumes)
    ]
    steps = [("none", 0.55, 0.951, 12, 41), ("+ largest liver component", 0.58, 0.963, 12, 30)]
    steps += [
        ("+ tumour inside liver", 0.66, 0.963, 12, 9),
        ("+ lesions of 50 mm3", 0.67, 0.963, 11, 9),
    ]
    by_slice = "mean of 217 slices at 128 px; a slice empty in both scores 1"
    return {
        "protocol": {
            "corrected": make_protocol((0.7234, 0.6123, None)),
            "lits": make_protocol((0.7234, 0.6123, None), shift=0.11),
        },
        "lesions": lesions,
        "postprocessing": [
            {
                "step": name,
                "tumour_dice": figure(tumour, 0.04),
                "liver_dice": liver,
                "lesions_found": found,
                "lesions": 16,
                "false_components": false,
                "used": i == 2,
            }
            for i, (name, tumour, liver, found, false) in enumerate(steps)
        ],
        "slices": [
            {"definition": by_slice, "target": "tumour", "dice": figure(0.8123, 0.02)}
            | {"jaccard": 0.7912, "accuracy": 0.9934, "sensitivity": None},
        ],
        "leaks": make_leaks(),
        "splits": {
            "train": {"slices": 1178, "volumes": 4, "patients": 3, "with_liver": 980},
            "test": {"slices": 114, "volumes": 3, "patients": 2, "with_liver": 101},
        },
        "leak": "",
        "best_epoch": 27,
        "cpu_seconds": 2400.4,
        "num_resamples": 1000,
    }


def make_log(epochs: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        row = {"epoch": epoch, "loss": 1.2 * np.exp(-epoch / 8) + 0.2, "seconds": 80.0}
        if epoch % 5 == 0:
            row |= {"val_loss": 1.2 * np.exp(-epoch / 9) + 0.3}
            row |= {"val_tumour_dice": 0.7 * (1 - np.exp(-epoch / 9)), "val_liver_dice": 0.95}
        rows.append(row)
    return rows


def draw_ellipse(size: int, y: float, x: float, height: float, width: float) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    return ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1


def make_examples(size: int = 256) -> list[dict[str, Any]]:
    """A liver with two tumours; the prediction is shifted, and in the worst case lacks one."""
    rng, s, examples = np.random.default_rng(1), size / 256, []
    for kind, shift, title in (
        ("worst", 9, "case 0, tumour Dice 0.21"),
        ("best", 1, "case 7, tumour Dice 0.93"),
        ("median", 4, "case 1, tumour Dice 0.62"),
    ):
        body = draw_ellipse(size, 130 * s, 128 * s, 90 * s, 118 * s)
        liver = draw_ellipse(size, 125 * s, 88 * s, 58 * s, 62 * s)
        tumours = [draw_ellipse(size, 105 * s, 80 * s, 14 * s, 11 * s)]
        tumours.append(draw_ellipse(size, 150 * s, 105 * s, 5 * s, 6 * s))
        image = np.where(body, 20.0, -1000.0) + 70.0 * liver - 50.0 * (tumours[0] | tumours[1])
        truth = np.where(tumours[0] | tumours[1], 2, liver.astype(int))
        moved = np.roll(tumours[0] if kind == "worst" else tumours[0] | tumours[1], shift, 1)
        prediction = np.where(moved, 2, np.roll(liver, shift // 2, 0).astype(int))
        examples.append(
            {
                "kind": kind,
                "title": title,
                "image_hu": (image + rng.normal(0, 14, image.shape)).astype(np.int16),
                "truth": truth.astype(np.uint8),
                "prediction": prediction.astype(np.uint8),
                "spacing_mm": (0.75 / s, 0.75 / s),
            }
        )
    return examples
