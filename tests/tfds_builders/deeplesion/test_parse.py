import csv
import math

import cv2
import numpy as np
import pytest

from lesionkeras.errors import DataError
from tfds_builders.deeplesion.parse import COLUMNS, read_dl_info

GOOD = {
    "File_name": "000047_10_01_051.png",
    "Patient_index": "47",
    "Study_index": "10",
    "Series_ID": "1",
    "Key_slice_index": "51",
    "Measurement_coordinates": "226.361, 164, 228.218, 165, 227, 162.663, 228, 166.245",
    "Bounding_boxes": "221.361, 157.663, 233.218, 171.245",
    "Lesion_diameters_Pixel_": "5.5, 2.25",
    "Normalized_lesion_location": "0.25, 0.5, 0.75",
    "Coarse_lesion_type": "4",
    "Possibly_noisy": "1",
    "Slice_range": "45, 57",
    "Spacing_mm_px_": "0.7, 0.8, 5",
    "Image_size": "512, 768",
    "DICOM_windows": "-175, 275",
    "Patient_gender": "F",
    "Patient_age": "62",
    "Train_Val_Test": "3",
}
OTHER = {
    "File_name": "000048_10_01_051.png",
    "Patient_index": "48",
    "Train_Val_Test": "1",
}


@pytest.fixture
def write(tmp_path):
    def write_rows(*changes, columns=tuple(COLUMNS)):
        path = tmp_path / "DL_info.csv"
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            for change in changes:
                writer.writerow([{**GOOD, **change}[column] for column in columns])
        return path

    return write_rows


def say(path) -> str:
    with pytest.raises(DataError) as error:
        read_dl_info(path)
    return str(error.value).replace(str(path), "DL_info.csv")


def test_all_columns_survive(write):
    (row,) = read_dl_info(write({}))
    assert row.text == tuple(GOOD.values())
    assert row.row == 2
    assert (row.patient, row.series, row.split) == ("000047", "000047_10_01", "test")
    assert (row.patient_index, row.study_index, row.series_id, row.key_slice_index) == (
        47,
        10,
        1,
        51,
    )
    assert row.measurement_coordinates == (226.361, 164, 228.218, 165, 227, 162.663, 228, 166.245)
    assert row.bounding_boxes == row.box == (221.361, 157.663, 233.218, 171.245)
    assert row.lesion_diameters_pixel == (5.5, 2.25)
    assert row.normalized_lesion_location == (0.25, 0.5, 0.75)
    assert (row.coarse_lesion_type, row.possibly_noisy, row.train_val_test) == (4, 1, 3)
    assert (row.slice_range, row.image_size) == ((45, 57), (512, 768))
    assert (row.spacing_mm_px, row.dicom_windows) == ((0.7, 0.8, 5.0), (-175.0, 275.0))
    assert (row.patient_gender, row.patient_age) == ("F", 62.0)


def test_order_of_columns_and_a_byte_order_mark_do_not_matter(write):
    path = write({}, columns=tuple(reversed(COLUMNS)))
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\r\n")
    (row,) = read_dl_info(path)
    assert row.text == tuple(GOOD.values())


@pytest.mark.parametrize("age", ["", "NaN"])
def test_empty_age(write, age):
    (row,) = read_dl_info(write({"Patient_age": age}))
    assert math.isnan(row.patient_age)


@pytest.mark.parametrize(
    ("box", "clipped", "overhang_px"),
    [  # the image is 512 high and 768 wide
        ("-5.5, 10, 20, 30", (0, 10, 20, 30), 5.5),
        ("700, 10, 774.5, 30", (700, 10, 768, 30), 6.5),
        ("10, -1, 20, 514", (10, 0, 20, 512), 2),
        ("0, 0, 768, 512", (0, 0, 768, 512), 0),
    ],
)
def test_overhang_is_clipped_and_told(write, box, clipped, overhang_px):
    (row,) = read_dl_info(write({"Bounding_boxes": box}))
    assert row.box == clipped and row.overhang_px == overhang_px
    assert row.bounding_boxes == tuple(float(number) for number in box.split(","))


@pytest.mark.parametrize("box", ["768, 10, 780, 20", "-9, 10, 0, 20", "1, 512, 2, 520"])
def test_box_outside(write, box):
    message = say(write({}, {"Bounding_boxes": box}))
    assert message.startswith("A box lies wholly outside its image in DL_info.csv row 3: found x ")
    assert message.endswith("wanted some of 0 to 768 by 0 to 512; correct or remove the row.")


def test_degenerate_box(write):
    assert say(write({}, {"Bounding_boxes": "10, 20, 10, 30"})) == (
        "A box is degenerate in DL_info.csv row 3: found x 10 to 10, y 20 to 30, "
        "wanted x1 < x2 and y1 < y2; correct or remove the row."
    )


def test_missing_column(write):
    columns = tuple(column for column in COLUMNS if column != "Bounding_boxes")
    assert say(write({}, columns=columns)) == (
        "A column is missing in DL_info.csv: found no Bounding_boxes, wanted the columns "
        + ", ".join(COLUMNS)
        + "; use DL_info.csv as it was published."
    )
    assert say(write({}, columns=columns[2:])).startswith(
        "3 columns are missing in DL_info.csv: found no File_name, Patient_index, Bounding_boxes,"
    )


@pytest.mark.parametrize(
    ("column", "text", "wanted"),
    [
        ("File_name", "../000047_10_01_051.png", "a name such as 000001_01_01_109.png"),
        ("Patient_index", "4_7", "a number"),
        ("Study_index", "1.5", "a whole number"),
        ("Bounding_boxes", "1, 2, 3", "4 numbers with commas between"),
        ("Bounding_boxes", "1, 2, 3, nan", "4 numbers with commas between"),
        ("Bounding_boxes", "1, 2, 3, inf", "4 numbers with commas between"),
        ("Coarse_lesion_type", "9", "one of -1, 1, 2, 3, 4, 5, 6, 7, 8"),
        ("Possibly_noisy", "", "one of 0, 1"),
        ("Patient_age", "old", "a number"),
        ("Train_Val_Test", "4", "one of 1, 2, 3"),
    ],
)
def test_unreadable_field(write, column, text, wanted):
    assert say(write({}, OTHER, {column: text})) == (
        f"{column} cannot be read in DL_info.csv row 4: found {text!r}, wanted {wanted}; "
        "correct the row."
    )


@pytest.mark.parametrize("spacing", ["0.7, 0.8, 0", "0.7, -0.8, 5"])
def test_spacing_must_be_positive(write, spacing):
    assert say(write({"Spacing_mm_px_": spacing})) == (
        f"Spacing_mm_px_ cannot be used in DL_info.csv row 2: found {spacing}, "
        "wanted three positive numbers of mm; correct the row."
    )


def test_image_without_size(write):
    assert say(write({"Image_size": "0, 512"})) == (
        "An image has no size in DL_info.csv row 2: found 0, 512, wanted a positive height and "
        "width; correct or remove the row."
    )


def test_name_against_indices(write):
    assert say(write({"Key_slice_index": "52"})) == (
        "Key_slice_index contradicts File_name in DL_info.csv row 2: found 52, "
        "wanted 51 as in 000047_10_01_051.png; correct the row."
    )


def test_patient_in_two_splits(write):
    second = {"File_name": "000047_10_01_052.png", "Key_slice_index": "52", "Train_Val_Test": "2"}
    assert say(write({}, OTHER, second)) == (
        "Patient 000047 is in two splits in DL_info.csv: found test in row 2 and validation in "
        "row 4, wanted every patient in one split; correct Train_Val_Test."
    )


def test_rows_of_one_image_agree(write):
    assert say(write({}, {"Spacing_mm_px_": "0.7, 0.8, 1"})) == (
        "Spacing_mm_px_ differs between two rows of 000047_10_01_051.png in DL_info.csv: "
        "found '0.7, 0.8, 5' in row 2 and '0.7, 0.8, 1' in row 3, wanted one value an image; "
        "correct one of the rows."
    )


def test_rows_that_are_no_rows(write):
    path = write({})
    path.write_text(path.read_text() + "000047_10_01_051.png,47\n")
    assert say(path) == (
        "A row is too short in DL_info.csv row 3: found 2 fields, wanted 18; "
        "copy the file from the source again."
    )
    assert say(write()) == "A table has no rows in DL_info.csv: wanted one row a lesion."
    path.write_bytes(b"")
    assert say(path).startswith("18 columns are missing in DL_info.csv: found no File_name,")
    path.write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    assert say(path).startswith("A file is not a CSV table in DL_info.csv: found 'utf-8' codec")
    path.write_bytes(b'"no end')
    assert say(path).startswith("A file is not a CSV table in DL_info.csv: found unexpected end")
    path.unlink()
    assert say(path) == "A file cannot be read in DL_info.csv: found No such file or directory."


@pytest.mark.real
def test_real_file(real_data):
    path = real_data / "deeplesion" / "DL_info.csv"
    rows = read_dl_info(path)
    assert len(rows) == 29051
    liver = [row for row in rows if row.coarse_lesion_type == 4]
    assert (len(liver), len({row.file_name for row in liver})) == (1284, 1267)
    over = [row.overhang_px for row in rows if row.overhang_px > 0]
    assert len(over) == 8 and 6 < max(over) < 7
    with path.open(newline="") as file:
        assert [list(row.text) for row in rows] == list(csv.reader(file))[1:]


@pytest.mark.real
def test_real_boxes_are_half_open(real_data):
    """Box centre minus centroid of the lesion's pixel indices: 0, .5 or 1 px; see parse.py."""
    folder = real_data / "deeplesion"
    rows = read_dl_info(folder / "DL_info.csv")
    offsets = []
    for row in rows:
        path = folder / "masks_grabcut" / row.file_name
        if path.is_file():
            x1, y1, x2, y2 = (round(edge) for edge in row.box)
            ys, xs = np.nonzero(cv2.imread(str(path), 0)[y1 : y2 + 1, x1 : x2 + 1])
            if len(xs) >= 10:
                centre = (row.box[0] + row.box[2]) / 2, (row.box[1] + row.box[3]) / 2
                offsets.append((centre[0] - x1 - xs.mean(), centre[1] - y1 - ys.mean()))
    x_px, y_px = np.mean(offsets, axis=0)
    assert len(offsets) >= 40
    assert 0.25 < x_px < 0.75 and 0.25 < y_px < 0.75
