import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest

from lesionkeras.ct.verification import Finding, Item, ItemResult, check_intensity
from lesionkeras.errors import DataError
from tfds_builders.deeplesion.deeplesion_dataset_builder import Builder
from tfds_builders.verify import list_verifiable, open_verifier, verify

DUMMY = Path(Builder.code_path).parent / "dummy_data"


def ignore(done, total):
    pass


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    shutil.copytree(DUMMY, folder)
    return folder


def run(raw, tmp_path, name="deeplesion", config="all"):
    verifier = open_verifier(name, config, raw)
    return verify(verifier, tmp_path / "prepared", tmp_path / "checked.jsonl", ignore)


def find(findings, name):
    return [(f.severity, f.where, f.text) for f in findings if f.name == name]


def test_clean_data_has_no_errors(raw, tmp_path):
    findings = run(raw, tmp_path)
    assert not [f for f in findings if f.severity == "error"]
    assert [f[:2] for f in find(findings, "noisy-row")] == [("note", "DL_info.csv row 5")]
    assert find(findings, "box-over-edge")[0][2].startswith("a box hangs 3.0 px over")
    (disk,) = find(findings, "disk")
    assert disk[0] == "note" and "MiB free" in disk[2]


def test_every_damaged_image_is_found_not_only_the_first(raw, tmp_path):
    series = raw / "Images_png" / "009001_01_01"
    cut, grey = series / "009.png", series / "011.png"
    cut.write_bytes(cut.read_bytes()[:-40])
    cv2.imwrite(str(grey), np.zeros((64, 64), np.uint8))
    small = raw / "Images_png" / "009002_02_01" / "019.png"
    cv2.imwrite(str(small), np.full((60, 64), 32800, np.uint16))
    findings = run(raw, tmp_path)
    errors = {(f.name, f.where) for f in findings if f.severity == "error"}
    assert ("unusable", "009001_01_01/009.png") in errors
    assert ("unusable", "009001_01_01/011.png") in errors
    assert ("size", "009002_02_01/019.png") in errors
    assert ("constant", "009002_02_01/019.png") in errors
    assert len(errors) == 4


def test_every_wrong_row_is_found_not_only_the_first(raw, tmp_path):
    table = raw / "DL_info.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace(",61,", ",sixty,")
    lines[5] = lines[5][:-1] + "2"  # patient 009003, whose other rows are of the test split
    table.write_text("\n".join(lines))
    found = find(run(raw, tmp_path), "table")
    assert [f[0] for f in found] == ["error"] * len(found) and len(found) == 2
    assert "row 2: found 'sixty'" in found[0][2]
    assert found[1][2].startswith("Patient 009003 is in two splits")


def test_slices_that_are_there_twice_are_a_leak_between_splits(raw, tmp_path):
    images = raw / "Images_png"
    shutil.copy(images / "009003_01_02" / "006.png", images / "009003_01_02" / "005.png")
    (same,) = find(run(raw, tmp_path), "duplicate-image")
    assert same[0] == "warning" and same[1:] == (
        "009003_01_02/005.png", "the same pixels as 009003_01_02/006.png",
    )  # fmt: skip
    train = images / "009001_01_01" / "009.png"
    shutil.copy(train, images / "009002_02_01" / "019.png")
    leak = find(run(raw, tmp_path), "duplicate-image")[0]
    assert leak[0] == "error" and leak[2].endswith("a leak between train and validation")


def test_too_little_disk_is_an_error(raw, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10))
    assert find(run(raw, tmp_path), "disk")[0][0] == "error"


@dataclass
class Toy:
    """Three items of which the second is wrong; counts what it checks."""

    root: Path
    seen: list = field(default_factory=list)
    prepared_bytes: int = 1
    findings: tuple = (Finding("note", "table", "rows", "3"),)

    @property
    def items(self):
        return [Item(name, (self.root / name,)) for name in ("a", "b", "c")]

    def check_item(self, item):
        self.seen.append(item.name)
        if item.name == "b":
            raise DataError("A file is wrong", where="b")
        return ItemResult((), {"size": item.files[0].stat().st_size})

    def compare(self, results):
        total = sum(result.facts.get("size", 0) for result in results.values())
        return [Finding("warning", "total", "all", str(total))]


def test_stopped_check_goes_on_and_changed_files_are_checked_again(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name)
    toy, notebook = Toy(tmp_path), tmp_path / "checked.jsonl"
    steps = []
    first = verify(toy, tmp_path, notebook, lambda done, total: steps.append((done, total)))
    assert sorted(toy.seen) == ["a", "b", "c"] and steps == [(1, 3), (2, 3), (3, 3)]
    assert [f.name for f in first] == ["table", "disk", "unusable", "total"]
    assert first[2].text == "A file is wrong in b." and first[3].text == "2"
    lines = [line for line in notebook.read_text().splitlines() if line]
    notebook.write_text("\n".join(lines[:2]) + '\n{"key": "cut')
    done = {json.loads(line)["key"] for line in lines[:2]}
    assert len(done) == 2
    toy.seen.clear()
    assert verify(toy, tmp_path, notebook, ignore) == first and len(toy.seen) == 1
    toy.seen.clear()
    (tmp_path / "a").write_text("longer")
    assert verify(toy, tmp_path, notebook, ignore)[3].text == "7" and toy.seen == ["a"]


def test_only_data_sets_with_raw_files_can_be_verified(tmp_path):
    assert "deeplesion" in list_verifiable()
    with pytest.raises(DataError, match=r"^Data set 'liver_phantom' has no raw files to verify"):
        open_verifier("liver_phantom", "", tmp_path)
    with pytest.raises(DataError, match=r"has no config 'livre'.*the nearest is 'liver'"):
        open_verifier("deeplesion", "livre", tmp_path)
    with pytest.raises(DataError, match="DeepLesion's data are not there"):
        open_verifier("deeplesion", "liver", tmp_path)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([-990, -100, 40, 60, 900], None),
        ([0, 10, 1000, 1064, 3000], "not-hu"),  # stored values without their intercept
        ([30, 40, 50, 60, 200], "no-fat"),
        ([7] * 5, "constant"),
    ],
)
def test_intensity(values, name):
    image = np.repeat(np.int16(values), 30)
    image = image + np.arange(150, dtype=np.int16) % 30 * (name != "constant")
    found = check_intensity(image, "a")
    assert [f.name for f in found] == [name] * (name is not None)


def test_intensity_of_a_clipped_volume():
    image = np.linspace(-900, 900, 1000).astype(np.int16)
    assert not check_intensity(image, "a")
    (found,) = check_intensity(image.clip(-160, 240), "a")
    assert found.severity == "warning" and found.name == "clipped"
    assert "-160..240 HU (41 % and 37 %" in found.text
    padded = np.concatenate([np.full(500, -1024, np.int16), image])
    assert not check_intensity(padded, "a")  # air is at the end of a real scan too
