from dataclasses import replace
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from lesionkeras.config import SegmentationDataConfig
from lesionkeras.data import slices
from lesionkeras.data.slices import PreparedSlices, join_slices, prepare_slices
from lesionkeras.data.stacked import Stacked
from lesionkeras.errors import DataError

DATA = SegmentationDataConfig(image_size_px=64)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory):
    from tfds_builders import open_builder

    return open_builder("liver_phantom", "tiny", tmp_path_factory.mktemp("phantom"), None, False)


def read_records(builder, split):
    import tensorflow_datasets as tfds

    options = tfds.ReadConfig(interleave_cycle_length=1)
    records = builder.as_dataset(split=split, read_config=options, shuffle_files=False)
    return list(tfds.as_numpy(records))


def decode_hu(png):
    stored = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    return np.clip(stored.astype(int) - 32768, -1024, 3071)


class FakeBuilder:
    """Gives records as a builder of whole volumes does."""

    def __init__(self, folder, records):
        self.data_path, self.records = folder, records
        splits = {"train": SimpleNamespace(num_examples=len(records))}
        self.info = SimpleNamespace(name="fake", full_name="fake/1.0.0", splits=splits)

    def as_dataset(self, **kwargs):
        import tensorflow as tf

        features = [tf.nest.map_structure(np.asarray, record) for record in self.records]
        stacked = tf.nest.map_structure(lambda *values: np.stack(values), *features)
        return tf.data.Dataset.from_tensor_slices(stacked)


def make_volume(count=4, side=8, volume="v1", patient="p1"):
    """A volume whose slice z is z + 1 everywhere; the mask's lesion is on slice 2."""
    pngs = [
        cv2.imencode(".png", np.full((side, side), 32769 + z, np.uint16))[1].tobytes()
        for z in range(count)
    ]
    masks = np.zeros((count, side, side), np.uint8)
    masks[1:, 2:6, 2:6] = 1
    masks[2:3, 3:5, 3:6] = 2
    return [
        {
            "png_previous": pngs[z - 1] if z else b"",
            "png_key": pngs[z],
            "png_next": pngs[z + 1] if z + 1 < count else b"",
            "mask_png": cv2.imencode(".png", masks[z])[1].tobytes(),
            "size_px": np.int32([side, side]),
            "spacing_mm": np.float32([5.0, 0.7, 0.9]),
            "patient": patient,
            "volume": volume,
            "file": f"{volume}/{z:03d}.png",
            "slice": np.int32(z),
        }
        for z in range(count)
    ]


def test_every_slice_is_stored_once(tmp_path):
    data = replace(DATA, image_size_px=8)
    prepared = prepare_slices(FakeBuilder(tmp_path, make_volume()), "train", data)
    assert len(prepared) == 4 and len(prepared.slices_hu) == 4
    wanted = [[1, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 4]]  # at the ends the key slice itself
    for row, hu in enumerate(wanted):
        image = prepared.read_image(row, 3)
        assert image.shape == (8, 8, 3) and image.dtype == np.int16
        assert np.array_equal(image, np.broadcast_to(hu, (8, 8, 3)))
        assert np.array_equal(prepared.read_image(row, 1), np.full((8, 8, 1), hu[1]))
    assert prepared.has_liver.tolist() == [False, True, True, True]
    assert prepared.has_lesion.tolist() == [False, False, True, False]
    assert prepared.masks[2][3].tolist() == [0, 0, 1, 2, 2, 2, 0, 0]
    assert prepared.numbers.tolist() == [0, 1, 2, 3]
    assert prepared.volumes == ("v1",) * 4 and prepared.patients == ("p1",) * 4


def test_resized_with_its_mask(tmp_path):
    data = replace(DATA, image_size_px=4)
    prepared = prepare_slices(FakeBuilder(tmp_path, make_volume()), "train", data)
    assert prepared.side_px == 4 and prepared.slices_hu[3].shape == (4, 4)
    assert prepared.masks[1].tolist() == [[0] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]
    np.testing.assert_allclose(prepared.spacing_mm[0], [5.0, 1.4, 1.8])
    assert prepared.size_px[0].tolist() == [8, 8]
    assert prepared.has_lesion[2]  # of the mask before it was resized


def test_phantom_is_read_as_its_files_say(phantom):
    records = read_records(phantom, "train")
    side = int(records[0]["size_px"][0])
    prepared = prepare_slices(phantom, "train", replace(DATA, image_size_px=side))
    assert len(prepared) == len(records) > 6
    for row in (0, 3, len(records) - 1):
        record = records[row]
        assert prepared.files[row] == record["file"].decode()
        assert prepared.patients[row] == prepared.volumes[row] == record["patient"].decode()
        image = prepared.read_image(row, 3)
        for channel, name in enumerate(("png_previous", "png_key", "png_next")):
            wanted = decode_hu(record[name] or record["png_key"])
            assert np.array_equal(image[..., channel], wanted)
        mask = cv2.imdecode(np.frombuffer(record["mask_png"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(prepared.masks[row], mask)
        assert prepared.has_lesion[row] == bool((mask == 2).any())
    assert 0 < prepared.has_lesion.sum() < len(records)


def test_second_reading_decodes_nothing(phantom, monkeypatch):
    calls = []
    first = prepare_slices(phantom, "test", DATA, lambda *counts: calls.append(counts))
    assert calls[-1] == (len(first), len(first))
    monkeypatch.setattr(slices, "_write_slices", None)  # would fail
    again = prepare_slices(phantom, "test", DATA)
    assert again.files == first.files and np.array_equal(again.neighbours, first.neighbours)
    assert all(np.array_equal(again.masks[i], first.masks[i]) for i in range(len(first)))


def test_interrupted_writing_leaves_nothing(tmp_path):
    builder = FakeBuilder(tmp_path, make_volume())

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_slices(builder, "train", DATA, stop)
    assert not list((tmp_path / "cache").iterdir())
    assert len(prepare_slices(builder, "train", DATA)) == 4


def catch(tmp_path, **changes):
    records = make_volume()
    records[1] |= changes
    with pytest.raises(DataError) as caught:
        prepare_slices(FakeBuilder(tmp_path, records), "train", DATA)
    assert not list((tmp_path / "cache").iterdir())
    return str(caught.value)


def test_slice_without_a_mask(tmp_path):
    assert catch(tmp_path, mask_png=b"") == (
        "A slice has no mask in v1/001.png of data set fake: found none, wanted an 8-bit PNG of 0, "
        "1 and 2 of the slice's size; choose a data set with masks, or prepare this one again."
    )


@pytest.mark.parametrize(
    "mask",
    [np.full((8, 8), 3, np.uint8), np.zeros((8, 7), np.uint8), np.zeros((8, 8), np.uint16), None],
    ids=["label", "size", "depth", "bytes"],
)
def test_damaged_mask(tmp_path, mask):
    png = b"x" if mask is None else cv2.imencode(".png", mask)[1].tobytes()
    assert catch(tmp_path, mask_png=png).startswith(
        "A mask is damaged in v1/001.png of data set fake: found other values or another size"
    )


def test_unknown_split(tmp_path):
    with pytest.raises(DataError, match=r"nothing in 'tset', wanted one of train"):
        prepare_slices(FakeBuilder(tmp_path, make_volume()), "tset", DATA)


def test_joined_parts_are_read_as_one(tmp_path):
    data, parts = replace(DATA, image_size_px=8), []
    for volume, count in (("v1", 3), ("v2", 2), ("v3", 4)):
        folder = tmp_path / volume
        folder.mkdir()
        records = make_volume(count, volume=volume)
        parts.append(prepare_slices(FakeBuilder(folder, records), "train", data))
    joined = join_slices(parts)
    assert isinstance(joined, PreparedSlices) and len(joined) == 9
    assert joined.volumes == ("v1",) * 3 + ("v2",) * 2 + ("v3",) * 4
    row = 0
    for part in parts:
        for i in range(len(part)):
            assert np.array_equal(joined.read_image(row, 3), part.read_image(i, 3))
            assert np.array_equal(joined.masks[row], part.masks[i])
            assert joined.files[row] == part.files[i]
            row += 1
    assert joined.has_lesion.tolist() == [False, False, True] + [False] * 4 + [True, False]


def test_stacked_rows():
    stacked = Stacked([np.arange(6).reshape(2, 3), np.arange(6, 9).reshape(1, 3)])
    assert len(stacked) == 3 and stacked.row_shape == (3,)
    assert [stacked[i].tolist() for i in range(3)] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_slices_of_one_size_of_pixels(tmp_path):
    """0.7 x 0.9 mm to 0.45 mm: 12 rows and 16 columns, of which the middle 14 fit."""
    data = replace(DATA, image_size_px=14, pixel_mm=0.45)
    prepared = prepare_slices(FakeBuilder(tmp_path, make_volume()), "train", data)
    assert prepared.side_px == 14 and prepared.resized_px[0].tolist() == [12, 16]
    assert prepared.find_grid(2).shift_px == (1, -1)
    slice_hu, mask = prepared.slices_hu[prepared.neighbours[2, 2]], prepared.masks[2]
    assert slice_hu[:, 5].tolist() == [-1024, *[3] * 12, -1024]
    assert np.flatnonzero(mask.any(1)).tolist() == [4, 5, 6, 7, 8, 9]
    assert np.flatnonzero(mask.any(0)).tolist() == list(range(3, 11))
    np.testing.assert_allclose(prepared.spacing_mm[0], [5.0, 0.7 * 8 / 12, 0.45], rtol=1e-6)
    np.testing.assert_allclose(prepared.find_own_spacing_mm(0), [5.0, 0.7, 0.9], rtol=1e-6)


def test_another_size_of_pixels_is_another_cache(tmp_path):
    builder = FakeBuilder(tmp_path, make_volume())
    sides = [
        prepare_slices(builder, "train", replace(DATA, image_size_px=16, pixel_mm=mm)).resized_px[0]
        for mm in (0.0, 0.45, 0.9)
    ]
    assert [size.tolist() for size in sides] == [[16, 16], [12, 16], [6, 8]]


def test_masks_of_the_slices_own_size(tmp_path):
    records = make_volume()
    prepared = prepare_slices(
        FakeBuilder(tmp_path, records), "train", replace(DATA, image_size_px=4)
    )
    assert len(prepared.own_masks) == 4
    for row, record in enumerate(records):
        mask = cv2.imdecode(np.frombuffer(record["mask_png"], np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(prepared.own_masks[row], mask) and mask.shape == (8, 8)


def test_five_slices_end_at_the_volume(tmp_path):
    data = replace(DATA, image_size_px=8)
    records = make_volume(4) + make_volume(2, volume="v2")
    prepared = prepare_slices(FakeBuilder(tmp_path, records), "train", data)
    found = [prepared.read_image(row, 5)[0, 0].tolist() for row in range(6)]
    assert found == [
        [1, 1, 1, 2, 3],
        [1, 1, 2, 3, 4],
        [1, 2, 3, 4, 4],
        [2, 3, 4, 4, 4],
        [1, 1, 1, 2, 2],
        [1, 1, 2, 2, 2],
    ]


def test_key_slices_without_neighbours_of_neighbours(tmp_path):
    """Slices 0 and 3 of six: what is two away of them is in no record."""
    records = [make_volume(6)[z] for z in (0, 3)]
    data = replace(DATA, image_size_px=8)
    prepared = prepare_slices(FakeBuilder(tmp_path, records), "train", data)
    found = [prepared.read_image(row, 5)[0, 0].tolist() for row in range(2)]
    assert found == [[1, 1, 1, 2, 2], [3, 3, 4, 5, 5]]


@pytest.mark.parametrize(
    ("spacing_mm", "slice_mm", "stretch", "found"),
    [
        (1.0, 0.0, 1.0, [20, 30, 40, 50, 60]),
        (5.0, 2.5, 1.0, [30, 35, 40, 45, 50]),
        (5.0, 2.0, 0.5, [36, 38, 40, 42, 44]),
        (5.0, 2.5, 0.0, [40, 40, 40, 40, 40]),
        (1.0, 1.5, 1.0, [10, 25, 40, 55, 70]),
        (1.0, 2.5, 1.0, [0, 15, 40, 65, 80]),  # beyond what is kept beside a key slice; the end
        (0.5, 2.5, 2.0, [0, 0, 40, 80, 80]),
        (2.0, 2.001, 1.0, [20, 30, 40, 50, 60]),  # as good as whole slices
    ],
)
def test_planes_so_many_mm_apart(tmp_path, spacing_mm, slice_mm, stretch, found):
    records = make_volume(9)
    for z, record in enumerate(records):
        for name, slice_z in (("previous", z - 1), ("key", z), ("next", z + 1)):
            stored = np.full((8, 8), 32768 + 10 * slice_z, np.uint16)
            is_there = 0 <= slice_z < 9
            png = cv2.imencode(".png", stored)[1].tobytes() if is_there else b""
            record[f"png_{name}"] = png
        record["spacing_mm"] = np.float32([spacing_mm, 1.0, 1.0])
    prepared = prepare_slices(
        FakeBuilder(tmp_path, records), "train", replace(DATA, image_size_px=8)
    )
    image = prepared.read_image(4, 5, slice_mm, stretch)
    assert image.shape == (8, 8, 5) and image.dtype == np.int16
    assert image[3, 4].tolist() == found
    assert prepared.read_image(4, 1, slice_mm, stretch)[0, 0].tolist() == [40]


def test_planes_end_where_slices_are_missing(tmp_path):
    """Slices 0 and 3 of six with a neighbour each side: 5 is in no record."""
    records = [make_volume(6)[z] for z in (0, 3)]
    data = replace(DATA, image_size_px=8)
    prepared = prepare_slices(FakeBuilder(tmp_path, records), "train", data)
    found = [prepared.read_image(row, 5, 10.0)[0, 0].tolist() for row in range(2)]
    assert found == [[1, 1, 1, 2, 2], [3, 3, 4, 5, 5]]


def test_the_level_of_each_volumes_liver(tmp_path):
    """Slices 1 to 3 of four hold liver, of z + 1 HU; the lesion in slice 2 does not count."""
    records = make_volume(4) + make_volume(1, volume="v2")
    prepared = prepare_slices(
        FakeBuilder(tmp_path, records), "train", replace(DATA, image_size_px=8)
    )
    assert prepared.liver_hu[:4].tolist() == [3.0] * 4  # 16 px of 2, 10 of 3, 16 of 4 HU
    assert np.isnan(prepared.liver_hu[4])
    joined = join_slices([prepared, prepared])
    assert joined.liver_hu.shape == (10,)
