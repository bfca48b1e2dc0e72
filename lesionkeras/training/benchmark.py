"""Speed beside a peer: both in one run, in turns, so that a busy machine is unfair to neither."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Step = Callable[[], object]  # does one step and comes back once its result is there


def measure_rates(
    contestants: Mapping[str, Step],
    images_per_step: int,
    steps: int,
    repeats: int,
    warmup_steps: int = 2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Measures images/s of several contestants in turns: A B, B A, A B, ...

    Args:
        contestants: Name -> one step.
        images_per_step: Images that one step works on.
        steps: Steps that are timed together.
        repeats: Turns of each contestant.
        warmup_steps: Untimed steps of each before all turns: tracing, compiling, filling caches.
        clock: Seconds.

    Returns:
        Name -> images/s of each turn.
    """
    for step in contestants.values():
        for _ in range(warmup_steps):
            step()
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats):
        for name in list(contestants)[:: 1 if turn % 2 == 0 else -1]:
            start_s = clock()
            for _ in range(steps):
                contestants[name]()
            rates[name].append(steps * images_per_step / (clock() - start_s))
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
        report: "benchmark", "settings", "environment", "machine" and "rows", as written to JSON.

    Returns:
        Lines: what was measured, where, and a table with medians, spread and ratio.
    """
    machine, settings = report["machine"], report["settings"]
    place = ", ".join([machine["cpu"], f"{machine['cores']} cores", *machine["gpus"]])
    commit = report["environment"]["git_commit"] or "no checkout"
    lines = [
        f"{report['benchmark']}: " + ", ".join(f"{k} {v}" for k, v in settings.items()),
        f"commit {commit}; {place}",
        f"{'policy':<16}{'task':<16}{'who':<20}{'images/s':>9}{'min..max':>18}{'ratio':>7}",
    ]
    for row in report["rows"]:
        for i, (name, rate) in enumerate(row["images_per_s"].items()):
            spread = f"{rate['min']:.2f}..{rate['max']:.2f}"
            lead = (row["policy"], row["task"]) if i == 0 else ("", "")
            ratio = f"{row['ratio']:.2f}" if i == 0 else ""
            lines.append(
                f"{lead[0]:<16}{lead[1]:<16}{name:<20}{rate['median']:>9.2f}{spread:>18}{ratio:>7}"
            )
    return "\n".join(lines)


def _read_cpu_model() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2] for line in text.splitlines() if line.startswith("model name")]
    return names[0].strip() if names else platform.machine()
