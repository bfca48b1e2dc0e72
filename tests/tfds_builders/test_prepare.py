import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import tensorflow_datasets as tfds

from lesionkeras.errors import DataError
from tfds_builders import open_builder
from tfds_builders.deeplesion.deeplesion_dataset_builder import Builder
from tfds_builders.progress import BuildProgress

ROOT = Path(__file__).parents[2]
DUMMY = Path(Builder.code_path).parent / "dummy_data"
KILLED = """
import os, signal, sys
from pathlib import Path
from tfds_builders import open_builder
from tfds_builders.deeplesion.deeplesion_dataset_builder import Builder

generate = Builder._generate_examples
def stop_after_one(self, slices):
    yield next(generate(self, slices))
    os.kill(os.getpid(), signal.SIGKILL)
Builder._generate_examples = stop_after_one
open_builder("deeplesion", "liver", Path(sys.argv[1]), Path(sys.argv[2]))
"""


def list_folder(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_prepared_once(tmp_path):
    first = open_builder("deeplesion", "", tmp_path, DUMMY, False)
    stamps = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = open_builder("deeplesion", "liver", tmp_path, DUMMY, False)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == stamps
    assert first.data_path == second.data_path
    assert len(list_folder(tmp_path)) == 1


def test_other_raw_data_and_configs_never_share(tmp_path):
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    shutil.copytree(DUMMY, raw)
    paths = {
        open_builder("deeplesion", config, prepared, raw, False).data_path
        for config in ("liver", "all")
    }
    copy = tmp_path / "copy"
    shutil.copytree(raw, copy)
    paths.add(open_builder("deeplesion", "liver", prepared, copy, False).data_path)
    assert len(paths) == 2  # a copy of the same data is the same data
    (raw / "Images_png" / "009001_01_01" / "011.png").unlink()
    builder = open_builder("deeplesion", "liver", prepared, raw, False)
    assert builder.data_path not in paths
    (example,) = builder.as_dataset(split="train").as_numpy_iterator()
    assert not example["has_next"]
    paths.add(builder.data_path)
    table = raw / "DL_info.csv"
    table.write_text(table.read_text().replace("10, 20, 26, 32", "10, 20, 26, 33"))
    paths.add(open_builder("deeplesion", "liver", prepared, raw, False).data_path)
    assert len(paths) == 4


def test_data_corrected_in_place_are_prepared_again(tmp_path):
    raw, prepared = tmp_path / "raw", tmp_path / "prepared"
    shutil.copytree(DUMMY, raw)
    first = open_builder("deeplesion", "liver", prepared, raw, False)
    name = raw / "Images_png" / "009001_01_01" / "011.png"
    stored = cv2.imread(str(name), cv2.IMREAD_UNCHANGED)
    cv2.imwrite(str(name), stored, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    plain = name.read_bytes()
    second = open_builder("deeplesion", "liver", prepared, raw, False)
    cv2.imwrite(str(name), stored + 1, [cv2.IMWRITE_PNG_COMPRESSION, 0])
    assert len(name.read_bytes()) == len(plain)
    third = open_builder("deeplesion", "liver", prepared, raw, False)
    assert len({first.data_path, second.data_path, third.data_path}) == 3
    name.write_bytes(plain)  # another time, the same data
    assert open_builder("deeplesion", "liver", prepared, raw, False).data_path == second.data_path


def test_killed_build_is_harmless(tmp_path):
    command = [sys.executable, "-c", KILLED, str(tmp_path), str(DUMMY)]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (remains,) = list_folder(tmp_path)
    assert remains.startswith(".deeplesion-") and remains.endswith(".unfinished")
    builder = open_builder("deeplesion", "liver", tmp_path, DUMMY, False)
    assert sum(split.num_examples for split in builder.info.splits.values()) == 3
    assert list_folder(tmp_path) == [remains[1 : -len(".unfinished")]]


def test_error_while_building_leaves_nothing(tmp_path, monkeypatch):
    def fail(self, slices):
        raise OSError(28, "No space left on device")
        yield

    monkeypatch.setattr(Builder, "_generate_examples", fail)
    with pytest.raises(DataError) as error:
        open_builder("deeplesion", "liver", tmp_path / "a" / "b", DUMMY, False)
    assert str(error.value) == (
        f"Prepared data cannot be written in {tmp_path / 'a' / 'b'}: found No space left on "
        "device; give another folder with --prepared-dir."
    )
    assert not (tmp_path / "a").exists()


def test_damaged_prepared_data(tmp_path):
    open_builder("deeplesion", "liver", tmp_path, DUMMY, False)
    (folder,) = tmp_path.iterdir()
    next(folder.rglob("dataset_info.json")).unlink()
    with pytest.raises(DataError) as error:
        open_builder("deeplesion", "liver", tmp_path, DUMMY, False)
    assert str(error.value) == (
        f"Prepared data are damaged in {folder}: found no dataset_info.json; "
        "delete this folder; it will be made again."
    )


@pytest.mark.parametrize(
    ("name", "near"), [("deeplesions", "deeplesion"), ("DeepLesion", "deeplesion")]
)
def test_unknown_data_set(tmp_path, name, near):
    with pytest.raises(DataError) as error:
        open_builder(name, "", tmp_path, DUMMY)
    message = str(error.value)
    assert message.startswith(f"There is no data set {name!r}: wanted one of deeplesion")
    assert message.endswith(f"; the nearest is {near!r}.")


class TinyData(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """A data set without configs and without raw data, as the phantom is."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict({"x": np.int64})
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(3)}

    def _generate_examples(self, count):
        for number in range(count):
            yield number, {"x": number}


def test_data_set_that_makes_its_data(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("tfds_builders.prepare.load_builder_class", lambda name: TinyData)
    builder = open_builder("tiny", "", tmp_path, None)
    (folder,) = tmp_path.iterdir()
    assert capsys.readouterr().out == f"tiny: 3 images (3 train) prepared in {folder}\n"
    assert sorted(e["x"] for e in builder.as_dataset(split="train").as_numpy_iterator()) == [
        0,
        1,
        2,
    ]


def test_unknown_config(tmp_path):
    with pytest.raises(DataError) as error:
        open_builder("deeplesion", "livers", tmp_path, DUMMY)
    assert str(error.value) == (
        "Data set 'deeplesion' has no config 'livers': wanted one of liver, all, p2; "
        "the nearest is 'liver'."
    )


def test_progress_is_quiet_for_two_seconds_then_estimates(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 1.5, 3.0, 4.0, 14.0])  # start, then five examples
    monkeypatch.setattr("tfds_builders.progress.time.monotonic", lambda: next(clock))
    progress = BuildProgress("x", total=9)
    assert list(progress.follow(range)(5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().out.splitlines() == [
        "x: preparing image 3 of 9, about 6 s left",
        "x: preparing image 5 of 9, about 13 s left",
    ]


def test_two_processes_at_once(tmp_path):
    code = "import sys; from pathlib import Path; from tfds_builders import open_builder; "
    code += "open_builder('deeplesion', 'liver', Path(sys.argv[1]), Path(sys.argv[2]))"
    command = [sys.executable, "-c", code, str(tmp_path), str(DUMMY)]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert outputs[0].splitlines()[-1] == outputs[1].splitlines()[-1]
    assert len(list_folder(tmp_path)) == 1
