import csv
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lesionkeras.ct.png16 import to_hu
from lesionkeras.errors import DataError
from tests.tfds_builders.harness import check_prepared, decode, read_boxes_px
from tfds_builders import open_builder
from tfds_builders.deeplesion.deeplesion_dataset_builder import Builder
from tfds_builders.deeplesion.make_dummy_data import (
    LESION_HU,
    PADDING_HU,
    TISSUE_HU,
    WALL_HU,
    write_dummy_data,
)
from tfds_builders.deeplesion.parse import FIELDS

DUMMY = Path(Builder.code_path).parent / "dummy_data"


class TestDeepLesion(tfds.testing.DatasetBuilderTestCase):
    """TFDS's own test case; it wants the same numbers of every config, so it sees one."""

    DATASET_CLASS = Builder
    BUILDER_CONFIG_NAMES_TO_TEST = ("all",)
    SPLITS = {"train": 1, "validation": 1, "test": 2}  # noqa: RUF012


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    shutil.copytree(DUMMY, folder)
    return folder


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    builder = open_builder("deeplesion", "all", tmp_path_factory.mktemp("p"), DUMMY, False)
    return {
        example["file"].decode(): example
        for examples in check_prepared(builder).values()
        for example in examples
    }


def say(tmp_path, raw, config="liver") -> str:
    """The error's text; nothing may have been written."""
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError) as error:
        open_builder("deeplesion", config, tmp_path / "prepared", raw, False)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value).replace(str(raw), "RAW")


def test_dummy_data_are_what_their_script_writes(tmp_path):
    write_dummy_data(tmp_path)
    names = sorted(path.relative_to(DUMMY) for path in DUMMY.rglob("*.*"))
    assert names == sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert (tmp_path / "DL_info.csv").read_text() == (DUMMY / "DL_info.csv").read_text()
    for name in names:
        if name.suffix == ".png":
            np.testing.assert_array_equal(*(cv2.imread(f / name, -1) for f in (tmp_path, DUMMY)))


def test_one_lesion_from_row_to_pixel(prepared):
    with (DUMMY / "DL_info.csv").open(newline="") as file:
        row = next(row for row in csv.DictReader(file) if row["File_name"].startswith("009003"))
    assert row["Bounding_boxes"] == "60, 30, 83, 45"  # the image is 80 wide: 3 px hang over
    example = prepared[row["File_name"]]
    np.testing.assert_allclose(read_boxes_px(example), [[60, 30, 80, 45]], atol=1e-4)
    stored = decode(example["png_key"])
    assert stored.shape == (48, 80) and list(example["size_px"]) == [48, 80]
    image_hu = to_hu(stored)
    assert np.all(image_hu[30:45, 60:80] == LESION_HU)
    assert np.sum(image_hu == LESION_HU) == 15 * 20
    assert stored[0, 0] == PADDING_HU + 32768 and stored[8, 0] == WALL_HU + 32768
    assert image_hu[0, 0] == image_hu[8, 0] == -1024
    np.testing.assert_allclose(example["spacing_mm"], [2.5, 0.8, 0.8])
    assert (example["patient"], example["slice"]) == (b"009003", 5)


def test_neighbours(prepared):
    both, previous, following, none = (
        prepared[f"{name}.png"]
        for name in (
            "009001_01_01_010",
            "009002_02_01_020",
            "009003_01_02_005",
            "009004_01_01_1001",
        )
    )
    assert [example["has_previous"] for example in (both, previous, following, none)] == [
        1,
        1,
        0,
        0,
    ]
    assert [example["has_next"] for example in (both, previous, following, none)] == [1, 0, 1, 0]
    background_hu = [
        to_hu(decode(both[f"png_{name}"]))[0, 0] for name in ("previous", "key", "next")
    ]
    assert background_hu == [TISSUE_HU - 10, TISSUE_HU, TISSUE_HU + 10]
    assert none["png_previous"] == none["png_next"] == previous["png_next"] == b""
    path = DUMMY / "Images_png" / "009001_01_01" / "009.png"
    assert both["png_previous"] == path.read_bytes()


def test_two_lesions_with_their_types(prepared):
    lesions = prepared["009001_01_01_010.png"]["lesions"]
    assert lesions["coarse_lesion_type"].tolist() == [4, 2]
    assert lesions["label"].tolist() == [0, 0]
    np.testing.assert_allclose(
        read_boxes_px(prepared["009001_01_01_010.png"]), [[10, 20, 26, 32], [40, 5, 55, 18]]
    )


def test_large_image_and_empty_age(prepared):
    example = prepared["009002_02_01_020.png"]
    assert decode(example["png_key"]).shape == (768, 768)
    assert np.isnan(example["patient_age"])
    np.testing.assert_allclose(read_boxes_px(example), [[300, 420, 360, 470]], atol=1e-4)


def test_all_18_columns_survive(prepared):
    with (DUMMY / "DL_info.csv").open(newline="") as file:
        lines = list(csv.reader(file))
    header, seen = lines[0], []
    for example in prepared.values():
        lesions = example["lesions"]
        for number, text in enumerate(lesions["text"]):
            line = [field.decode() for field in text]
            assert line == lines[lesions["row"][number] - 1]
            seen.append(line)
            for column, field in zip(header[1:], line[1:], strict=True):
                name = FIELDS[column]
                value = lesions[name][number] if name in lesions else example[name]
                if column == "Patient_gender":
                    assert value.decode() == field
                else:
                    numbers = [float(part or "nan") for part in field.split(",")]
                    np.testing.assert_allclose(np.ravel(value), numbers, rtol=1e-6)
    assert len(seen) == 5  # of six rows one lacks its PNG


def test_what_is_said(tmp_path, capsys):
    open_builder("deeplesion", "liver", tmp_path, DUMMY)
    line = capsys.readouterr().out.strip()
    (folder,) = tmp_path.iterdir()
    assert line == (
        f"deeplesion/liver: 3 images (1 train, 1 validation, 1 test) prepared in {folder}; "
        "3 patients, 4 boxes of which 3 liver; 1 of 4 key slices are not on disk: left out; "
        "2 of 6 neighbouring slices are not on disk; "
        "1 of 6 boxes of DL_info.csv hang over their image's edge by up to 3.0 px: clipped"
    )


def test_split_without_images_is_absent(tmp_path, raw, capsys):
    shutil.rmtree(raw / "Images_png" / "009001_01_01")
    builder = open_builder("deeplesion", "liver", tmp_path / "prepared", raw)
    assert set(builder.info.splits) == {"validation", "test"}
    assert "no image in the official train split" in capsys.readouterr().out


TREE = (
    "wanted RAW/DL_info.csv and RAW/Images_png/SERIES/SLICE.png, "
    "such as RAW/Images_png/000001_01_01/109.png; "
)


def test_no_data(tmp_path, raw):
    assert say(tmp_path, None) == (
        "DeepLesion needs its raw data: found no data folder, "
        + TREE.replace("RAW", "DATA_DIR")
        + "give --data-dir DATA_DIR (tfds build: --manual_dir DATA_DIR)."
    )
    shutil.rmtree(raw / "Images_png")
    start, end = (
        "DeepLesion's data are not there in RAW: found ",
        "give the folder that holds both.",
    )
    assert say(tmp_path, raw) == f"{start}no Images_png, {TREE}{end}"
    (raw / "DL_info.csv").unlink()
    assert say(tmp_path, raw) == f"{start}no DL_info.csv and no Images_png, {TREE}{end}"
    (raw / "deeplesion").mkdir()
    assert say(tmp_path, raw).endswith("; try --data-dir RAW/deeplesion.")
    shutil.rmtree(raw)
    assert say(tmp_path, raw) == f"{start}no such folder, {TREE}{end}"


def test_no_image_of_the_config(tmp_path, raw):
    for folder in (raw / "Images_png").glob("00900[123]*"):
        shutil.rmtree(folder)
    assert say(tmp_path, raw) == (
        "None of the 4 key slices of config 'liver' is there in RAW/Images_png: "
        f"{TREE}unpack the images of DeepLesion there."
    )


@pytest.mark.parametrize(("config", "number"), [("liver", "010"), ("all", "009")])
def test_bad_images_are_found_before_anything_is_written(tmp_path, raw, config, number):
    path = raw / "Images_png" / "009001_01_01" / f"{number}.png"
    name = f"RAW/Images_png/009001_01_01/{number}.png"
    again = "wanted a 16-bit grey PNG; copy the file from the source again."
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    assert say(tmp_path, raw, config) == (
        f"A PNG is truncated in {name}: found an end after {len(data) - 20} bytes, {again}"
    )
    cv2.imwrite(str(path), np.zeros((64, 64), np.uint8))
    assert say(tmp_path, raw, config) == (
        f"A PNG cannot hold CT values in {name}: found 8-bit grey, {again}"
    )
    cv2.imwrite(str(path), np.zeros((64, 60), np.uint16))
    assert say(tmp_path, raw, config) == (
        f"An image has another size than its row in {name}: found 64x60, "
        "wanted 64x64 as in DL_info.csv row 2; copy the file from the source again."
    )


def test_damage_inside_an_image_leaves_nothing(tmp_path, raw):
    path = raw / "Images_png" / "009001_01_01" / "010.png"
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF  # in the image data, where only the checksum tells
    path.write_bytes(data)
    message = say(tmp_path, raw)
    assert message.startswith(
        "A PNG is damaged in RAW/Images_png/009001_01_01/010.png: found a wrong"
    )


def test_bad_table_leaves_nothing(tmp_path, raw):
    path = raw / "DL_info.csv"
    path.write_text(path.read_text().replace("10, 20, 26, 32", "10, 20, 10, 32"))
    assert say(tmp_path, raw).startswith(
        "A box is degenerate in RAW/DL_info.csv row 2: found x 10 to"
    )


def test_instructions_show_the_tree():
    text = Builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert (
        "DL_info.csv" in text and "Images_png/\n        000001_01_01/\n            103.png" in text
    )


@pytest.mark.real
def test_real_data(tmp_path, real_data):
    builder = open_builder("deeplesion", "liver", tmp_path, real_data / "deeplesion", False)
    splits = check_prepared(builder)
    assert {name: len(examples) for name, examples in splits.items()} == {
        "validation": 19,
        "test": 17,
    }
    examples = [example for examples in splits.values() for example in examples]
    assert len({example["patient"] for example in examples}) == 15
    types = np.concatenate([example["lesions"]["coarse_lesion_type"] for example in examples])
    assert len(types) == 37 and np.sum(types == 4) == 36
