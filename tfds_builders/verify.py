"""Checks a whole raw data set before a day of training: item by item, in threads, resumable."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, replace
from pathlib import Path

from lesionkeras.ct.verification import Finding, Item, ItemResult, RawVerifier, to_finding
from lesionkeras.errors import DataError
from tfds_builders.prepare import choose_config, list_builders, load_builder_class

CHECKS_VERSION = 1  # raise where a check changes: results of an older one are not taken over
MIB = 2**20
Progress = Callable[[int, int], None]


def list_verifiable() -> list[str]:
    """Return the data sets that have raw files to check.

    >>> "deeplesion" in list_verifiable(), "liver_phantom" in list_verifiable()
    (True, False)
    """
    return [name for name in list_builders() if _find_checks(name)]


def _find_checks(name: str) -> bool:
    return importlib.util.find_spec(f"tfds_builders.{name}.verify") is not None


def open_verifier(name: str, config: str, data_dir: Path | None) -> RawVerifier:
    """Read the tables and the listing of a raw data set.

    Args:
        name: The data set.
        config: One of its configs, or "".
        data_dir: The raw folder.

    Returns:
        Its checks.

    Raises:
        DataError: Unknown data set or config, or nothing is there that could be checked.
    """
    config = choose_config(load_builder_class(name), name, config)
    if not _find_checks(name):
        raise DataError(
            f"Data set {name!r} has no raw files to verify",
            wanted="one of " + ", ".join(list_verifiable()),
        )
    module = importlib.import_module(f"tfds_builders.{name}.verify")
    verifier: RawVerifier = module.open_verifier(data_dir, config)
    return verifier


def verify(
    verifier: RawVerifier, prepared_dir: Path, notebook: Path, progress: Progress
) -> list[Finding]:
    """Check every item of a raw data set, then the items against each other.

    Args:
        verifier: From `open_verifier`.
        prepared_dir: Where the prepared data set would be written; its disk must have room.
        notebook: JSON lines, one an item that is done; what stands there is not checked again
            while its files are the same, so that a stopped check goes on.
        progress: Called with items done and items in all.

    Returns:
        All findings.
    """
    done = _read_notebook(notebook)
    results: dict[str, ItemResult] = {}
    left: list[tuple[Item, str]] = []
    for item in verifier.items:
        key = _make_key(verifier.root, item)
        if key in done:
            results[item.name] = done[key]
        else:
            left.append((item, key))
    with notebook.open("a", encoding="utf-8") as lines, ThreadPoolExecutor(os.cpu_count()) as pool:
        lines.write("\n")  # ends what a killed check left unfinished
        futures = {pool.submit(_check, verifier, item): (item, key) for item, key in left}
        try:
            for future in as_completed(futures):
                item, key = futures[future]
                results[item.name] = result = future.result()
                lines.write(json.dumps({"key": key, **asdict(result)}) + "\n")
                lines.flush()
                progress(len(results), len(verifier.items))
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    findings = [*verifier.findings, *_check_disk(verifier.prepared_bytes, prepared_dir)]
    ordered = {item.name: results[item.name] for item in verifier.items}  # threads end in any order
    for result in ordered.values():
        findings += result.findings
    return [*findings, *verifier.compare(ordered)]


def _check(verifier: RawVerifier, item: Item) -> ItemResult:
    try:
        return verifier.check_item(item)
    except DataError as error:
        finding = to_finding(error, item.name)
        # Where the data lie is no part of a report that goes to others.
        text = finding.text.replace(f"{verifier.root}{os.sep}", "")
        return ItemResult((replace(finding, text=text),))


def _make_key(root: Path, item: Item) -> str:
    digest = hashlib.sha256(f"{CHECKS_VERSION}\n{item.name}\n".encode())
    for path in item.files:
        try:
            status = path.stat()
            facts = f"{status.st_size} {status.st_mtime_ns}"
        except OSError as error:  # its check will say so
            facts = str(error.errno)
        digest.update(f"{path.relative_to(root).as_posix()} {facts}\n".encode())
    return digest.hexdigest()[:32]


def _read_notebook(notebook: Path) -> dict[str, ItemResult]:
    done: dict[str, ItemResult] = {}
    if not notebook.exists():
        return done
    for line in notebook.read_text(encoding="utf-8").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # the last line of a check that was killed while it wrote
            continue
        findings = tuple(Finding(**finding) for finding in entry["findings"])
        done[entry["key"]] = ItemResult(findings, entry["facts"])
    return done


def _check_disk(prepared_bytes: int, prepared_dir: Path) -> Sequence[Finding]:
    existing = next(p for p in (prepared_dir, *prepared_dir.absolute().parents) if p.exists())
    free = shutil.disk_usage(existing).free
    text = f"about {prepared_bytes // MIB} MiB to write, {free // MIB} MiB free"
    return [Finding("error" if free < prepared_bytes else "note", "disk", "prepared data", text)]
