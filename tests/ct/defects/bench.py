"""Prints what comes of every class of defect: ours, SimpleITK's and nibabel's reading.

python -m tests.ct.defects.bench --seeds 100 --markdown bench.md
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
from collections import Counter
from pathlib import Path

from tests.ct.defects.cases import Defect
from tests.ct.defects.clean import CLEAN
from tests.ct.defects.outcomes import READERS, Outcome, judge, read
from tests.ct.defects.table import GROUPS

PATIENCE_S = 300  # an instance that takes longer hangs, even on a busy machine
MOST_GIB = 8  # of a reader's address space: the machine must live on
WORDS = {"silent": "silently wrong", "warned": "warned, wrong", "-": "-"}
CLEAN_NAME = "clean variations"


def _read_some(reader: str, defect: Defect, name: str, seeds: list[int], pipe) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_GIB << 30,) * 2)
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)
        for seed in seeds:
            outcome = read(reader, defect, name, seed)
            fault = judge(defect, outcome) if reader == "ours" else ""
            pipe.send((seed, outcome, fault))


def run_class(
    reader: str, defect: Defect, name: str, num_seeds: int
) -> list[tuple[int, Outcome, str]]:
    """Read all instances of a class in a child process, so that a crash or a hang counts as one.

    Returns:
        (seed, outcome, why ours is not accepted or "") of every seed.
    """
    context = multiprocessing.get_context("fork")
    done: list[tuple[int, Outcome, str]] = []
    while len(done) < num_seeds:
        ours, theirs = context.Pipe(duplex=False)
        seeds = list(range(len(done), num_seeds))
        child = context.Process(target=_read_some, args=(reader, defect, name, seeds, theirs))
        child.start()
        theirs.close()
        try:
            while len(done) < num_seeds:
                if not ours.poll(PATIENCE_S):
                    done.append((len(done), Outcome("hung"), "hung"))
                    break
                done.append(ours.recv())
        except EOFError:
            done.append((len(done), Outcome("crashed"), "crashed"))
        child.kill()
        child.join()
    return done


def describe(outcomes: list[tuple[int, Outcome, str]]) -> str:
    """Return the kinds of outcome, the commonest first; names of our errors in brackets."""
    kinds = Counter(outcome.kind for _, outcome, _ in outcomes)
    parts = []
    for kind, num in kinds.most_common():
        share = "" if num == len(outcomes) else f" {num / len(outcomes):.0%}"
        parts.append(WORDS.get(kind, kind) + share)
    return ", ".join(parts)


def _run(num_seeds: int, num_clean: int, only: list[str]) -> tuple[list[str], Counter, list[str]]:
    lines, totals, faults = [], Counter(), []
    rows = [(group, name, d, num_seeds) for group, ds in GROUPS.items() for name, d in ds.items()]
    rows.append(("clean", CLEAN_NAME, CLEAN, num_clean))
    last = ""
    for group, name, defect, num in rows:
        if only and not any(part in name for part in only):
            continue
        cells = []
        for reader in READERS:
            outcomes = run_class(reader, defect, name, num)
            cells.append(describe(outcomes))
            totals.update((reader, group == "clean", outcome.kind) for _, outcome, _ in outcomes)
            if reader == "ours":
                bad = [(seed, why) for seed, _, why in outcomes if why]
                faults += [f"{name}, seed {seed}: {why}" for seed, why in bad]
        if group != last:
            lines.append(f"| **{group}** | | | |")
        last = group
        lines.append(f"| {name} | {' | '.join(cells)} |")
        print(lines[-1], flush=True)
    return lines, totals, faults


def summarise(totals: Counter) -> list[str]:
    """Return a table of how many instances went which way, a reader a line."""
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
    parser.add_argument("--markdown", type=Path, help="write the tables here")
    args = parser.parse_args()
    lines, totals, faults = _run(args.seeds, args.clean, args.only)
    head = ["| class | ours | SimpleITK | nibabel |", "|---|---|---|---|"]
    text = "\n".join([*summarise(totals), "", *head, *lines, ""])
    print(text)
    print("\n".join(faults) if faults else "ours: every outcome is one that is accepted")
    if args.markdown:
        args.markdown.write_text(text, encoding="utf-8")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
