"""Speed beside a peer: both in one run, in turns, so that a busy machine is unfair to neither."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from lesionkeras.errors import RecipeError, RunError
from lesionkeras.recipe import find_nearest
from lesionkeras.training.progress import format_duration

SHOWN_EVERY_S = 2.0
Step = Callable[[], object]  # does one step and comes back once its result is there


def measure_rates(
    contestants: Mapping[str, Step],
    images_per_step: float,
    steps: int,
    repeats: int,
    title: str,
    warmup_steps: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Measures images/s of several contestants in turns: A B, B A, A B, ...

    Args:
        contestants: Name -> one step.
        images_per_step: Images that one step works on.
        steps: Steps that are timed together.
        repeats: Turns of each contestant.
        title: What is measured, for the lines that say how far it is.
        warmup_steps: Untimed steps of each before all turns: tracing, compiling, filling caches.
        clock: Seconds.

    Returns:
        Name -> images/s of each turn.
    """
    print(f"Measuring {title}", file=sys.stderr, flush=True)
    for step in contestants.values():
        for _ in range(warmup_steps):
            step()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    begin_s = shown_s = clock()
    for turn in range(repeats):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            start_s = clock()
            for _ in range(steps):
                contestants[name]()
            end_s = clock()
            rates[name].append(steps * images_per_step / (end_s - start_s))
        if turn + 1 < repeats and end_s - shown_s >= SHOWN_EVERY_S:
            left = format_duration((end_s - begin_s) / (turn + 1) * (repeats - turn - 1))
            words = f"{title}: turn {turn + 1} of {repeats} of each, about {left} left"
            print(words, file=sys.stderr, flush=True)
            shown_s = end_s
    return rates


def compare(rates: Mapping[str, list[float]]) -> dict[str, Any]:
    """Summarises two contestants, ours first.

    Args:
        rates: What `measure_rates` gave for two names.

    Returns:
        Each name -> median, min and max images/s; "ratio": ours by the peer, of the medians.

    >>> compare({"ours": [4.0, 6.0, 5.0], "peer": [2.0, 2.5, 9.0]})["ratio"]
    2.0
    """
    ours, peer = (statistics.median(values) for values in rates.values())
    summaries = {
        name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
        for name, values in rates.items()
    }
    return {"images_per_s": summaries, "ratio": ours / peer}


def add_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Adds the words of a benchmark to those of an experiment.

    Args:
        parser: From `cli.build_parser`.
        names: The benchmarks that there are.
    """
    # "resolve": this command's --out is a file, not a run directory.
    add = parser.add_argument_group("benchmark", conflict_handler="resolve").add_argument
    add("benchmark", metavar="NAME", help=", ".join(names))
    add("--steps", default="2", metavar="N", help="steps a turn (default: 2)")
    add("--repeats", default="5", metavar="N", help="turns of each (default: 5)")
    add("--lits-dir", metavar="DIR", help="data: raw files of LiTS")
    add("--out", metavar="FILE", help="also write the result there, as JSON")


def choose_sizes(side_px: int, smoke: bool) -> tuple[int, int, tuple[int, ...]]:
    """Chooses the network and images that segmentation is measured with.

    Args:
        side_px: Of the images.
        smoke: Whether a tiny network is wanted.

    Returns:
        Side of the images in pixels, channels of the U-Net's first level, images a batch.

    >>> choose_sizes(512, smoke=False), choose_sizes(64, smoke=True)
    ((512, 64, (1, 8)), (64, 8, (1, 2)))
    """
    return (side_px, 8, (1, 2)) if smoke else (side_px, 64, (1, 8))


def check_name(name: str, known: Iterable[str]) -> None:
    """Checks that there is a benchmark of a name.

    Args:
        name: What was asked for.
        known: What there is.

    Raises:
        RecipeError: There is none; the nearest is named.
    """
    if name not in known:
        raise RecipeError(
            "A benchmark is unknown",
            found=name,
            wanted="one of " + ", ".join(known),
            next_step=f"did you mean {find_nearest(name, known)}",
        )


def check_file(path: Path) -> None:
    """Checks, without writing, that a result can be written to a file.

    Args:
        path: The file; an old one will be replaced.

    Raises:
        RunError: It is a folder, or its folder is missing.
    """
    if path.is_dir() or not path.parent.is_dir():
        raise RunError(
            "A result needs a file in a folder that exists",
            where=str(path),
            found="a folder" if path.is_dir() else "no such folder",
            next_step="name another --out",
        )


def describe_machine() -> dict[str, Any]:
    """Returns CPU model, cores that this process may use, and GPUs; never a host's name."""
    import tensorflow as tf

    details = map(tf.config.experimental.get_device_details, tf.config.list_physical_devices("GPU"))
    return {
        "cpu": _read_cpu_model(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "gpus": [detail.get("device_name", "unknown") for detail in details],
    }


def format_report(report: Mapping[str, Any]) -> str:
    """Formats a benchmark's result for a terminal.

    Args:
        report: "benchmark", "settings", "environment", "machine" and "rows", as written to JSON;
            "columns" names the first four columns where they are not those of a network; "notes"
            are lines that follow the table.

    Returns:
        Lines: what was measured, where, and a table with medians, spread and ratio.
    """
    machine, settings = report["machine"], report["settings"]
    place = ", ".join([machine["cpu"], f"{machine['cores']} cores", *machine["gpus"]])
    commit = report["environment"]["git_commit"] or "no checkout"
    lines = [
        f"{report['benchmark']}: " + ", ".join(f"{k} {v}" for k, v in settings.items()),
        f"commit {commit}; {place}",
    ]
    first, second, third, rates = report.get("columns", ("policy", "task", "who", "images/s"))
    wide = max([16, *(2 + len(row["task"]) for row in report["rows"])])
    lines.append(f"{first:<16}{second:<{wide}}{third:<20}{rates:>9}{'min..max':>18}{'ratio':>7}")
    for row in report["rows"]:
        for i, (name, rate) in enumerate(row["images_per_s"].items()):
            spread = f"{rate['min']:.2f}..{rate['max']:.2f}"
            lead = (row["policy"], row["task"]) if i == 0 else ("", "")
            ratio = f"{row['ratio']:.2f}" if i == 0 else ""
            median = f"{rate['median']:.2f}"
            lines.append(
                f"{lead[0]:<16}{lead[1]:<{wide}}{name:<20}{median:>9}{spread:>18}{ratio:>7}"
            )
    return "\n".join([*lines, *report.get("notes", ())])


def _read_cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()
