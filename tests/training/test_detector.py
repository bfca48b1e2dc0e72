"""The phases of a detector's training: what each trains on, and where it ends."""

import pytest

from lesionkeras.config import SSDRecipe
from lesionkeras.data.pipeline import make_train, steps_per_epoch
from lesionkeras.recipe import override
from lesionkeras.training.detector import list_phases
from tests.data.made import make_split

RECIPE = override(
    SSDRecipe(),
    {
        "train.epochs": 10,
        "train.batch_size": 6,
        "train.images_per_epoch": 30,
        "train.whole_image_batch_size": 2,
        "augment.crop_size_px": 32,
    },
)


@pytest.mark.parametrize(("share", "ends"), [(0.0, 10), (0.2, 8), (0.25, 8), (1.0, 0)])
def test_crops_come_first_and_whole_images_last(share, ends):
    recipe = override(RECIPE, {"train.whole_image_fraction": share})
    split = make_split(4, side_px=64)
    steps = steps_per_epoch(split, recipe)
    crops, whole = list_phases(recipe, steps)
    assert (crops.train.epochs, whole.train.epochs) == (ends, 10)
    for phase, shape in ((crops, (6, 32, 32, 3)), (whole, (2, 64, 64, 3))):
        assert steps_per_epoch(split, phase) == steps == 5  # the schedule counts on it
        assert make_train(split, phase).element_spec[0].shape == shape
        assert phase.train.seed == recipe.train.seed and phase.model == recipe.model


@pytest.mark.parametrize("change", [{"augment.mode": "copies"}, {"augment.crop_size_px": 0}])
def test_without_crops_there_is_one_phase(change):
    recipe = override(RECIPE, change)
    assert list_phases(recipe, 5) == [recipe]


@pytest.mark.parametrize(("share", "seconds"), [(0.0, 100), (0.25, 75), (1.0, 0)])
def test_under_a_budget_phases_end_by_their_share_of_it(share, seconds):
    changes = {"train.whole_image_fraction": share, "train.cpu_budget_s": 100}
    crops, whole = list_phases(override(RECIPE, changes), 5)
    assert (crops.train.cpu_budget_s, whole.train.cpu_budget_s) == (seconds, 100)
    assert crops.train.epochs == whole.train.epochs == 0  # epochs do not end it
    (only,) = list_phases(override(RECIPE, {**changes, "augment.crop_size_px": 0}), 5)
    assert (only.train.epochs, only.train.cpu_budget_s) == (0, 100)
