"""P2's split of DeepLesion and the official one are not mixed."""

import pytest

from lesionkeras.config import DataConfig
from lesionkeras.data.data_sets import DataSets, list_further, list_pooled
from lesionkeras.errors import RecipeError

REASON = (
    "P2's split and the official one of DeepLesion cannot be mixed, as 197 of the 1,995 training "
    "lesions of P2's list are validation rows of the official split: found {}, wanted one of the "
    "two; {}."
)
REFUSED = {
    "config": (
        {"name": "deeplesion", "config": "liver", "protocol": "p2"},
        REASON.format(
            "--split p2 with --data deeplesion/liver",
            "give --data deeplesion, or --split patient",
        ),
    ),
    "protocol": (
        {"name": "lits+deeplesion", "config": "slices+p2"},
        REASON.format("--data deeplesion/p2 with the official split", "give --split p2"),
    ),
    "test sets": (
        {"name": "deeplesion", "protocol": "p2", "test_sets": ("lits", "deeplesion/liver")},
        REASON.format(
            "data.test_sets deeplesion/liver beside --split p2", "leave it out of data.test_sets"
        ),
    ),
    "tested on p2": (
        {"name": "lits+deeplesion", "config": "slices+all", "test_sets": ("deeplesion/p2",)},
        REASON.format(
            "data.test_sets deeplesion/p2 beside lits+deeplesion", "leave it out of data.test_sets"
        ),
    ),
    "tested elsewhere as P1": (
        {"name": "deeplesion", "protocol": "paper", "test_sets": ("lits",)},
        "P1's split has no other test images in --split paper: found data.test_sets; leave it out, "
        "or give --split patient.",
    ),
    "another data set": (
        {"name": "lits", "protocol": "p2"},
        "P2's split is of DeepLesion alone in --split p2: found --data lits, wanted --data "
        "deeplesion.",
    ),
    "counts": (
        {"name": "lits+ircadb01", "config": "slices"},
        "Every data set needs its own in data.config: found 1 for 2 data sets, wanted one a data "
        "set, in the order of --data.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused(case):
    values, text = REFUSED[case]
    with pytest.raises(RecipeError) as caught:
        list_pooled(DataConfig(**values))
    assert str(caught.value) == text


def test_what_is_not():
    pooled = DataConfig(name="lits+ircadb01", config="slices+slices", test_sets=("deeplesion/p2",))
    assert list_pooled(pooled) == [("lits", "slices"), ("ircadb01", "slices")]
    assert list_further(pooled) == [("deeplesion", "p2")]
    for config in ("", "p2"):
        data = DataConfig(name="deeplesion", config=config, protocol="p2", test_sets=("lits",))
        assert list_pooled(data) == [("deeplesion", "p2")]
    assert list_pooled(DataConfig()) == [("liver_phantom", "")]


def test_one_builder_is_data_sets_too():
    builder = object()
    assert DataSets.of(builder) == DataSets((builder,))
    both = DataSets((builder,), {"deeplesion/liver": object()})
    assert DataSets.of(both) is both
