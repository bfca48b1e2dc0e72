from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lesionkeras.config import DataConfig
from lesionkeras.data import prepared
from lesionkeras.data.prepared import choose_lesion_types, concatenate, prepare
from lesionkeras.errors import DataError
from tests.data.made import make_prepared

DATA = DataConfig(name="deeplesion", config="all", image_size_px=64, max_boxes=3)
LESION_HU, TISSUE_HU = 40, 100  # of the dummy data


def list_cache(builder):
    folder = Path(builder.data_path) / "cache"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def catch(builder, split, data):
    before = list_cache(builder)
    with pytest.raises(DataError) as caught:
        prepare(builder, split, data)
    assert list_cache(builder) == before
    return str(caught.value)


def test_split_of_one_square_image_as_it_is(deeplesion_all):
    train = prepare(deeplesion_all, "train", DATA)
    assert len(train) == 1
    assert (train.files, train.patients) == (("009001_01_01_010.png",), ("009001",))
    assert train.images.shape == (1, 64, 64, 3) and train.images.dtype == np.int16
    np.testing.assert_allclose(train.real_boxes(0), [[10, 20, 26, 32], [40, 5, 55, 18]], atol=1e-4)
    assert train.classes.tolist() == [[0, 0, -1]] and train.classes.dtype == np.int32
    assert not train.boxes[0, 2].any() and train.boxes.dtype == np.float32
    lesion = train.images[0, 20:32, 10:26]
    assert np.all(lesion == LESION_HU)
    background = [TISSUE_HU - 10, TISSUE_HU, TISSUE_HU + 10]  # previous, key, next
    assert train.images[0, 60, 60].tolist() == background
    np.testing.assert_allclose(train.spacing_mm, [[0.703125, 0.703125]])
    assert train.slice_mm.tolist() == [5.0]
    assert train.size_px.tolist() == [[64, 64]]


def test_image_that_is_not_square_is_scaled_per_axis(deeplesion_all):
    test = prepare(deeplesion_all, "test", replace(DATA, image_size_px=96))
    row = test.files.index("009003_01_02_005.png")  # 48 x 80 px, box x 60 to 80, y 30 to 45
    np.testing.assert_allclose(
        test.real_boxes(row), [[60 * 96 / 80, 30 * 2, 96, 45 * 2]], atol=1e-3
    )
    x1, y1, x2, y2 = test.real_boxes(row)[0].astype(int)
    assert np.all(test.images[row, y1 + 2 : y2 - 2, x1 + 2 : x2 - 1] == LESION_HU)
    assert np.all(test.images[row, y1 - 12 : y1 - 2, x1 + 2 : x2, 1] == TISSUE_HU)
    np.testing.assert_allclose(test.spacing_mm[row], [0.8 * 48 / 96, 0.8 * 80 / 96], rtol=1e-6)
    assert test.size_px[row].tolist() == [48, 80]
    assert test.images.min() == -1024  # padding of -3024 HU means air


def test_cache_is_written_once(deeplesion_all, monkeypatch):
    data, calls = replace(DATA, image_size_px=32), []
    first = prepare(deeplesion_all, "test", data, lambda *counts: calls.append(counts))
    assert calls == [(1, 2), (2, 2)]
    names = list_cache(deeplesion_all)
    monkeypatch.setattr(prepared, "_resized_examples", None)  # a second decoding would fail
    again = prepare(deeplesion_all, "test", data, lambda *counts: calls.append(counts))
    assert len(calls) == 2 and list_cache(deeplesion_all) == names
    assert isinstance(again.images, np.memmap)
    for name, value in vars(first).items():
        assert np.array_equal(value, getattr(again, name)), name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_size_px", 96),
        ("max_boxes", 4),
        ("keep_noisy", False),
        ("lesion_types", (2, 4)),
    ],
)
def test_what_changes_the_content_changes_the_name(deeplesion_all, field, value):
    changed = replace(DATA, **{field: value})
    names = {prepared._digest(deeplesion_all, "train", data) for data in (DATA, changed)}
    names.add(prepared._digest(deeplesion_all, "test", DATA))
    assert len(names) == 3
    window = replace(DATA, window_hu=(-100.0, 100.0))  # is applied at reading
    assert prepared._digest(deeplesion_all, "train", window) in names


@pytest.mark.parametrize(("error", "side_px"), [(KeyboardInterrupt, 160), (ValueError, 192)])
def test_interrupted_write_leaves_nothing(deeplesion_all, error, side_px):
    data, before = replace(DATA, image_size_px=side_px), list_cache(deeplesion_all)

    def stop(done, total):
        if done == 2:
            raise error

    with pytest.raises(error):
        prepare(deeplesion_all, "test", data, stop)
    assert list_cache(deeplesion_all) == before
    assert len(prepare(deeplesion_all, "test", data)) == 2
    assert len(list_cache(deeplesion_all)) == len(before) + 1


def test_another_process_may_be_faster(deeplesion_all):
    data = replace(DATA, image_size_px=128)

    def overtake(done, total):
        if done == 1:
            prepare(deeplesion_all, "test", data)

    before = list_cache(deeplesion_all)
    assert len(prepare(deeplesion_all, "test", data, overtake)) == 2
    assert len(list_cache(deeplesion_all)) == len(before) + 1


def test_too_many_boxes(deeplesion_all):
    assert catch(deeplesion_all, "train", replace(DATA, max_boxes=1)) == (
        "An image has more boxes than rows of ground truth in 009001_01_01_010.png: found 2 boxes, "
        "wanted at most 1; set data.max_boxes=2."
    )


def test_a_data_set_without_boxes_is_refused():
    volumes = SimpleNamespace(
        info=SimpleNamespace(name="lits", config_name="volumes", features={"image_hu": None})
    )
    with pytest.raises(DataError, match="no images with boxes in lits/volumes; take the config"):
        prepare(volumes, "train", DATA)


def test_unknown_split(deeplesion_all):
    assert catch(deeplesion_all, "tset", DATA) == (
        "A split has no images in data set deeplesion: found nothing in 'tset', wanted one of "
        "train, validation, test; name one with --train-split, --validation-split or --test-split."
    )


def test_noisy_lesions_and_their_images_are_dropped(deeplesion_all):
    kept = prepare(deeplesion_all, "test", DATA)
    assert sorted(kept.patients) == ["009003", "009004"]
    clean = prepare(deeplesion_all, "test", replace(DATA, keep_noisy=False))
    assert clean.patients == ("009004",)
    assert len(clean.images) == len(clean.boxes) == len(clean.size_px) == 1
    np.testing.assert_allclose(clean.real_boxes(0), [[8, 8, 24, 30]], atol=1e-4)
    assert np.all(clean.images[0, 8:30, 8:24] == LESION_HU)


def test_liver_teaches_liver_lesions_alone(deeplesion_liver, deeplesion_all):
    data = replace(DATA, config="liver")
    assert choose_lesion_types(deeplesion_liver, data) == (4,)
    assert choose_lesion_types(deeplesion_all, data) == ()
    train = prepare(deeplesion_liver, "train", data)
    np.testing.assert_allclose(train.real_boxes(0), [[10, 20, 26, 32]], atol=1e-4)
    both = prepare(deeplesion_liver, "train", replace(data, lesion_types=(2, 4)))
    assert len(both.real_boxes(0)) == 2


def test_chosen_types(deeplesion_all):
    abdomen = prepare(deeplesion_all, "train", replace(DATA, lesion_types=(2,)))
    np.testing.assert_allclose(abdomen.real_boxes(0), [[40, 5, 55, 18]], atol=1e-4)
    lung = prepare(deeplesion_all, "test", replace(DATA, lesion_types=(5, 2)))
    assert lung.patients == ("009004",)


def test_nothing_left(deeplesion_all, deeplesion_liver):
    assert catch(deeplesion_all, "train", replace(DATA, lesion_types=(5, 6))) == (
        "A split has no wanted lesion in 'train' of data set deeplesion: found all lesions of its "
        "1 images dropped, wanted lesions of type 5 or 6; change data.lesion_types or "
        "data.keep_noisy."
    )
    assert catch(deeplesion_liver, "test", replace(DATA, keep_noisy=False)) == (
        "A split has no wanted lesion in 'test' of data set deeplesion: found all lesions of its 1 "
        "images dropped, wanted lesions of type 4 that are not noisy; change data.lesion_types or "
        "data.keep_noisy."
    )


def test_images_without_lesions_stay_and_types_are_not_asked_of_others(tmp_path):
    from tfds_builders import open_builder

    builder = open_builder("liver_phantom", "tiny", tmp_path, None, False)
    data = DataConfig(image_size_px=32, lesion_types=(4,), keep_noisy=False)
    validation = prepare(builder, "validation", data)
    assert len(validation) == builder.info.splits["validation"].num_examples
    counts = (validation.classes >= 0).sum(axis=1)
    assert 0 in counts and counts.max() > 0
    whole = prepare(builder, "validation", DataConfig(image_size_px=32))
    assert np.array_equal(whole.boxes, validation.boxes)


@pytest.mark.real
def test_shared_liver_slices(real_data, tmp_path):
    """36 images of 15 patients; 002648 also has an abdominal box, which is no target."""
    from tfds_builders import open_builder

    builder = open_builder("deeplesion", "liver", tmp_path, real_data / "deeplesion", False)
    data = DataConfig(image_size_px=64)
    splits = {name: prepare(builder, name, data) for name in ("validation", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"validation": 19, "test": 17}
    both = concatenate(list(splits.values()))
    assert len(set(both.patients)) == 15
    boxes = {file: len(both.real_boxes(i)) for i, file in enumerate(both.files)}
    assert sum(boxes.values()) == 36 and boxes["002648_01_01_061.png"] == 1
    every = replace(data, lesion_types=(2, 4))
    assert sum((prepare(builder, s, every).classes >= 0).sum() for s in splits) == 37


def test_take_and_concatenate_keep_rows_together():
    images = make_prepared(5)
    taken = images.take([3, 0])
    assert taken.files == ("003.png", "000.png") and taken.patients == ("001", "000")
    assert np.array_equal(taken.images[0], images.images[3])
    joined = concatenate([taken, make_prepared(2, first=7)])
    assert joined.files == ("003.png", "000.png", "007.png", "008.png")
    assert joined.patients == ("001", "000", "003", "004")
    assert len(joined) == 4 and joined.boxes.shape == (4, 3, 4)
    assert np.array_equal(joined.images[2], make_prepared(1, first=7).images[0])


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    from tfds_builders import open_builder

    return open_builder("liver_phantom", "tiny", tmp_path_factory.mktemp("phantom"), None, False)


@pytest.mark.parametrize("pixel_mm", [0.0, 1.5])
def test_masks_lie_where_images_and_boxes_do(phantom, deeplesion_all, pixel_mm):
    data = replace(DATA, name="liver_phantom", image_size_px=192, pixel_mm=pixel_mm, max_boxes=20)
    train = prepare(phantom, "train", data)
    assert train.masks.shape == (12, 192, 192) and train.masks.dtype == np.uint8
    lesions = 0
    for row, mask in enumerate(train.masks):
        assert train.liver_px[row] == (mask == 1).sum()
        for x1, y1, x2, y2 in train.real_boxes(row).round().astype(int):
            lesions += 1
            assert (mask[y1 - 1 : y2 + 1, x1 - 1 : x2 + 1] == 2).any()
        liver_hu = train.images[row, ..., 1][mask == 1]
        assert not len(liver_hu) or 40 < np.median(liver_hu) < 180
    assert lesions > 5 and train.liver_px.max() > 1000
    bare = prepare(deeplesion_all, "train", DATA)
    assert bare.masks is None and not bare.liver_px.any()


def test_pixels_of_one_size_and_boxes_with_them(deeplesion_all):
    """64 px of 0.703125 mm on a square of 64 px of 1 mm: resized to 45 px, 9 px further in."""
    data = replace(DATA, pixel_mm=1.0)
    train = prepare(deeplesion_all, "train", data)
    assert train.resized_px.tolist() == [[45, 45]]
    scale, shift = 45 / 64, 9
    wanted = np.float32([[10, 20, 26, 32], [40, 5, 55, 18]])
    np.testing.assert_allclose(train.real_boxes(0), wanted * scale + shift, atol=1e-3)
    np.testing.assert_allclose(train.spacing_mm, [[1, 1]], rtol=1e-5)
    np.testing.assert_allclose(train.find_own_spacing_mm(0), [0.703125] * 2, rtol=1e-6)
    image = train.images[0]
    assert (
        (image[:9] == -1024).all() and (image[54:] == -1024).all() and (image[9:54, 9:54] > 0).all()
    )
    x1, y1, x2, y2 = train.real_boxes(0)[0].round().astype(int)
    assert (image[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] == LESION_HU).all()
    np.testing.assert_allclose(train.to_source(0, train.real_boxes(0)), wanted, atol=1e-3)
    np.testing.assert_allclose(train.from_source(0, wanted), train.real_boxes(0), atol=1e-3)
    plain = prepare(deeplesion_all, "train", DATA)
    np.testing.assert_allclose(plain.to_source(0, plain.real_boxes(0)), wanted, atol=1e-3)


def test_a_lesion_beyond_the_square_is_no_target_but_stays_true(deeplesion_all):
    """48 x 80 px of 0.8 mm at 0.4 mm a pixel: 96 x 160 px, of which the middle 64 x 64."""
    test = prepare(deeplesion_all, "test", replace(DATA, pixel_mm=0.4))
    row = test.files.index("009003_01_02_005.png")  # its box, x 60 to 80, begins at 72 of 64
    assert len(test.real_boxes(row)) == 0 and not test.boxes[row].any()
    boxes, classes = test.find_truth(row)
    np.testing.assert_allclose(boxes, [[60, 30, 80, 45]], atol=1e-4)
    assert classes.tolist() == [0]
    # at 0.72 mm 89 px, cut 12 px further in: x 54.75 to 77 of 64, of which two fifths are seen
    again = prepare(deeplesion_all, "test", replace(DATA, pixel_mm=0.72))
    (box,) = again.real_boxes(again.files.index("009003_01_02_005.png"))
    assert box[0] == pytest.approx(54.75) and box[2] == 64


@pytest.mark.parametrize("convention", ["tight", "recist_plus_5"])
def test_one_convention_for_both_kinds(deeplesion_all, phantom, convention):
    data = replace(DATA, box_convention=convention)
    names = list_cache(deeplesion_all)
    lesion = prepare(deeplesion_all, "train", data)
    assert list_cache(deeplesion_all) == names or len(names) == 0  # boxes alone differ
    wanted = {"tight": [15, 25, 21, 27], "recist_plus_5": [10, 20, 26, 32]}
    np.testing.assert_allclose(lesion.real_boxes(0)[0], wanted[convention], atol=1e-3)
    own = prepare(phantom, "train", replace(data, name="liver_phantom", config=""))
    sides = [
        np.ptp(own.find_truth(i, name)[0].reshape(-1, 2, 2), axis=1)
        for i in range(len(own))
        for name in ("tight", "recist_plus_5")
    ]
    growth = np.concatenate(sides[1::2]) - np.concatenate(sides[::2])
    inside = growth[(growth > 2).all(axis=1)]  # the others lie at an edge
    assert len(inside) > 3 and np.median(inside) < 10.5  # 10 px, less what diameters leave out
    assert own.convention == convention
    np.testing.assert_allclose(
        own.from_source(0, own.find_truth(0)[0]), own.real_boxes(0), atol=1e-2
    )


def test_as_stored_is_what_each_data_set_has(deeplesion_all, phantom):
    for builder, same in ((deeplesion_all, 2), (phantom, 1)):
        prepared = prepare(builder, "train", replace(DATA, config=""))
        stored, other = prepared.own_boxes[:, 0], prepared.own_boxes[:, 3 - same]
        assert np.array_equal(stored, prepared.own_boxes[:, same])
        assert not np.array_equal(stored, other)
    assert set(prepared.volumes) == set(prepared.patients)
