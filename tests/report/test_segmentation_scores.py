"""What metrics.json says of a segmenter: volumes in 3-D, slices as the papers have them."""

import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from keras import ops

from lesionkeras.config import PostprocessConfig, UNetConfig
from lesionkeras.ct.nifti import read_nifti
from lesionkeras.data.segmentation import SegmentationSplit
from lesionkeras.inference.postprocess import NO_STEP
from lesionkeras.metrics.volumes import VolumeEvaluator
from lesionkeras.models import build
from lesionkeras.report import segmentation_scores
from lesionkeras.report.segmentation_scores import (
    SliceScores,
    compute_loss,
    describe_scores,
    make_validation,
    measure_volumes,
)
from lesionkeras.segmentation_losses import segmentation_loss
from tests.inference.test_volumes import PLACES, RECIPE, SIZES, make_split, read_labels

SPACING = (5.0, 1.0, 0.5)


def make_case(tumours, liver=range(2, 10)):
    """A liver with tumours at some columns; each is one voxel wide and four high."""
    mask = np.zeros((2, 8, 12), np.uint8)
    mask[0, 2:6, list(liver)] = 1
    for x in tumours:
        mask[0, 2:6, x] = 2
    return mask


@pytest.fixture(scope="module")
def described():
    evaluator = VolumeEvaluator()
    cases = (
        ("a", "one", make_case([3, 7]), make_case([3, 5, 9])),
        ("b", "one", make_case([4]), make_case([4, 5])),
        ("c", "two", make_case([]), make_case([6])),
    )
    for name, patient, truth, prediction in cases:
        evaluator.add(name, patient, truth, prediction, SPACING)
    return describe_scores(evaluator, seed=0)


def test_rows_by_hand(described):
    first, second, _ = described["protocol"]["corrected"]["per_case"]
    assert (first["case"], first["patient"]) == ("a", "one")
    assert first["tumour_dice"] == pytest.approx(2 * 4 / (8 + 12))
    assert first["tumour_sensitivity"] == 0.5 and first["tumour_rvd"] == 0.5
    assert (first["lesions"], first["lesions_found"], first["false_components"]) == (2, 1, 2)
    assert (first["recall_0"], first["precision_0"]) == (0.5, pytest.approx(1 / 3))
    assert first["tumour_mm3"] == 8 * 2.5 and first["liver_mm3"] == 32 * 2.5
    assert first["liver_dice"] == 1.0 and first["burden_error"] == pytest.approx(4 / 32)
    assert second["tumour_dice"] == pytest.approx(2 / 3) and not second["lesion_free"]
    assert second["tumour_msd_mm"] > 0 == second["liver_msd_mm"]


def test_a_case_without_a_lesion_is_no_zero_and_no_one(described):
    free = described["protocol"]["corrected"]["per_case"][2]
    assert free["lesion_free"] and math.isnan(free["tumour_dice"])
    assert free["false_positive_mm3"] == 10.0 and free["false_components"] == 1
    assert "tumour_assd_mm" not in free and free["liver_assd_mm"] == 0.0


def test_means_leave_out_what_does_not_exist_and_say_so(described):
    corrected = described["protocol"]["corrected"]
    figure = corrected["mean"]["tumour_dice"]
    assert figure["value"] == pytest.approx((0.4 + 2 / 3) / 2)
    assert corrected["counts"]["tumour_dice"] == 2 and corrected["counts"]["liver_dice"] == 3
    assert corrected["global"]["tumour_dice"]["value"] == pytest.approx(2 * 8 / (12 + 24))
    assert corrected["global"]["recall_0"]["value"] == pytest.approx(2 / 3)
    assert corrected["mean"]["false_components"]["value"] == pytest.approx(1.0)


def test_the_organisers_figures_stand_beside(described):
    lits = described["protocol"]["lits"]
    assert lits["per_case"][2]["tumour_dice"] == 0.0  # theirs: nothing is there, something found
    assert lits["mean"]["tumour_dice"] == pytest.approx((0.4 + 2 / 3 + 0.0) / 3)
    assert set(lits["mean"]) <= set(described["protocol"]["corrected"]["mean"])
    assert set(lits["global"]) == set(described["protocol"]["corrected"]["global"])


def test_every_true_lesion_has_a_row(described):
    rows = described["lesions"]
    assert [(row["case"], row["detected"]) for row in rows] == [
        ("a", True),
        ("a", False),
        ("b", True),
    ]
    assert rows[0]["dice"] == 1.0 and rows[2]["overlap"] == 0.5 and rows[0]["volume_mm3"] == 10.0


def test_slices_count_once_and_empty_ones_score_one():
    truths = np.zeros((3, 4, 4), np.uint8)
    predictions = truths.copy()
    truths[0, :2], predictions[0, :1] = 1, 1
    truths[0, 0, :2] = predictions[0, 0, :1] = 2
    predictions[2, 3] = 2  # of nothing
    scores = SliceScores()
    scores.add(truths[:2], predictions[:2])
    scores.add(truths[2:], predictions[2:])
    tumour, liver = scores.to_rows()
    assert tumour["target"] == "tumour" and liver["target"] == "liver"
    assert tumour["dice"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert liver["dice"] == pytest.approx((2 * 4 / 12 + 1 + 0) / 3)
    assert tumour["sensitivity"] == pytest.approx((0.5 + 1) / 2)  # the third slice has none
    assert tumour["accuracy"] == pytest.approx((15 / 16 + 1 + 12 / 16) / 3)
    assert "3 slices at 4 px" in tumour["definition"] and tumour["image_size_px"] == 4


def add_an_island(image, training=False):
    """What is there, and a tumour in a corner that is none."""
    logits = read_labels(image).numpy()
    logits[:, 14:17, 13:16] = 0, 0, 9
    return logits


def test_volumes_are_segmented_scored_with_and_without_steps_and_written(tmp_path, monkeypatch):
    split, own = make_split()
    recipe = replace(RECIPE, postprocess=PostprocessConfig())
    predict = lambda model, inference, target: lambda image: _softmax(model(image))  # noqa: E731
    monkeypatch.setattr(segmentation_scores, "make_predictor", predict)
    metrics = measure_volumes(split, recipe, add_an_island, tmp_path / "masks")
    rows = {row["step"]: row for row in metrics["postprocessing"]}
    assert list(rows)[:3] == ["none", "+ largest liver", "+ tumour inside the liver"]
    assert rows["none"]["false_components"] == 2 and rows["none"]["lesions"] == 2
    assert rows["+ largest liver"]["false_components"] == 2
    last = rows["+ tumour inside the liver"]
    assert last["false_components"] == 0 and last["lesions_found"] == 2 and last["used"]
    assert last["tumour_dice"] > rows["none"]["tumour_dice"] > 0.5
    per_case = metrics["protocol"]["corrected"]["per_case"]
    assert [row["case"] for row in per_case] == list(SIZES)
    assert np.mean([row["tumour_dice"] for row in per_case]) == pytest.approx(last["tumour_dice"])
    assert metrics["slices"][0]["dice"] > 0.8 and metrics["num_resamples"] > 0
    for name, first in (("v1", 0), ("v2", 3)):
        written = read_nifti(tmp_path / "masks" / f"{name}.nii.gz", "mask")
        _, _, y_mm, x_mm = SIZES[name]
        np.testing.assert_allclose(written.spacing_mm, (5.0, y_mm, x_mm), rtol=1e-5)
        truth = np.stack([own[first + 1], own[first + 2], own[first]])
        assert written.array.shape == truth.shape
        np.testing.assert_allclose(written.affine, PLACES[name], atol=1e-4)
        assert written.source.code == {"v1": "RAS", "v2": "LPS"}[name]
        a, b = written.array == 2, truth == 2
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) > 0.8


@pytest.mark.parametrize(("target", "other"), [("tumour", "liver"), ("liver", "tumour")])
def test_a_binary_head_says_nothing_of_the_other_structure(tmp_path, target, other):
    split, _ = make_split()
    recipe = replace(
        RECIPE,
        model=replace(RECIPE.model, head="binary"),
        loss=replace(RECIPE.loss, target=target),
        postprocess=NO_STEP,
    )
    least = {"tumour": 0.7, "liver": 0.3}[target]  # between the greys of what is found and not
    model = lambda image, training: 40.0 * (image - least)  # noqa: E731
    metrics = measure_volumes(split, recipe, model, tmp_path / "masks")
    corrected = metrics["protocol"]["corrected"]
    for row in corrected["per_case"]:
        assert row[f"{target}_dice"] > 0.85 and math.isnan(row[f"{other}_dice"])
        assert math.isnan(row["burden_error"]) and row["liver_mm3"] > row["tumour_mm3"] > 0
        lesion_keys = ("recall_0", "precision_50", "lesions_found", "false_components")
        lesion_keys += ("false_positive_mm3", "predicted_tumour_mm3")
        for key in lesion_keys:
            assert math.isnan(row[key]) == (target == "liver"), key
        assert row["lesions"] == 1  # the truth's
    assert math.isnan(corrected["mean"][f"{other}_assd_mm"])
    assert corrected["mean"][f"{target}_assd_mm"]["value"] < 1.0
    assert [row["target"] for row in metrics["slices"]] == [target]
    step = metrics["postprocessing"][0]
    assert math.isnan(step[f"{other}_dice"])
    assert math.isnan(step["lesions_found"]) == (target == "liver")
    assert bool(metrics["lesions"]) == (target == "tumour")
    assert corrected["counts"][f"{other}_dice"] == corrected["counts"]["burden_error"] == 0
    assert corrected["counts"][f"{target}_dice"] == 2
    assert isinstance(corrected["mean"]["false_components"], dict) == (target == "tumour")


def test_scattered_slices_have_overlap_alone(tmp_path):
    """P5 draws slices: what is left of a scan is no volume."""
    split, _ = make_split()
    part = SegmentationSplit(split.slices, np.array([0, 1, 3, 4]))  # slices 2 and 0 of both
    steps = PostprocessConfig(closing_mm=2.0, min_lesion_mm3=15.0)
    recipe = replace(RECIPE, postprocess=steps)
    metrics = measure_volumes(part, recipe, read_labels, tmp_path / "masks")
    assert metrics["scattered"] and list(metrics["protocol"]) == ["corrected"]
    assert not (tmp_path / "masks").exists() and metrics["lesions"] == []
    corrected = metrics["protocol"]["corrected"]
    tables = [*corrected["per_case"], corrected["mean"], corrected["global"]]
    keys = set().union(*tables, corrected["counts"])
    assert {"tumour_dice", "liver_dice", "tumour_sensitivity", "tumour_voe"} <= keys
    assert not [k for k in keys if k.endswith(("_mm", "_mm3")) or "lesions" in k or "burden" in k]
    assert not [k for k in keys if k.startswith(("recall", "precision", "false"))]
    assert [row["step"] for row in metrics["postprocessing"]] == [
        "none",
        "+ closing",
        "all of these + holes filled",
    ]
    assert all("lesions_found" not in row for row in metrics["postprocessing"])
    assert corrected["mean"]["tumour_dice"]["value"] > 0.8
    assert metrics["slices"][0]["definition"].startswith("mean over 4 slices")


def test_the_organisers_figures_are_of_arrays_as_stored(tmp_path, monkeypatch):
    """Their program numbers components along the file's axes: what it gives depends on them."""
    split, own = make_split()
    given = {}

    class Spy(VolumeEvaluator):
        def add(self, case, patient, truth, prediction, spacing_mm):
            given[case] = truth, spacing_mm
            return super().add(case, patient, truth, prediction, spacing_mm)

    monkeypatch.setattr(segmentation_scores, "VolumeEvaluator", Spy)
    measure_volumes(split, RECIPE, read_labels, tmp_path / "masks")
    first, second = (np.stack([own[i + 1], own[i + 2], own[i]]) for i in (0, 3))
    assert np.array_equal(given["v1"][0], first[:, ::-1, ::-1])  # RAS
    assert np.array_equal(given["v2"][0], second)  # LPS
    np.testing.assert_allclose(given["v2"][1], (5.0, *SIZES["v2"][2:]), rtol=1e-6)


def _softmax(logits):
    exp = np.exp(logits - logits.max(-1, keepdims=True))
    return exp / exp.sum(-1, keepdims=True)


def test_validation_scores_volumes_and_a_plateau_gets_its_loss():
    split, _ = make_split()
    assert make_validation(None, RECIPE) is None
    scores = make_validation(split, RECIPE)(read_labels)
    assert set(scores) == {"tumour_dice", "liver_dice"}
    assert scores["tumour_dice"] > 0.85 and scores["liver_dice"] > 0.95
    plateau = replace(RECIPE, optimizer=replace(RECIPE.optimizer, schedule="plateau"))
    found = make_validation(split, plateau)(read_labels)
    assert found["loss"] == pytest.approx(compute_loss(read_labels, split, plateau))


@pytest.mark.parametrize("target", ["tumour", "liver"])
def test_validation_of_one_structure_says_nothing_of_the_other(target):
    split, _ = make_split()
    model, loss = replace(RECIPE.model, head="binary"), replace(RECIPE.loss, target=target)

    def belongs(image, training=False):
        first = {"tumour": 2, "liver": 1}[target]
        others, own = read_labels(image)[..., :first], read_labels(image)[..., first:]
        return ops.max(own, -1, keepdims=True) - ops.max(others, -1, keepdims=True)

    scores = make_validation(split, replace(RECIPE, model=model, loss=loss))(belongs)
    assert list(scores) == [f"{target}_dice"] and scores[f"{target}_dice"] > 0.85


def test_validation_without_any_tumour_found_or_there_is_zero():
    split, _ = make_split()
    nothing = lambda image, training: read_labels(image) * 0.0 + [1.0, 0.0, 0.0]  # noqa: E731
    assert make_validation(split, RECIPE)(nothing) == {"tumour_dice": 0.0, "liver_dice": 0.0}


def test_the_loss_is_the_mean_of_the_batches():
    split, _ = make_split()
    recipe = replace(RECIPE, train=replace(RECIPE.train, batch_size=6))
    masks = np.stack([split.slices.masks[row] for row in range(6)])
    images = np.stack([split.slices.read_image(row, 1) for row in range(6)]) / np.float32(100)
    wanted = segmentation_loss(read_labels(np.clip(images, 0, 1)), masks, recipe.loss)
    assert compute_loss(read_labels, split, recipe) == pytest.approx(float(wanted), rel=1e-4)


def test_every_slice_counts_as_much_in_the_loss_whatever_its_batch():
    """Six slices in batches of four: the last two are no third of a mean."""
    split, _ = make_split()
    cross_entropy = replace(RECIPE.loss, dice_weight=0.0, cross_entropy_weight=1.0)
    losses = [
        compute_loss(
            read_labels,
            split,
            replace(RECIPE, loss=cross_entropy, train=replace(RECIPE.train, batch_size=size)),
        )
        for size in (6, 4)
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_a_test_runs_the_folded_network_and_scores_the_same(tmp_path, monkeypatch):
    split, _ = make_split()
    keras.utils.set_random_seed(1)
    model = build(UNetConfig(in_channels=1, base_channels=4, depth=2))
    seen = []
    real = segmentation_scores.make_predictor
    spy = lambda network, *words: seen.append(network) or real(network, *words)  # noqa: E731
    monkeypatch.setattr(segmentation_scores, "make_predictor", spy)
    folded = measure_volumes(split, RECIPE, model, tmp_path / "masks")
    monkeypatch.setattr(segmentation_scores, "fold_norms", lambda network: network)
    plain = measure_volumes(split, RECIPE, model, tmp_path / "masks")
    kinds = [{type(layer).__name__ for layer in network.layers} for network in seen]
    assert "FusedBatchNormalization" in kinds[1] - kinds[0]
    for name in ("tumour", "liver"):
        found, wanted = (
            m["protocol"]["corrected"]["mean"][f"{name}_dice"] for m in (folded, plain)
        )
        assert found["value"] == pytest.approx(wanted["value"], abs=1e-3)
