import numpy as np
import pytest

from lesionkeras.data.splits import (
    PAPER_WARNING,
    check_disjoint,
    hold_out_patients,
    make_copies,
    split_as_paper,
)
from lesionkeras.errors import DataError

PATIENTS = ["a", "b", "a", "c", "d", "b", "e", "a"]


def test_patient_in_two_splits_is_an_error():
    splits = {"train": ["7", "9", "8"], "validation": ["3"], "test": ["4", "9", "8"]}
    with pytest.raises(DataError) as caught:
        check_disjoint(splits)
    assert str(caught.value) == (
        "A patient is in two splits in patient 8: found train and test, wanted one split a "
        "patient; move all images of the patient to one of them."
    )


def test_patient_with_many_images_in_one_split_is_none():
    check_disjoint({"train": ["7", "7"], "validation": [], "test": ["4", "4"]})


@pytest.mark.parametrize(("fraction", "num_held"), [(0.4, 2), (0.0, 1), (0.1, 1), (0.99, 4)])
def test_hold_out_is_by_patient(fraction, num_held):
    kept, held = hold_out_patients(PATIENTS, fraction, seed=4)
    assert sorted([*kept, *held]) == list(range(len(PATIENTS)))
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)
    kept_patients, held_patients = ({PATIENTS[i] for i in rows} for rows in (kept, held))
    assert len(held_patients) == num_held
    assert not kept_patients & held_patients


def test_hold_out_follows_the_seed():
    held = {seed: hold_out_patients(PATIENTS, 0.4, seed)[1].tolist() for seed in range(8)}
    assert hold_out_patients(PATIENTS, 0.4, 3)[1].tolist() == held[3]
    assert len(set(map(tuple, held.values()))) > 3


def test_one_patient_cannot_be_divided():
    with pytest.raises(DataError) as caught:
        hold_out_patients(["a", "a"], 0.5, seed=0)
    assert str(caught.value) == (
        "Patients cannot be held out in data.validation_fraction: found 1 patient, wanted two at "
        "least; set data.validation_fraction=0."
    )


def test_copies_of_the_paper():
    rows = make_copies(1267, 4)
    assert rows.shape == (6335, 2)  # P1, 3.2.2
    assert rows[:6].tolist() == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [1, 0]]
    assert rows[-1].tolist() == [1266, 4]
    assert make_copies(3, 0).tolist() == [[0, 0], [1, 0], [2, 0]]


def test_papers_split_is_80_to_20_and_leaks():
    rows = make_copies(1267, 4)
    train, test = split_as_paper(rows, seed=0)
    assert (len(train), len(test)) == (5068, 1267)
    assert sorted(map(tuple, [*train, *test])) == sorted(map(tuple, rows))
    both_sides = set(train[:, 0]) & set(test[:, 0])
    # an image has no copy among the test rows once in 1 / .8**5, about three times
    assert len(both_sides) > 0.6 * 1267
    assert np.array_equal(split_as_paper(rows, seed=0)[0], train)
    assert not np.array_equal(split_as_paper(rows, seed=1)[0], train)


def test_warning_says_that_it_leaks():
    assert PAPER_WARNING == (
        "This split leaks: P1 divides the augmented copies 80/20, so that copies of one image, "
        "and images of one patient, are both trained and tested on; its figures say nothing about "
        "new patients."
    )
