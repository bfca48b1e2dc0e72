"""P2's text-mined list: which rows it names, what is not there, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from lesionkeras.errors import DataError
from tests.tfds_builders.harness import check_prepared
from tfds_builders import open_builder
from tfds_builders.deeplesion import text_mined
from tfds_builders.deeplesion.deeplesion_dataset_builder import Builder
from tfds_builders.deeplesion.layout import index_deeplesion
from tfds_builders.deeplesion.parse import read_dl_info
from tfds_builders.deeplesion.text_mined import find_listed, number_rows, read_liver_list

DUMMY = Path(Builder.code_path).parent / "dummy_data"
LABELS = {
    "term_list": ["chest", "liver"],
    # official rows 0 and 1 are two lesions of one image, 2 is an official validation row
    "train_lesion_idxs": [0, 1, 7],
    "train_relevant_labels": [[0, 1], [0], [1, 1]],
    "val_lesion_idxs": [2],
    "val_relevant_labels": [[1]],
    "test_lesion_idxs": [3, 4],
    "test_relevant_labels": [[0, 1], [1]],
}
NUMBERS = [0, 1, 2, 3, -1, 4]  # of the dummy table's six rows; the fifth is not known


@pytest.fixture
def raw(tmp_path):
    folder = Path(shutil.copytree(DUMMY, tmp_path / "raw"))
    (folder / text_mined.LABELS_FILE).write_text(json.dumps(LABELS))
    with (folder / "DL_info.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with (folder / text_mined.ROW_INDEX_FILE).open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["File_name", "Bounding_boxes", "Train_Val_Test", "row", "first", "rows"])
        for row, number in zip(rows, NUMBERS, strict=True):
            writer.writerow([row["File_name"], row["Bounding_boxes"], 1, number, 0, 1])
    return folder


def test_the_list_by_hand(raw):
    assert read_liver_list(raw) == {0: "train", 7: "train", 2: "validation", 3: "test", 4: "test"}
    listed, totals = find_listed(raw, read_dl_info(raw / "DL_info.csv"))
    # rows as a text editor counts: the header is 1; official row 4 is the sixth of the table
    assert listed == {2: "train", 4: "validation", 5: "test", 7: "test"}
    assert totals == {"train": 2, "validation": 1, "test": 2}


def test_images_are_where_the_list_says_and_lesions_are_marked(raw, tmp_path, capsys):
    builder = open_builder("deeplesion", "p2", tmp_path / "prepared", raw)
    splits = check_prepared(builder)
    files = {name: [e["file"].decode() for e in examples] for name, examples in splits.items()}
    assert files == {
        "train": ["009001_01_01_010.png"],
        "validation": ["009002_02_01_020.png"],
        "test": ["009003_01_02_005.png", "009004_01_01_1001.png"],
    } or sorted(files["test"]) == ["009003_01_02_005.png", "009004_01_01_1001.png"]
    lesions = splits["train"][0]["lesions"]
    assert lesions["listed"].tolist() == [True, False]  # the second is on no liver list
    said = capsys.readouterr().out
    for clause in (
        "of P2's list 1 of 2 train, 1 of 1 validation and 2 of 2 test lesions are on disk",
        "1 of its lesions are in no row that is known",
    ):
        assert clause in said
    from lesionkeras.config import DataConfig
    from lesionkeras.data.prepared import prepare

    data = DataConfig(name="deeplesion", protocol="p2", image_size_px=64)
    assert (prepare(builder, "train", data).classes >= 0).sum() == 1
    assert (prepare(builder, "test", data).classes >= 0).sum() == 2  # whatever their type


def test_official_rows_that_the_list_trains_on_are_counted(raw):
    labels = {**LABELS, "train_lesion_idxs": [0, 1, 2], "val_lesion_idxs": [7]}
    (raw / text_mined.LABELS_FILE).write_text(json.dumps(labels))
    index = index_deeplesion(raw, "p2")
    assert "1 of them are official validation rows" in index.notes
    assert "no image in P2's validation split" in index.notes
    assert {one.first.file_name: one.split for one in index.slices}[
        "009002_02_01_020.png"
    ] == "train"
    assert {path.name for path in index.tables} == {
        "DL_info.csv",
        text_mined.LABELS_FILE,
        text_mined.ROW_INDEX_FILE,
    }


def test_a_whole_table_needs_no_index(raw, monkeypatch):
    rows = read_dl_info(raw / "DL_info.csv")
    (raw / text_mined.ROW_INDEX_FILE).unlink()
    monkeypatch.setattr(text_mined, "NUM_OFFICIAL_ROWS", 6)
    assert number_rows(raw, rows) == {n: n for n in range(6)}


def say(raw):
    with pytest.raises(DataError) as caught:
        index_deeplesion(raw, "p2")
    return str(caught.value).replace(str(raw), "RAW")


def test_what_is_refused(raw):
    index = raw / text_mined.ROW_INDEX_FILE
    text = index.read_text()
    wanted = (
        "wanted all 32735, or row_index.csv with the number of each; use DL_info.csv as it was "
        "published."
    )
    start = "P2's list counts the rows of the whole DL_info.csv in RAW: found 6 rows and"
    index.write_text(text.replace("10, 20, 26, 32", "10, 20, 26, 33"))
    assert say(raw) == f"{start} another table's row_index.csv, {wanted}"
    index.unlink()
    assert say(raw) == f"{start} no row_index.csv, {wanted}"
    labels = raw / text_mined.LABELS_FILE
    labels.write_text("{}")
    assert say(raw).startswith(
        "The text-mined labels cannot be read in RAW/text_mined_labels_171_and_split.json: found "
        "KeyError('term_list'), wanted text_mined_labels_171_and_split.json of NIH CADLab"
    )
    labels.unlink()
    assert say(raw) == (
        "P2's split needs the text-mined labels in RAW: found no "
        "text_mined_labels_171_and_split.json, wanted text_mined_labels_171_and_split.json of NIH "
        "CADLab beside DL_info.csv; put it there, or give --split patient."
    )


@pytest.mark.real
def test_shared_list(real_data):
    folder = real_data / "deeplesion"
    rows = read_dl_info(folder / "DL_info.csv")
    listed, totals = find_listed(folder, rows)
    assert totals == {"train": 1995, "validation": 179, "test": 203}
    official = [(listed[row.row], row.split) for row in rows if row.row in listed]
    assert official.count(("train", "validation")) == 197
    assert {pair for pair in official if pair[0] != "train"} == {
        ("validation", "validation"),
        ("test", "test"),
    }
    assert len(official) == 2377 - 1538  # rows whose number is not known are all of training
    notes = index_deeplesion(folder, "p2").notes
    assert (
        "of P2's list 7 of 1995 train, 9 of 179 validation and 3 of 203 test lesions are on disk"
        in notes
    )
    patients = {
        split: {row.patient for row in rows if listed.get(row.row) == split} for split in totals
    }
    assert patients["train"] & patients["validation"] == {"002842"}  # the list itself leaks
    assert not patients["test"] & (patients["train"] | patients["validation"])
