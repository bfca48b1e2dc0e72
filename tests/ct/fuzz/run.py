"""Feeds damaged files to every reader and keeps what no reader may do.

python -m tests.ct.fuzz.run --inputs 1000000 --state fuzz_state --processes 2
python -m tests.ct.fuzz.run --show dicom 1234 --out bad.dcm

Each input is read under an alarm of 2 s and in an address space bounded to 1 GiB more than before,
in a child process, so that a crash costs one input and is counted.  The same command again goes on
where the last ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import multiprocessing.pool
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from lesionkeras.errors import LesionKerasError
from tests.ct.fuzz.targets import BUILDERS, Target

HANG_S = 2.0  # of this process's own time: another's load is no hang
HANG_WALL_S = 60.0  # sleeping or waiting for a child process
PATIENCE_S = 120.0  # longer than any alarm: only C code that never returns
MOST_MIB = 1024
BATCH = 5000  # inputs of one child, and between two notes of progress
SHARES = {  # of the inputs
    "nifti": 0.25,
    "dicom": 0.08,  # ten times slower than the others
    "dicom packed": 0.002,  # decoders run in a process of their own, half a second to start
    "dicom file": 0.1,
    "zip": 0.05,
    "png": 0.218,
    "csv": 0.1,
    "xml": 0.1,
    "json": 0.1,
}


class HangError(BaseException):
    """No `except Exception` may hide it."""


@dataclass(frozen=True)
class Finding:
    """An input that was not refused as it must be."""

    target: str
    index: int
    what: str


@cache
def build_target(build: Callable[[], Target]) -> Target:
    """Build a format's whole inputs, half a second; children inherit what their parent built."""
    return build()


class _Watch:
    """Raises HangError on the alarm of processor time, and on the second one by the clock.

    The first may have waited while this process was suspended.
    """

    def __init__(self) -> None:
        self.alarms = 0

    def start(self) -> None:
        self.alarms = 0
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        signal.setitimer(signal.ITIMER_REAL, HANG_WALL_S / 2, HANG_WALL_S / 2)

    def end(self) -> None:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)

    def __call__(self, number: int, _: object) -> None:
        self.alarms += 1
        if number == signal.SIGPROF or self.alarms > 1:
            raise HangError


_watch = _Watch()


def read_one(target: Target, folder: Path, name: str, index: int) -> tuple[str, str]:
    """Read one input.

    Returns:
        The name of the outcome ("read", or the error's) and, if it may not be, what happened.
    """
    seed, data = target.make(name, index)
    _watch.start()
    try:
        target.read(folder, seed, data)
        return "read", ""
    except LesionKerasError as error:
        return getattr(error, "name", type(error).__name__), ""
    except HangError:
        return "hang", "".join(traceback.format_exc().splitlines(keepends=True)[-9:-1])
    except Exception as error:
        lines = traceback.format_exception(error)
        return type(error).__name__, "".join(lines)[-1500:]
    finally:
        _watch.end()


def _work(name: str, start: int, stop: int, now, pipe) -> None:
    signal.signal(signal.SIGPROF, _watch)
    signal.signal(signal.SIGALRM, _watch)
    logging.disable(logging.CRITICAL)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)  # decoders in C complain there
    target = build_target(BUILDERS[name])
    if sys.platform == "linux":
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + (MOST_MIB << 20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        target.prepare(Path(folder))
        for index in range(start, stop):
            now.value = index
            outcome, fault = read_one(target, Path(folder), name, index)
            counts[outcome] += 1
            if fault:
                pipe.send(Finding(name, index, fault))
    pipe.send(counts)


def run_batch(name: str, start: int, stop: int) -> tuple[Counter[str], list[Finding]]:
    """Read inputs start to stop of a format in child processes."""
    context = multiprocessing.get_context("fork")
    build_target(BUILDERS[name])
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    while start < stop:
        ours, theirs = context.Pipe(duplex=False)
        now = context.Value("q", start)
        child = context.Process(target=_work, args=(name, start, stop, now, theirs))
        child.start()
        theirs.close()
        start = _listen(name, stop, child, ours, now, counts, findings)
        child.kill()
        child.join()
    return counts, findings


def _listen(name, stop: int, child, pipe, now, counts, findings) -> int:
    """Collect what a child says, and return where the next has to start."""
    last, waited_s = now.value, 0  # counted, not clocked: a suspended run sees no hang
    while True:
        try:
            waited_s += 1
            if pipe.poll(1.0):
                said = pipe.recv()
                if isinstance(said, Counter):
                    counts.update(said)
                    return stop
                findings.append(said)
        except EOFError:
            child.join()
            findings.append(Finding(name, now.value, f"the process ended with {child.exitcode}"))
            counts["crash"] += 1
            return int(now.value) + 1
        if now.value != last:
            last, waited_s = now.value, 0
        elif waited_s > PATIENCE_S:
            findings.append(Finding(name, last, "hangs in C"))
            counts["hang"] += 1
            return int(last) + 1


def _run_job(job: tuple[str, int, int]) -> tuple[tuple[str, int, int], Counter[str], list[Finding]]:
    return (job, *run_batch(*job))


def plan(num_inputs: int, first: int = 0) -> list[tuple[str, int, int]]:
    """Return batches (format, start, stop) that share out so many inputs."""
    jobs = []
    for name, share in SHARES.items():
        total = first + round(num_inputs * share)
        jobs += [(name, at, min(at + BATCH, total)) for at in range(first, total, BATCH)]
    return sorted(jobs, key=lambda job: job[1])  # all formats at once: an early stop saw each


def run(
    num_inputs: int, processes: int, state: Path | None = None, first: int = 0
) -> tuple[dict[str, Counter[str]], list[Finding]]:
    """Read damaged inputs of all formats.

    Args:
        num_inputs: In all.
        processes: How many at a time.
        state: A folder that remembers what is done; None: nothing is kept.
        first: Number of the first input of each format.

    Returns:
        Outcomes of each format by name, and what no reader may do.
    """
    log = state / "batches.jsonl" if state else None
    totals: dict[str, Counter[str]] = {name: Counter() for name in SHARES}
    findings: list[Finding] = []
    done = set()
    if log and log.exists():
        for line in log.read_text().splitlines():
            entry = json.loads(line)
            done.add(tuple(entry["job"]))
            totals[entry["job"][0]].update(entry["counts"])
            findings += [Finding(**finding) for finding in entry["findings"]]
    jobs = [job for job in plan(num_inputs, first) if job not in done]
    with multiprocessing.pool.ThreadPool(processes) as pool:
        for number, (job, counts, new) in enumerate(pool.imap_unordered(_run_job, jobs), 1):
            totals[job[0]].update(counts)
            findings += new
            if log:
                entry = {"job": job, "counts": counts, "findings": [asdict(f) for f in new]}
                with log.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
                print(f"{number} of {len(jobs)} batches, {len(findings)} findings", flush=True)
    return totals, findings


def main() -> int:
    """Run, or write one input to a file; return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=20000)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--state", type=Path, help="folder that remembers what is done")
    parser.add_argument("--first", type=int, default=0, help="number of each format's first input")
    parser.add_argument("--show", nargs=2, metavar=("FORMAT", "NUMBER"))
    parser.add_argument("--out", type=Path, help="where --show writes the input")
    args = parser.parse_args()
    if args.show:
        name, index = args.show[0], int(args.show[1])
        seed, data = BUILDERS[name]().make(name, index)
        args.out.write_bytes(data)
        print(f"{len(data)} bytes made from seed {seed}")
        return 0
    if args.state:
        args.state.mkdir(parents=True, exist_ok=True)
    totals, findings = run(args.inputs, args.processes, args.state, args.first)
    for name, counts in totals.items():
        shown = ", ".join(f"{outcome} {num}" for outcome, num in counts.most_common(8))
        print(f"{name}: {sum(counts.values())} inputs: {shown}")
    for finding in findings[:50]:
        print(f"--- {finding.target} {finding.index}\n{finding.what}")
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
