"""The TFDS builder that data sets of outlined scans share; each brings its own layout and reader.

A build reads every scan twice: once to check it and to find whose it is, before anything is
written, and once to write it.  Both are the reader's speed; nothing of a scan is kept between.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

import tensorflow_datasets as tfds

from tfds_builders.progress import make_progress
from tfds_builders.raw_files import read_status
from tfds_builders.segmentation import (
    CONFIGS,
    SPLIT_FRACTIONS,
    THREADS,
    Scan,
    assign_splits,
    make_examples,
    slice_features,
    volume_features,
)


class ScanCase(Protocol):
    """A scan on disk; hashable and picklable, so that another process can read it."""

    @property
    def name(self) -> str:
        """Its name in the data set, which no other has."""

    @property
    def files(self) -> tuple[Path, ...]:
        """The files or folders that it is read from."""


ReadCase = Callable[[Any, str], Scan]  # a case and its patient: read, put right, checked


@dataclass(frozen=True)
class Surveyed:
    """What is kept of a scan that was checked.

    Attributes:
        num_slices: Slices of the canonical volume.
        corrections: Names of what was put right.
        shown: What comparing patients needs.
    """

    num_slices: int
    corrections: tuple[str, ...]
    shown: Any


@dataclass(frozen=True)
class RawScans:
    """The scans of a raw folder; satisfies `tfds_builders.prepare.RawIndex`.

    Attributes:
        root: The raw folder.
        cases: Its scans.
        config: `slices` or `volumes`.
        notes: What the user should know, a clause each.
        read: Reads one; raises CtError.
        describe: A scan to what comparing patients needs.
        name_patients: (case, what was kept of it) pairs to the patient of each case's name.
        tables: Files that say what is prepared.
    """

    root: Path
    cases: tuple[Any, ...]
    config: str
    notes: tuple[str, ...]
    read: ReadCase
    describe: Callable[[Scan], Any]
    name_patients: Callable[[Sequence[tuple[Any, Any]]], Mapping[str, str]]
    tables: tuple[Path, ...] = ()

    @property
    def files(self) -> list[Path]:
        """Files below the root that are prepared."""
        return sorted(
            {file for case in self.cases for path in case.files for file in list_files(path)}
        )

    def survey(self) -> dict[str, Surveyed]:
        """Read and check every scan; once a process while the files stay the same.

        Raises:
            CtError: Of the first scan that is wrong.
        """
        found = ((file, read_status(file)) for file in self.files)
        stamps = tuple((str(file), status.st_size, status.st_mtime_ns) for file, status in found)
        return _survey(self.cases, self.read, self.describe, stamps)

    def check(self) -> None:
        """Read every scan; see `survey`."""
        self.survey()

    @property
    def num_images(self) -> int:
        """How many examples will be written."""
        if self.config == "volumes":
            return len(self.cases)
        return sum(surveyed.num_slices for surveyed in self.survey().values())

    def find_patients(self) -> dict[str, str]:
        """Return the patient of each case by the case's name."""
        surveyed = self.survey()
        return dict(self.name_patients([(case, surveyed[case.name].shown) for case in self.cases]))

    def count_corrections(self) -> dict[str, int]:
        """Return in how many scans each kind of correction was made."""
        names = (set(surveyed.corrections) for surveyed in self.survey().values())
        return dict(sorted(Counter(name for scan in names for name in scan).items()))


def list_files(path: Path) -> list[Path]:
    """Return a file, or all files below a folder."""
    return sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


@lru_cache(maxsize=4)
def _survey(
    cases: tuple[Any, ...],
    read: ReadCase,
    describe: Callable[[Scan], Any],
    stamps: tuple[tuple[str, int, int], ...],
) -> dict[str, Surveyed]:
    """Check every scan; `stamps` only tell one state of the files from another."""

    def look(case: ScanCase) -> Surveyed:
        scan = read(case, "")
        names = tuple(clause.split(":")[0] for clause in scan.corrections)
        return Surveyed(len(scan.image.array), names, describe(scan))

    surveyed, progress = {}, make_progress("checked", "scans")
    with ThreadPoolExecutor(min(THREADS, 2)) as pool:  # each holds a volume
        try:
            for case, result in zip(cases, pool.map(look, cases), strict=True):
                surveyed[case.name] = result
                progress(len(surveyed), len(cases))
        finally:
            pool.shutdown(cancel_futures=True)
    return surveyed


def read_ahead(read: ReadCase, pairs: Iterable[tuple[ScanCase, str]]) -> Iterator[Scan]:
    """Read scans in order, the next one while the last is worked on.

    Args:
        read: Reads one.
        pairs: Case and patient.
    """
    with ThreadPoolExecutor(1) as pool:
        ahead = None
        for case, patient in pairs:
            following = pool.submit(read, case, patient)
            if ahead is not None:
                yield ahead.result()
            ahead = following
        if ahead is not None:
            yield ahead.result()


class ScanBuilder(
    tfds.core.GeneratorBasedBuilder,
    skip_registration=True,  # type: ignore[call-arg]
):
    """Scans with masks, as slices that detectors and segmenters train on, or whole.

    A data set adds `index_raw`, `read_case`, its versions and its pages.  Examples are a function
    of case and patient alone, so that processes can share the cases (`make_examples`).
    """

    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(
            name="slices", description="One example a slice, with its two neighbours and its boxes."
        ),
        tfds.core.BuilderConfig(name="volumes", description="One example a scan, HU and mask."),
    ]
    HOMEPAGE: ClassVar[str] = ""

    @staticmethod
    def read_case(case: Any, patient: str) -> Scan:
        """Read one case; a function of the module, so that it can be pickled."""
        raise NotImplementedError

    @staticmethod
    def index_raw(data_dir: Path | None, config: str) -> RawScans:
        """List the raw files that a config needs, for `tfds_builders.prepare`."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        features = slice_features() if self.builder_config.name == CONFIGS[0] else volume_features()
        return self.dataset_info_from_configs(
            features=features,
            homepage=self.HOMEPAGE,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        raw = self.index_raw(Path(dl_manager.manual_dir), self.builder_config.name)
        patients = raw.find_patients()
        self.info.metadata["corrections"] = raw.count_corrections()
        self.info.metadata["patients"] = patients
        splits = assign_splits(patients.values())
        pairs = [(case, patients[case.name]) for case in raw.cases]
        groups = {
            split: [pair for pair in pairs if splits[pair[1]] == split] for split in SPLIT_FRACTIONS
        }
        return {split: self._generate_examples(group) for split, group in groups.items() if group}

    @classmethod
    def make_examples(
        cls, pair: tuple[ScanCase, str], config: str
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield the examples of a case with their keys; a worker of Beam runs this.

        Args:
            pair: Case and patient.
            config: `slices` or `volumes`.
        """
        yield from make_examples(cls.read_case(*pair), config)

    def _generate_examples(
        self, pairs: list[tuple[ScanCase, str]]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        # As make_examples does, but the next scan is read while the last is written.
        for scan in read_ahead(self.read_case, pairs):
            yield from make_examples(scan, self.builder_config.name)
