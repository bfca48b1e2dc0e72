"""Prints what comes of every class of defect: ours, SimpleITK's and nibabel's reading.

python -m tests.ct.defects.bench --seeds 100 --clean 1000 --state bench.jsonl --markdown bench.md

Instances are read in rounds over all classes, so a run that is stopped has seen each class; the
same command goes on where the state ends, and --seeds 0 prints what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.ct.defects.cases import Defect
from tests.ct.defects.clean import CLEAN
from tests.ct.defects.outcomes import READERS, Outcome, judge, read
from tests.ct.defects.table import GROUPS

PATIENCE_S = 60  # an instance that takes longer hangs, even on a busy machine
MOST_GIB = 8  # of a reader's address space: the machine must live on
WORDS = {"silent": "silently wrong", "warned": "warned, wrong", "-": "-"}
CLEAN_NAME = "clean variations"
ROUNDS = 10  # over all classes, a tenth of the instances each
PROGRESS_S = 10.0


@dataclass(frozen=True)
class Row:
    """A class of defect and how many instances of it are read."""

    group: str
    name: str
    defect: Defect
    num_seeds: int


@dataclass(frozen=True)
class Result:
    """What came of one instance.

    Attributes:
        name: The class.
        reader: One of READERS.
        seed: The instance.
        kind: See `Outcome`.
        fault: Why ours is not accepted, or "".
    """

    name: str
    reader: str
    seed: int
    kind: str
    fault: str = ""


def _read_some(reader: str, defect: Defect, name: str, seeds: list[int], pipe) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_GIB << 30,) * 2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
        for seed in seeds:
            outcome = read(reader, defect, name, seed)
            fault = judge(defect, outcome) if reader == "ours" else ""
            pipe.send((seed, outcome, fault))


def run_class(
    reader: str, defect: Defect, name: str, num_seeds: int, first: int = 0
) -> list[tuple[int, Outcome, str]]:
    """Read instances of a class in a child process, so that a crash or a hang counts as one.

    Returns:
        (seed, outcome, why ours is not accepted or "") of the seeds from `first` to `num_seeds`.
    """
    context = multiprocessing.get_context("fork")
    done: list[tuple[int, Outcome, str]] = []
    while first + len(done) < num_seeds:
        ours, theirs = context.Pipe(duplex=False)
        seeds = list(range(first + len(done), num_seeds))
        child = context.Process(target=_read_some, args=(reader, defect, name, seeds, theirs))
        child.start()
        theirs.close()
        try:
            for seed in seeds:
                # In steps of a second, so that a bench that was suspended sees no hang.
                if not any(ours.poll(1.0) for _ in range(PATIENCE_S)):
                    # Of another reader one hang speaks for the seeds that were to follow it.
                    like_it = [seed] if reader == "ours" else [s for s in seeds if s >= seed]
                    done += [(s, Outcome("hung"), "hung") for s in like_it]
                    break
                done.append(ours.recv())
        except EOFError:
            done.append((first + len(done), Outcome("crashed"), "crashed"))
        child.kill()
        child.join()
    return done


def list_rows(num_seeds: int, num_clean: int, only: list[str]) -> list[Row]:
    """Return the classes whose names hold one of some words, or all, and last what is clean."""
    rows = [Row(g, name, d, num_seeds) for g, ds in GROUPS.items() for name, d in ds.items()]
    rows.append(Row("clean", CLEAN_NAME, CLEAN, num_clean))
    return [row for row in rows if not only or any(part in row.name for part in only)]


def plan(rows: list[Row], done: set[tuple[str, str, int]]) -> Iterator[tuple[Row, str, int, int]]:
    """Yield row, reader, first seed and end of what is left, in rounds over all classes.

    Args:
        rows: Classes.
        done: (class, reader, seed) of what was read before.
    """
    for number in range(ROUNDS):
        for row in rows:
            start, end = (row.num_seeds * n // ROUNDS for n in (number, number + 1))
            for reader in READERS:
                left = [s for s in range(start, end) if (row.name, reader, s) not in done]
                if left:
                    yield row, reader, left[0], end


def read_state(state: Path) -> list[Result]:
    """Return what earlier runs wrote; a line that a killed one left unfinished is passed over."""
    results = []
    for line in state.read_text().splitlines() if state.exists() else ():
        with contextlib.suppress(ValueError):
            results += [Result(**json.loads(line))] if line else []
    return results


def run(rows: list[Row], state: Path | None, say: Callable[[str], None]) -> list[Result]:
    """Read what was not read before.

    Args:
        rows: Classes.
        state: JSON lines, one an instance, which a later run goes on from; None keeps nothing.
        say: Told how far it is.

    Returns:
        All results of the classes, those of earlier runs too.
    """
    results = {(r.name, r.reader, r.seed): r for r in read_state(state)} if state else {}
    jobs = list(plan(rows, set(results)))
    if jobs:  # imported here once, half a second, and not in every child
        import nibabel  # noqa: F401
        import SimpleITK  # noqa: F401
    start_s = last_s = time.monotonic()
    for number, (row, reader, first, end) in enumerate(jobs, 1):
        outcomes = run_class(reader, row.defect, row.name, end, first)
        new = [Result(row.name, reader, seed, o.kind, fault) for seed, o, fault in outcomes]
        results.update({(r.name, r.reader, r.seed): r for r in new})
        if state:
            with state.open("a") as file:
                file.write("".join("\n" + json.dumps(asdict(result)) for result in new))
        now_s = time.monotonic()
        if now_s - last_s > PROGRESS_S:
            last_s, left_min = now_s, (now_s - start_s) / number * (len(jobs) - number) / 60
            say(f"{number} of {len(jobs)} batches, about {left_min:.0f} minutes left: {row.name}")
    names = {row.name for row in rows}
    return [result for result in results.values() if result.name in names]


def describe(kinds: Counter) -> str:
    """Return the kinds of outcome, the commonest first, with their shares.

    >>> describe(Counter(silent=3, refused=1))
    'silently wrong 75%, refused 25%'
    """
    total = sum(kinds.values())
    parts = []
    for kind, num in kinds.most_common():
        share = "" if num == total else f" {num / total:.0%}"
        parts.append(WORDS.get(kind, kind) + share)
    return ", ".join(parts)


def format_classes(rows: list[Row], results: list[Result]) -> list[str]:
    """Return the lines of a table, a class a line, with a line before each group."""
    kinds: dict[tuple[str, str], Counter] = {}
    for result in results:
        kinds.setdefault((result.name, result.reader), Counter())[result.kind] += 1
    lines, last = [], ""
    for row in rows:
        if row.group != last:
            lines.append(f"| **{row.group}** | | | |")
        last = row.group
        cells = [describe(kinds.get((row.name, reader), Counter())) for reader in READERS]
        lines.append(f"| {row.name} | {' | '.join(cells)} |")
    return lines


def summarise(results: list[Result]) -> list[str]:
    """Return a table of how many instances went which way, a reader a line."""
    totals = Counter((r.reader, r.name == CLEAN_NAME, r.kind) for r in results)
    kinds = ("right", "refused", "warned", "silent", "crashed", "hung")
    lines = ["| reader | " + " | ".join(WORDS.get(kind, kind) for kind in kinds) + " | of |"]
    lines.append("|---|" + "---:|" * (len(kinds) + 1))
    for clean in (False, True):
        for reader in READERS:
            counts = [totals[reader, clean, kind] for kind in kinds]
            if sum(counts):
                label = f"{reader}, clean files" if clean else reader
                lines.append(f"| {label} | {' | '.join(map(str, counts))} | {sum(counts)} |")
    return lines


def main() -> int:
    """Run the bench, print its tables, and return 1 if one of our outcomes is not accepted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="instances of each class")
    parser.add_argument("--clean", type=int, default=1000, help="clean variations")
    parser.add_argument("--only", nargs="*", default=[], help="parts of names of classes")
    parser.add_argument("--state", type=Path, help="remembers what was read, to go on from")
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    args = parser.parse_args()
    rows = list_rows(args.seeds, args.clean, args.only)
    results = run(rows, args.state, lambda text: print(text, file=sys.stderr, flush=True))
    head = ["| class | ours | SimpleITK | nibabel |", "|---|---|---|---|"]
    text = "\n".join([*summarise(results), "", *head, *format_classes(rows, results), ""])
    print(text)
    faults = [f"{r.name}, seed {r.seed}: {r.fault}" for r in results if r.fault]
    print("\n".join(faults) if faults else "ours: every outcome is one that is accepted")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
