"""Opens a data set of this folder, and prepares it first where that has not been done.

Prepared data live in `PREPARED_DIR/NAME-FINGERPRINT`.  The fingerprint covers the builder's name,
version, config and Python files and the raw data by name and content, so other raw data or another
builder never meet in one folder.  TFDS writes to a hidden folder beside
it, which is renamed when all is there: a build that was killed leaves nothing that could be opened,
and the next one removes its remains.
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lesionkeras.errors import DataError
from tfds_builders.digests import Digests
from tfds_builders.progress import BuildProgress, silenced

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

FINGERPRINT_DIGITS = 12  # hexadecimal; 48 bits
DISK_FULL = "No space left on device"
UNFINISHED = ".unfinished"  # ends the hidden folder that a build writes to
BUILDER_SUFFIX = "_dataset_builder.py"  # TFDS's own convention


class RawIndex(Protocol):
    """The raw files behind a config, as a builder's `index_raw(data_dir, config)` returns them."""

    @property
    def root(self) -> Path:
        """The raw folder."""

    @property
    def num_images(self) -> int:
        """How many examples will be written."""

    @property
    def notes(self) -> Sequence[str]:
        """What the user should know, a clause each."""

    @property
    def tables(self) -> Sequence[Path]:
        """Files that say what is prepared, wherever they lie."""

    @property
    def files(self) -> Sequence[Path]:
        """Files below the root that are prepared."""

    def check(self) -> None:
        """Raise DataError where a raw file is wrong; called before anything is written."""


def list_builders() -> list[str]:
    """Return the names of the data sets in this folder.

    >>> "deeplesion" in list_builders()
    True
    """
    folders = Path(__file__).parent.iterdir()
    return sorted(path.name for path in folders if (path / (path.name + BUILDER_SUFFIX)).is_file())


def _suggest(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    return f"the nearest is {near[0]!r}" if near else "choose one of these"


def load_builder_class(name: str) -> Any:
    """Import a data set's TFDS builder class.

    Args:
        name: The folder's name.

    Returns:
        The class, a `tfds.core.DatasetBuilder`.

    Raises:
        DataError: There is no such folder; the nearest is named.
    """
    known = list_builders()
    if name not in known:
        wanted = "one of " + ", ".join(known)
        raise DataError(
            f"There is no data set {name!r}", wanted=wanted, next_step=_suggest(name, known)
        )
    return importlib.import_module(f"tfds_builders.{name}.{name}_dataset_builder").Builder


def choose_config(builder_class: Any, name: str, config: str) -> str:
    """Return the config that is meant, the first where none was given.

    Args:
        builder_class: The TFDS builder class.
        name: The data set.
        config: One of its configs, or "".

    Raises:
        DataError: It has no such config; the nearest is named.
    """
    known = [builder_config.name for builder_config in builder_class.BUILDER_CONFIGS]
    if config in known or not (config or known):
        return config
    if not config:
        return known[0]
    raise DataError(
        f"Data set {name!r} has no config {config!r}",
        wanted="one of " + ", ".join(known) if known else "none",
        next_step=_suggest(config, known) if known else "leave it out",
    )


def compute_fingerprint(
    builder_class: Any, name: str, config: str, raw: RawIndex | None, digests: Digests
) -> str:
    """Hash everything that decides what a prepared data set holds.

    Args:
        builder_class: The TFDS builder class.
        name: The data set.
        config: Its config, or "".
        raw: Its raw files, or None where it makes its data itself.
        digests: What is known of their content.

    Returns:
        12 hexadecimal digits.

    Raises:
        DataError: A raw file cannot be read.
    """
    digest = hashlib.sha256(f"{name}\n{config}\n{builder_class.VERSION}\n".encode())
    package = Path(__file__).parent
    shared = ("anatomy.py", "detection.py", "scan_builder.py", "segmentation.py")
    sources = [*sorted((package / name).glob("*.py")), *(package / each for each in shared)]
    for path in [*sources, *(raw.tables if raw else ())]:
        content = path.read_bytes()
        digest.update(f"{path.name} {len(content)}\n".encode() + content)
    if raw:
        files = raw.files
        for path, held in zip(files, digests.digest(files), strict=True):
            digest.update(f"{path.relative_to(raw.root).as_posix()} {held}\n".encode())
    return digest.hexdigest()[:FINGERPRINT_DIGITS]


@dataclass(frozen=True)
class Beam:
    """That a data set is built with Apache Beam, and where: its own pipeline flags."""

    flags: tuple[str, ...] = ()  # such as "--runner=DataflowRunner"; none: the local runner


@contextlib.contextmanager
def _hold(folder: Path) -> Iterator[None]:
    """Keep other processes from building in the same folder; the lock dies with the process."""
    if sys.platform == "win32":  # no flock there: two builds at once are on their own
        yield
        return
    import fcntl

    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another process prepares data in {folder}: waiting for it", file=sys.stderr)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _build(
    builder_class: Any,
    config: str,
    raw: RawIndex | None,
    folder: Path,
    title: str,
    beam: Beam | None,
) -> None:
    """Let TFDS build into a folder; `title` "" keeps it silent."""
    import tensorflow_datasets as tfds

    from tfds_builders.stable_records import stable_records

    tfds.disable_progress_bar()
    builder = builder_class(config=config or None, data_dir=str(folder))
    total = raw.num_images if raw else getattr(builder, "num_images_about", None)
    progress = BuildProgress(title, total)
    if beam:
        builder._generate_examples = _spread(builder)
    else:
        builder._generate_examples = progress.follow(builder._generate_examples)
    # TFDS prints where it writes, which here is a folder that will be renamed.
    builder._log_download_bytes = builder._log_download_done = lambda: None
    manual_dir = str(raw.root.absolute()) if raw else None
    downloads = folder / "downloads"
    config_of_build = tfds.download.DownloadConfig(
        manual_dir=manual_dir,
        try_download_gcs=False,
        beam_options=_parse_options(beam) if beam else None,
    )
    with stable_records():
        builder.download_and_prepare(download_dir=str(downloads), download_config=config_of_build)
    progress.close()
    shutil.rmtree(downloads, ignore_errors=True)


def _spread(builder: Any) -> Callable[[Sequence[Any]], Any]:
    """Return a `_generate_examples` whose items Beam's workers share."""
    import apache_beam

    make = functools.partial(type(builder).make_examples, config=builder.builder_config.name)
    return lambda items: apache_beam.Create(list(items)) | apache_beam.FlatMap(make)


def _parse_options(beam: Beam) -> Any:
    from apache_beam.options.pipeline_options import PipelineOptions

    return PipelineOptions(flags=list(beam.flags))


def check_beam(builder_class: Any, name: str) -> None:
    """Check that a data set can be built with Beam here.

    Args:
        builder_class: The TFDS builder class.
        name: The data set.

    Raises:
        DataError: Beam is not installed, or the data set makes its examples in one go.
    """
    if not hasattr(builder_class, "make_examples"):
        raise DataError(f"Data set {name!r} is not built with Beam", next_step="leave --beam out")
    if not importlib.util.find_spec("apache_beam"):
        raise DataError(
            "Beam is not installed",
            next_step="pip install 'lesionkeras[beam]', or leave --beam out",
        )


def _prepare(target: Path, build: Callable[[Path], None]) -> None:
    """Build into a hidden folder, then rename it: `target` is there whole or not at all."""
    prepared_dir = target.parent
    created = [path for path in (prepared_dir, *prepared_dir.parents) if not path.exists()]
    try:
        prepared_dir.mkdir(parents=True, exist_ok=True)
        with _hold(prepared_dir):
            if target.exists():  # another process was faster
                return
            for remains in prepared_dir.glob(f".*{UNFINISHED}"):
                shutil.rmtree(remains, ignore_errors=True)
            unfinished = prepared_dir / f".{target.name}{UNFINISHED}"
            try:
                build(unfinished)
                unfinished.rename(target)
            finally:
                shutil.rmtree(unfinished, ignore_errors=True)
    except (OSError, RuntimeError) as error:  # TFDS raises the latter where a disk is full
        is_full = DISK_FULL in str(error)
        if isinstance(error, RuntimeError) and not is_full:
            raise
        raise DataError(
            "Prepared data cannot be written",
            where=str(prepared_dir),
            found=DISK_FULL if is_full else str(getattr(error, "strerror", None) or error),
            next_step="give another folder with --prepared-dir",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # leave no empty folder behind an error
            for folder in created:
                folder.rmdir()


def _open(target: Path) -> tfds.core.DatasetBuilder:
    import tensorflow_datasets as tfds

    try:
        folder = next(target.rglob("dataset_info.json")).parent
        return tfds.builder_from_directory(str(folder))
    except (StopIteration, OSError, ValueError) as error:
        raise DataError(
            "Prepared data are damaged",
            where=str(target),
            found=str(error) or "no dataset_info.json",
            next_step="delete this folder; it will be made again",
        ) from error


def _describe(title: str, builder: Any, target: Path, notes: Sequence[str]) -> str:
    splits = {name: split.num_examples for name, split in builder.info.splits.items()}
    counts = ", ".join(f"{count} {name}" for name, count in splits.items())
    line = f"{title}: {sum(splits.values())} images ({counts}) prepared in {target}"
    corrections = (builder.info.metadata or {}).get("corrections", {})
    corrected = [f"{name} corrected in {count} scans" for name, count in corrections.items()]
    return "; ".join([line, *notes, *corrected])


def open_builder(
    name: str,
    config: str,
    prepared_dir: Path,
    data_dir: Path | None,
    progress: bool = True,
    beam: Beam | None = None,
) -> tfds.core.DatasetBuilder:
    """Open a prepared data set, preparing it first where that has not been done.

    Says in one line on stdout what is prepared, where, and what was left out or clipped; a build of
    more than two seconds says how far it is.

    Args:
        name: A folder of `tfds_builders`.
        config: One of the builder's configs; "" is its first.
        prepared_dir: Where prepared data live; made if need be.
        data_dir: The raw data, where the data set needs any.
        progress: False says nothing.
        beam: Build with Beam; the records are the same.

    Returns:
        A builder that reads the prepared files; a split without images is absent from
        `builder.info.splits`.

    Raises:
        DataError: Unknown data set or config; raw data missing or wrong (checked before anything is
            written); the folder cannot be written; prepared data are damaged.
    """
    builder_class = load_builder_class(name)
    config = choose_config(builder_class, name, config)
    title = f"{name}/{config}" if config else name
    index_raw = getattr(builder_class, "index_raw", None)
    raw: RawIndex | None = index_raw(data_dir and Path(data_dir), config) if index_raw else None
    digests = Digests(Path(prepared_dir).glob(f"{name}-*"))
    with silenced(not progress):
        fingerprint = compute_fingerprint(builder_class, name, config, raw, digests)
    target = Path(prepared_dir) / f"{name}-{fingerprint}"
    if not target.exists():
        if beam:
            check_beam(builder_class, name)
        with silenced(not progress):
            if raw:
                raw.check()
            shown = title if progress else ""
            _prepare(target, lambda folder: _build(builder_class, config, raw, folder, shown, beam))
    builder = _open(target)
    digests.save(target)
    if progress:
        print(_describe(title, builder, target, raw.notes if raw else ()), flush=True)
    return builder
