import math
import tracemalloc

import numpy as np
import pytest

from lesionkeras.errors import DataError, RecipeError
from lesionkeras.metrics.volumes import (
    PROTOCOLS,
    REASONS,
    VolumeEvaluator,
    compare_protocols,
    evaluate_case,
)

SPACING_MM = (5.0, 0.5, 2.0)  # 5 mm3 a voxel


def make(true=(), predicted=()):
    """A liver of 48 voxels in a volume of 96, with tumour at columns of the first row."""
    truth, prediction = np.zeros((2, 2, 4, 12), np.uint8)
    truth[0] = prediction[0] = 1
    truth[0, 0, list(true)] = prediction[0, 0, list(predicted)] = 2
    return truth, prediction


def evaluate(*cases):
    evaluator = VolumeEvaluator()
    for place, (patient, true, predicted) in enumerate(cases):
        evaluator.add(f"case-{place}", patient, *make(true, predicted), SPACING_MM)
    return evaluator


CASES = (
    ("a", (0, 1), (0, 1)),  # Dice 1
    ("b", (0, 1), (1, 2, 3, 4)),  # 2 / 6; intersection by union 1 / 5
    ("c", (), (5, 7)),  # no lesion, 10 mm3 in vain
    ("d", (), ()),  # no lesion, left clean
)


def test_lesion_free_cases_are_neither_1_nor_dropped():
    found = evaluate(*CASES).summarise("corrected")
    assert (found["num_cases"], found["num_patients"]) == (4, 4)
    dice = found["tumour"]["dice"]
    assert (dice["value"], dice["num_cases"]) == (pytest.approx((1 + 1 / 3) / 2), 2)
    free = found["lesion_free"]
    assert (free["num_cases"], free["num_left_clean"]) == (2, 1)
    assert free["false_positive_mm3"]["value"] == 5.0
    assert free["specificity"]["value"] == pytest.approx((94 / 96 + 1) / 2)
    assert free["false_positive_mm3_of_all_cases"]["value"] == pytest.approx((15 + 10) / 4)
    assert found["tumour"]["num_present"] == 2 and found["tumour"]["num_predicted_empty"] == 0
    # What was predicted in vain counts in the global Dice, by voxels.
    assert found["tumour"]["dice_global"]["value"] == pytest.approx(2 * 3 / (4 + 8))


def test_lesions_are_pooled_over_cases():
    found = evaluate(*CASES).summarise("corrected")["lesions"]
    above_0, above_half = found["0"], found["0.5"]
    assert above_0["recall"]["value"] == 1.0
    assert above_0["precision"]["value"] == pytest.approx(2 / 4)
    assert (above_half["num_found"], above_half["num_missed"]) == (1, 1)
    assert (above_half["num_true_components"], above_half["num_false_components"]) == (1, 3)
    assert above_half["f1"] == pytest.approx(2 * 0.5 * 0.25 / 0.75)
    assert above_half["false_per_case"]["value"] == 0.75


def test_missed_lesions_count_as_0_in_dice_per_lesion():
    evaluator = evaluate(("a", (0, 3), (0,)), ("b", (), (2,)))
    found = evaluator.summarise("corrected")["dice_per_lesion"]
    assert (found["value"], found["num_lesions"], found["num_cases"]) == (0.5, 2, 1)


def test_a_missed_tumour_stays_in_the_mean_and_is_counted_where_it_has_no_distance():
    found = evaluate(("a", (0,), (0,)), ("b", (0,), ())).summarise("corrected")["tumour"]
    assert (found["dice"]["value"], found["dice"]["num_cases"]) == (0.5, 2)
    assert (found["assd_mm"]["value"], found["assd_mm"]["num_cases"]) == (0.0, 1)
    assert found["num_predicted_empty"] == 1


def test_lits_has_1_for_a_case_that_is_clean():
    found = evaluate(*CASES).summarise("lits")
    assert found["dice_per_case"]["lesion"] == [1.0, pytest.approx(1 / 3), 0.0, 1.0]
    assert found["lesion_segmentation"]["dice_per_case"] == pytest.approx((2 + 1 / 3) / 4)


def test_burden_errors():
    found = evaluate(("a", (0, 1), (0,)), ("b", (), (1, 2, 3)))
    burden = found.summarise("corrected")["tumour_burden"]
    assert burden["max_absolute"] == pytest.approx(3 / 48)
    assert burden["rmse"]["value"] == pytest.approx(math.sqrt((1 + 9) / 2) / 48)
    lits = found.summarise("lits")
    assert lits["tumour_burden_max"] == pytest.approx(1 / 48)  # of signed values
    assert lits["tumour_burden_rmse"] == pytest.approx(burden["rmse"]["value"])


def test_a_case_without_a_predicted_liver_stays_in_the_burdens_error():
    evaluator = VolumeEvaluator()
    truth, prediction = make((0, 1), (0, 1))
    evaluator.add("good", "a", truth, prediction, (1.0, 1.0, 1.0))
    evaluator.add("lost", "b", truth, np.zeros_like(truth), (1.0, 1.0, 1.0))
    burden = evaluator.summarise("corrected")["tumour_burden"]
    assert burden["num_undefined"] == 0 and burden["rmse"]["num_cases"] == 2
    assert burden["max_absolute"] == pytest.approx(2 / 48)
    evaluator.add("no liver", "c", np.zeros_like(truth), truth, (1.0, 1.0, 1.0))
    assert evaluator.summarise("corrected")["tumour_burden"]["num_undefined"] == 1


def test_intervals_are_over_patients():
    same = [("a", (0,), (0,)), ("a", (0,), (1,))]
    one = evaluate(*same).summarise("corrected")["tumour"]["dice"]
    assert one["value"] == 0.5 and math.isnan(one["low"]) and math.isnan(one["high"])
    # Cases of a patient come together: each patient's mean is .5, and so is every resample's.
    two = evaluate(*same, ("b", (0,), (1,)), ("b", (0,), (0,))).summarise("corrected")
    assert (two["tumour"]["dice"]["low"], two["tumour"]["dice"]["high"]) == (0.5, 0.5)
    apart = evaluate(*((str(i), *case[1:]) for i, case in enumerate(same * 3)))
    dice = apart.summarise("corrected")["tumour"]["dice"]
    assert dice["low"] < 0.5 < dice["high"]
    assert str(apart.summarise("corrected")) == str(apart.summarise("corrected"))
    low, high = apart.summarise("lits")["intervals"]["lesion_dice_per_case"]
    assert (low, high) == (dice["low"], dice["high"])


def test_a_summary_of_nothing_is_refused():
    with pytest.raises(DataError, match="There is no case to summarise"):
        VolumeEvaluator().summarise("corrected")


def test_an_unknown_protocol_is_refused():
    text = "A scoring protocol is unknown: found 'brats', wanted lits or corrected."
    with pytest.raises(RecipeError) as error:
        evaluate_case(*make(), SPACING_MM, "brats")
    assert str(error.value) == text
    with pytest.raises(RecipeError):
        evaluate(*CASES).summarise("brats")


def test_the_protocols_agree_where_there_is_nothing_to_differ_about():
    truth, prediction = make((0, 1), (0, 1))
    lits, corrected = (
        evaluate_case(truth, prediction, SPACING_MM, p) for p in ("lits", "corrected")
    )
    assert compare_protocols(lits, corrected) == ()


def test_differences_are_named_with_both_values_and_a_reason():
    case = evaluate(("a", (0, 2, 4), (0, 1, 2, 6))).cases[0]
    found = {row.score: row for row in compare_protocols(case.lits, case.corrected)}
    rvd = found["tumour RVD"]
    assert (rvd.lits, rvd.corrected) == (pytest.approx((2 - 3) / 3), pytest.approx((4 - 3) / 3))
    assert found["Dice per lesion"].corrected == pytest.approx((2 / 4 + 2 / 4 + 0) / 3)
    assert all(row.reason == REASONS[score] for score, row in found.items())
    assert found["tumour MSD mm"].lits != found["tumour MSD mm"].corrected
    clean = evaluate(("a", (), ())).cases[0]
    (row,) = compare_protocols(clean.lits, clean.corrected)
    assert row.score == "tumour Dice" and row.lits == 1.0 and math.isnan(row.corrected)


def test_a_liver_that_is_all_tumour_differs_in_every_score_by_one_fault():
    truth = np.zeros((3, 6, 6), np.uint8)
    truth[1, 1:5, 1:5], truth[1, 2, 2] = 1, 2
    prediction = np.where(truth > 0, np.uint8(2), np.uint8(0))
    lits, corrected = (evaluate_case(truth, prediction, SPACING_MM, p) for p in PROTOCOLS)
    rows = {row.score: row for row in compare_protocols(lits, corrected)}
    expected = {"Dice": (0, 1), "Jaccard": (0, 1), "VOE": (1, 0), "RVD": (9001, 0)}
    expected |= {f"{name} mm": (9001, 0) for name in ("ASSD", "RMSD", "MSD")}
    for name, values in expected.items():
        row = rows[f"liver {name}"]
        assert (row.lits, row.corrected) == values and row.reason.endswith("(7)")
    assert rows["tumour burden error"].reason.endswith("(7)")


def test_memory_stays_that_of_the_masks():
    shape = (160, 256, 256)
    z, y, x = np.ogrid[:160, :256, :256]
    truth = (((z - 80) / 70) ** 2 + ((y - 128) / 110) ** 2 + ((x - 128) / 110) ** 2 < 1).astype(
        np.uint8
    )
    truth[60:80, 100:140, 100:140] = 2
    prediction = np.roll(truth, 2, axis=2)
    evaluator = VolumeEvaluator()
    tracemalloc.start()
    evaluator.add("case", "a", truth, prediction, SPACING_MM)
    kept, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    volume = math.prod(shape)
    assert peak < 5 * volume, f"{peak / volume:.1f} bytes a voxel"
    assert kept < 1e5
