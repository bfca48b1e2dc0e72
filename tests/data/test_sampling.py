import numpy as np
import pytest

from lesionkeras.data.sampling import (
    LEAK_WARNINGS,
    P3_STUDIES,
    describe_leak,
    divide_slices,
    hold_out_named,
    sample_as_p3,
)
from lesionkeras.errors import DataError

# Ten slices a volume; patients a and c have two volumes each, like LiTS's first and fourth.
OWNERS = {"a1": "a", "a2": "a", "b1": "b", "c1": "c", "c2": "c", "d1": "d", "e1": "e"}
VOLUMES = [volume for volume in OWNERS for _ in range(10)]
PATIENTS = [OWNERS[volume] for volume in VOLUMES]


def name(rows, names):
    return {names[i] for i in rows}


def divide(protocol, fraction=0.2, seed=0):
    kept, held = divide_slices(PATIENTS, VOLUMES, protocol, fraction, seed)
    assert sorted([*kept, *held]) == list(range(70))
    assert kept.tolist() == sorted(kept) and held.tolist() == sorted(held)
    return kept, held


@pytest.mark.parametrize("protocol", ["patient", "p3"])
@pytest.mark.parametrize("seed", range(6))
def test_patients_stay_whole(protocol, seed):
    kept, held = divide(protocol, seed=seed)
    assert len(held) >= 10 and len(kept) >= 10
    assert not name(kept, PATIENTS) & name(held, PATIENTS)
    assert describe_leak(protocol, [PATIENTS[i] for i in kept], [PATIENTS[i] for i in held]) == ""


def test_share_of_the_patients():
    assert {len(name(divide("patient", 0.4, seed)[1], PATIENTS)) for seed in range(5)} == {2}
    assert len({tuple(divide("patient", 0.4, seed)[1]) for seed in range(8)}) > 3


def test_volumes_divide_patients_and_that_is_said():
    leaks = 0
    for seed in range(10):
        kept, held = divide("volume", 0.3, seed)
        assert len(name(held, VOLUMES)) == 2 and not name(kept, VOLUMES) & name(held, VOLUMES)
        sides = [[PATIENTS[i] for i in rows] for rows in (kept, held)]
        shared = bool(set(sides[0]) & set(sides[1]))
        assert describe_leak("volume", *sides) == (LEAK_WARNINGS["volume"] if shared else "")
        leaks += shared
    assert 0 < leaks < 10


def test_p5_holds_out_a_fifth_of_the_slices_and_that_is_said():
    kept, held = divide("p5")
    assert (len(kept), len(held)) == (56, 14)
    assert len(name(held, VOLUMES) & name(kept, VOLUMES)) > 3
    warning = describe_leak("p5", [PATIENTS[i] for i in kept], [PATIENTS[i] for i in held])
    assert warning == (
        "This split leaks: 20 % of the slices are held out at random (P5: of the data set), so "
        "that neighbouring slices of one scan are both trained and tested on; its figures say "
        "nothing about new patients."
    )


@pytest.mark.parametrize("num_pairs", [0, 8])
def test_p3_holds_out_13_of_131_studies(num_pairs):
    """With patients of two scans too, since one scan's worth of patients is left to fill up."""
    patients = [f"p{i // 2 if i < 2 * num_pairs else i}" for i in range(131)]
    volumes = [f"v{i}" for i in range(131)]
    for seed in range(5):
        kept, held = divide_slices(patients, volumes, "p3", 0.5, seed)
        assert (len(kept), len(held)) == P3_STUDIES == (118, 13)
        assert not name(kept, patients) & name(held, patients)


def test_p3_with_more_studies_a_patient_than_are_wanted():
    kept, held = divide_slices(list("aaaabbb"), list("1234567"), "p3", 0.5, 0)
    assert (kept.tolist(), held.tolist()) == ([0, 1, 2, 3], [4, 5, 6])


@pytest.mark.parametrize(
    ("protocol", "found"), [("patient", "1 patient"), ("p3", "1 patient"), ("volume", "1 volume")]
)
def test_one_cannot_be_divided(protocol, found):
    with pytest.raises(DataError) as caught:
        divide_slices(["a"] * 3, ["a1"] * 3, protocol, 0.2, 0)
    assert str(caught.value) == (
        f"Slices cannot be held out in data.protocol {protocol!r}: found {found}, wanted two at "
        "least; prepare more data, or name another data.protocol."
    )


@pytest.mark.parametrize("names", [("a", "d1"), ("a2", "d"), ("a1", "a2", "d")])
def test_named_patients_and_volumes_are_held_out_whole(names):
    kept, held = hold_out_named(PATIENTS, VOLUMES, names)
    assert name(held, VOLUMES) == {"a1", "a2", "d1"}
    assert name(kept, VOLUMES) == {"b1", "c1", "c2", "e1"}
    assert kept.tolist() == sorted(kept) and len(kept) + len(held) == 70


def test_a_name_that_is_not_there():
    with pytest.raises(DataError) as caught:
        hold_out_named(PATIENTS, VOLUMES, ("a", "f1"))
    assert str(caught.value) == (
        "Who is held out is not there in data.held_out: found 'f1', wanted patients or volumes of "
        "the data set: a, a1, a2, b, b1, c, c1, c2, ...; correct the name."
    )


def test_nobody_left():
    with pytest.raises(DataError) as caught:
        hold_out_named(["a", "b"], ["a1", "b1"], ("a", "b1"))
    assert str(caught.value) == (
        "Nobody is left to train on in data.held_out: found all 2 patients, wanted one patient "
        "less at least; name fewer."
    )


def make_flags():
    has_liver = np.bool_([1] * 20 + [0] * 10)
    has_lesion = np.bool_([1] * 6 + [0] * 24)
    return has_liver, has_lesion


@pytest.mark.parametrize(("most", "count"), [(4401, 6), (4, 4)])
def test_p3_draws_as_many_of_both_kinds(most, count):
    has_liver, has_lesion = make_flags()
    rows = sample_as_p3(has_liver, has_lesion, seed=3, most=most)
    assert rows.tolist() == sorted(set(rows)) and len(rows) == 2 * count
    assert has_lesion[rows].sum() == count and (~has_liver[rows]).sum() == count
    assert np.array_equal(sample_as_p3(has_liver, has_lesion, 3, most), rows)
    drawn = {tuple(sample_as_p3(has_liver, has_lesion, seed, most)) for seed in range(8)}
    assert len(drawn) > 3


def test_p3_of_the_papers_size():
    has_liver = np.arange(58_000) < 19_000
    rows = sample_as_p3(has_liver, np.arange(58_000) < 7_000, seed=0)
    assert len(rows) == 8802  # P3, 2.5


def test_p3_needs_both_kinds():
    with pytest.raises(DataError) as caught:
        sample_as_p3(np.bool_([1, 1, 1]), np.bool_([1, 1, 0]), seed=0)
    assert str(caught.value) == (
        "P3's sampling needs slices of two kinds in data.sampling 'p3': found 2 with liver and "
        "lesion, 0 with neither, wanted one of each at least; set data.sampling=all."
    )
