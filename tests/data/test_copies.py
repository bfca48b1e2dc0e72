"""Slices that two splits share under two names."""

import numpy as np
import pytest

from lesionkeras.data.copies import check_copies
from lesionkeras.errors import DataError

NOISE = np.random.default_rng(0).integers(-100, 200, (4, 9, 8)).astype(np.int16)


def test_a_copy_under_another_name_is_named():
    splits = {"train": [("a slice 1", NOISE[0]), ("a slice 2", NOISE[1])], "test": []}
    check_copies(splits | {"test": [("b slice 1", NOISE[2])]})
    with pytest.raises(DataError) as error:
        check_copies(splits | {"test": [("b slice 1", NOISE[2]), ("b slice 2", NOISE[1].copy())]})
    assert "One slice is in two splits in b slice 2 in test" in str(error.value)
    assert "found the pixels of a slice 2 in train" in str(error.value)


def test_what_stands_twice_in_one_split_is_no_leak():
    check_copies({"train": [("a", NOISE[0]), ("b", NOISE[0])], "test": [("c", NOISE[1])]})


def test_even_slices_say_nothing():
    even = np.full((9, 8), -1024, np.int16)
    check_copies({"train": [("a", even)], "test": [("b", even)]})
