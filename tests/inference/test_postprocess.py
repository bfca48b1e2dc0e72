from dataclasses import fields, replace

import numpy as np
import pytest
from scipy import ndimage

from lesionkeras.config import PostprocessConfig
from lesionkeras.errors import RecipeError
from lesionkeras.inference.postprocess import (
    STEPS,
    close_slices,
    drop_faint_tumours,
    drop_small_tumours,
    fill_holes,
    keep_largest_liver,
    keep_slice_steps,
    keep_tumour_inside,
    list_variants,
    make_disc,
    postprocess,
)


def choose(closing_mm, fill_holes, largest, inside, least_mm3, neck_mm=0.0, peak=0.0):
    return PostprocessConfig(closing_mm, fill_holes, neck_mm, largest, inside, least_mm3, peak)


def be_sure(mask):
    return np.ones(mask.shape, np.float16)


OFF = choose(0.0, False, False, False, 0.0)
SPACING = (5.0, 1.0, 0.5)  # no two alike: a swapped axis fails


def parse(*slices):
    """Slices as text, rows with "/" between; "." is background."""
    rows = [[list(row.replace(".", "0")) for row in one.split("/")] for one in slices]
    return np.array(rows, np.uint8)


def show(mask):
    return ["/".join("".join(map(str, row)) for row in one).replace("0", ".") for one in mask]


def test_disc_is_round_in_mm():
    assert make_disc(0.0, (1.0, 1.0)).tolist() == [[1]]
    assert make_disc(1.0, (1.0, 0.5)).shape == (3, 5)
    assert make_disc(1.0, (0.5, 1.0)).shape == (5, 3)
    # 1.5 mm: y up to 1 px of 1 mm, where x reaches sqrt(1.25) = 1.1 mm = 2 px of .5 mm
    assert make_disc(1.5, (1.0, 0.5)).tolist() == [
        [0, 1, 1, 1, 1, 1, 0],
        [1] * 7,
        [0, 1, 1, 1, 1, 1, 0],
    ]


def test_closing_bridges_by_mm_in_the_slice_alone():
    # gaps of 2 px are 1 mm where pixels are .5 mm, and as wide as a disc of .5 mm
    mask = parse("2..2/..../..../2..2", "..../..../..../....")
    assert show(close_slices(mask, 0.5, SPACING)) == ["2222/..../..../2222", "..../..../..../...."]
    assert show(close_slices(mask, 0.5, (0.5, 0.5, 1.0)))[0] == "2..2/2..2/2..2/2..2"
    assert show(close_slices(mask, 0.4, SPACING)) == show(mask)


def test_closing_is_scipys_with_background_around():
    mask = (np.random.default_rng(0).random((3, 30, 40)) < 0.4).astype(np.uint8)
    found = close_slices(mask, 1.5, SPACING)
    disc = make_disc(1.5, SPACING[1:]).astype(bool)
    for one, wanted in zip(found, mask, strict=True):
        closed = ndimage.binary_closing(np.pad(wanted, 9), disc)[9:-9, 9:-9]
        assert np.array_equal(one, closed | (wanted > 0))


def test_closing_keeps_the_edge_and_gives_liver_to_liver():
    mask = parse("1.1.2/.....")
    assert show(close_slices(mask, 0.5, SPACING)) == ["11112/....."]  # 1 and 2 are one region
    assert show(close_slices(parse("2../..."), 3.0, SPACING)) == ["2../..."]  # no frame grows


def test_holes_are_filled_in_their_slice_with_what_encloses_them():
    mask = parse("111../1.1../111../.....", "22222/2...2/2.1.2/22222", "111../1..../111../.....")
    assert show(fill_holes(mask)) == [
        "111../111../111../.....",
        "22222/22222/22222/22222",
        "111../1..../111../.....",  # open: no hole
    ]


def test_a_hole_between_liver_and_tumour_becomes_liver():
    assert show(fill_holes(parse("1112/1..2/1112"))) == ["1112/1112/1112"]


def test_largest_liver_counts_voxels_of_its_tumour_too():
    mask = parse("11.111.2", "........")
    mask[1, 0, :2] = 2  # with its tumour the left piece has four voxels
    assert show(keep_largest_liver(mask, SPACING)) == ["11.....2", "22......"]


def test_largest_liver_is_no_tumour_alone():
    assert show(keep_largest_liver(parse("1.2222"), SPACING)) == ["1.2222"]
    assert show(keep_largest_liver(parse("..2222"), SPACING)) == ["..2222"]


def test_corners_do_not_connect():
    assert show(keep_largest_liver(parse("11./..1"), SPACING)) == ["11./..."]


def test_tumours_stay_where_they_touch_liver_in_any_direction():
    mask = parse("12.2", "...1")  # the second lies on liver of the next slice
    assert show(keep_tumour_inside(mask)) == ["12.2", "...1"]
    assert show(keep_tumour_inside(parse("12.2", "1..."))) == ["12..", "1..."]
    assert show(keep_tumour_inside(parse("2.2"))) == ["2.2"]  # a binary head has no liver


def test_small_tumours_go_by_their_volume():
    mask = parse("12.122", "......", "22....")  # 1 voxel, 2 and 2, of 2.5 mm3 each
    assert show(drop_small_tumours(mask, 5.0, SPACING)) == ["11.122", "......", "22...."]
    assert show(drop_small_tumours(mask, 5.01, SPACING)) == ["11.111", "......", "......"]
    assert show(drop_small_tumours(parse("2.22"), 5.0, SPACING)) == ["..22"]


def test_faint_tumours_go_by_their_highest_probability():
    mask = parse("12.122..2", ".2.......")
    prob = np.full(mask.shape, 0.2, np.float16)
    prob[1, 0, 1], prob[0, 0, 4], prob[0, 0, 8] = 0.9, 0.8, 0.84
    prob[0, 0, 3] = 1.0  # of a liver
    assert show(drop_faint_tumours(mask, prob, 0.85)) == ["12.111...", ".2......."]
    assert show(drop_faint_tumours(mask, prob, 0.8)) == show(mask)
    assert show(drop_faint_tumours(parse("2.22"), prob[:1, :, :4], 0.5)) == ["..22"]
    config = choose(0.0, False, False, False, 0.0, peak=0.85)
    assert show(postprocess(mask, prob, SPACING, config)) == ["12.111...", ".2......."]


def test_masks_alone_go_through_all_steps_but_that_of_the_peak():
    mask, config = parse("12.1.2"), replace(OFF, tumour_inside_liver=True, min_lesion_peak=0.85)
    with pytest.raises(RecipeError, match=r"min_lesion_peak: found 0\.85 and no tumour_prob, wa"):
        postprocess(mask, None, SPACING, config)
    alone = postprocess(mask, None, SPACING, replace(config, min_lesion_peak=0.0))
    assert show(alone) == ["12.1.."]


def test_steps_come_in_their_order():
    """The island's rim must go before its tumour can be found outside the liver."""
    mask = parse("111.12.2.2")
    assert show(postprocess(mask, be_sure(mask), SPACING, OFF)) == show(mask)
    config = choose(0.0, False, True, True, 0.0)
    assert show(postprocess(mask, be_sure(mask), SPACING, config)) == ["111......."]
    assert show(mask) == ["111.12.2.2"]  # nothing was written to
    closed = choose(0.5, False, True, True, 5.0)
    assert show(postprocess(mask, be_sure(mask), SPACING, closed)) == ["1111122222"]


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.field)
def test_no_step_fails_or_writes_on_an_empty_mask(step):
    mask = np.zeros((2, 3, 4), np.uint8)
    config = choose(1.0, True, True, True, 10.0, 8.0, 0.9)
    assert not step.apply(mask, be_sure(mask), SPACING, config).any()


def test_variants_add_one_step_after_the_other():
    config = choose(0.0, False, True, True, 8.0)
    variants = list(list_variants(config))
    assert [title for title, _, _ in variants] == [
        "none",
        "+ largest liver",
        "+ tumour inside the liver",
        "+ least lesion size",
        "all of these + closing",
        "all of these + holes filled",
        "all of these + necks cut",
        "all of these + least peak of a lesion",
    ]
    assert variants[0][1] == OFF and variants[3][1] == config
    assert variants[4][1].closing_mm > 0 and not variants[4][1].fill_holes
    assert variants[5][1] == choose(0.0, True, True, True, 8.0)
    assert [used for _, _, used in variants] == [True] * 4 + [False] * 4
    assert {step.field for step in STEPS} == {each.name for each in fields(PostprocessConfig)}


def test_slices_that_are_no_volume_have_the_steps_of_slices():
    config = choose(2.0, False, True, True, 8.0)
    kept = keep_slice_steps(config)
    assert kept == choose(2.0, False, False, False, 0.0)
    variants = list(list_variants(kept, by_slice=True))
    assert [title for title, _, _ in variants] == [
        "none",
        "+ closing",
        "all of these + holes filled",
    ]
    # what the kept steps do to a slice does not depend on the others
    mask = parse("2.2...", "..22..")
    whole = postprocess(mask, be_sure(mask), SPACING, replace(kept, fill_holes=True))
    for z in range(2):
        alone = postprocess(
            mask[z : z + 1], be_sure(mask[:1]), SPACING, replace(kept, fill_holes=True)
        )
        assert np.array_equal(alone[0], whole[z])
