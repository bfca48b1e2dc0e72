import numpy as np
import pytest

from lesionkeras.data.leak import LEAK_PROTOCOLS, choose_target, hold_out_target
from lesionkeras.errors import DataError

# Ten slices a volume, mixed up; a and c have two volumes each.
OWNERS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c"}
VOLUMES = [*OWNERS] * 10
PATIENTS = [OWNERS[volume] for volume in VOLUMES]
LESIONS = [row < 25 for row in range(50)]  # the first five slices of each volume


def name(rows, names=VOLUMES):
    return {names[i] for i in rows}


def test_a_scan_is_drawn_whose_patient_has_another():
    drawn = {choose_target(PATIENTS, VOLUMES, (), seed) for seed in range(30)}
    assert drawn == {"a1", "a2", "c1", "c2"}
    assert choose_target(PATIENTS, VOLUMES, (), 3) == choose_target(PATIENTS, VOLUMES, (), 3)
    assert choose_target(PATIENTS, VOLUMES, ("c2",), 0) == "c2"


@pytest.mark.parametrize("names", [("b1",), ("a",), ("x",), ("a1", "a2")])
def test_another_name_is_answered_with_those_that_there_are(names):
    with pytest.raises(DataError) as caught:
        choose_target(PATIENTS, VOLUMES, names, 0)
    assert str(caught.value) == (
        "A leak is measured on one scan whose patient has another in data.held_out: found "
        f"{', '.join(names)}, wanted one of a1, a2, c1, c2; correct --held-out, or leave it out to "
        "have one drawn."
    )


def test_data_without_a_patient_of_two_scans():
    with pytest.raises(DataError, match=r"No patient has two scans.*found 2 scans of 2 patients"):
        choose_target(["a", "b", "b"], ["a1", "b1", "b1"], (), 0)


@pytest.mark.parametrize("seed", range(3))
def test_the_same_slices_are_tested_on_and_less_and_less_is_trained_on(seed):
    found = {
        protocol: hold_out_target(PATIENTS, VOLUMES, LESIONS, protocol, "a2", 0.2, seed)
        for protocol in LEAK_PROTOCOLS
    }
    tested = {tuple(held) for _, held in found.values()}
    ((first, second),) = tested
    assert VOLUMES[first] == VOLUMES[second] == "a2" and first < second
    assert LESIONS[first] and not LESIONS[second]  # a tumour is tested on, whatever the seed
    kept = {protocol: rows for protocol, (rows, _) in found.items()}
    assert [len(rows) for rows in kept.values()] == [48, 40, 30]
    assert name(kept["leak-slices"]) == set(OWNERS) and first not in kept["leak-slices"]
    assert name(kept["leak-volumes"]) == set(OWNERS) - {"a2"}
    assert name(kept["leak-patients"]) == {"b1", "c1", "c2"}
    others = hold_out_target(PATIENTS, VOLUMES, LESIONS, "leak-slices", "a2", 0.2, seed + 10)[1]
    assert np.any(others != [first, second])


def test_nobody_is_left():
    with pytest.raises(DataError, match=r"Nobody is left to train on .*leak-patients.*found only"):
        hold_out_target(["a"] * 4, ["1", "1", "2", "2"], [True] * 4, "leak-patients", "1", 0.5, 0)


def test_a_scan_without_a_lesion_shows_no_leak():
    text = (
        "A leak is measured on a scan with a lesion in data.held_out: found none in 10 slices of "
        "a2, wanted a scan with one, whose patient has another scan; name it with --held-out."
    )
    with pytest.raises(DataError) as caught:
        hold_out_target(PATIENTS, VOLUMES, [False] * 50, "leak-slices", "a2", 0.2, 0)
    assert str(caught.value) == text
