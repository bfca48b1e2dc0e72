"""DeepLesion's dummy data, built once for all tests of this folder."""

from pathlib import Path

import pytest

from tfds_builders.deeplesion.deeplesion_dataset_builder import Builder

DUMMY_DIR = Path(Builder.code_path).parent / "dummy_data"


def _open(config, tmp_path_factory):
    from tfds_builders import open_builder

    return open_builder("deeplesion", config, tmp_path_factory.mktemp("dl"), DUMMY_DIR, False)


@pytest.fixture(scope="session")
def dummy_dir() -> Path:
    return DUMMY_DIR


@pytest.fixture(scope="session")
def deeplesion_all(tmp_path_factory):
    return _open("all", tmp_path_factory)


@pytest.fixture(scope="session")
def deeplesion_liver(tmp_path_factory):
    return _open("liver", tmp_path_factory)
