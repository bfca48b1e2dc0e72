"""Checks a whole raw data set before a day of training: exit 1 where there are errors.

    python -m experiments.verify --data deeplesion/liver --data-dir DIR
    python -m experiments.verify --data lits --data-dir DIR

Every file is opened; shapes, affines, spacing, labels, intensities, boxes, splits, patients,
duplicates and free disk are checked.  OUT gets findings.json and report.html; the same command goes
on where it was stopped, and checks again what has changed since.
Costs: one pass over the files, on all cores.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from lesionkeras import cli, cli_data


def main(argv: list[str] | None = None) -> None:
    """Parse, check, print, write; leave with 1 where there are errors."""
    parser = cli_data.build_data_parser("verify", __doc__)
    data = cli_data.to_raw_data(cli.read_arguments(parser, argv))
    from lesionkeras.report import console, verify_page
    from tfds_builders.verify import open_verifier, verify

    verifier = open_verifier(data.name, data.config, data.data_dir)
    place = hashlib.sha256(str(verifier.root.absolute()).encode()).hexdigest()[:8]
    out = data.out or Path("runs") / f"verify-{data.title.replace('/', '-')}-{place}"
    out.mkdir(parents=True, exist_ok=True)
    with console.Counter(f"{data.title}: checking") as progress:
        findings = verify(verifier, data.prepared_dir, out / "checked.jsonl", progress)
    verify_page.write_verification(out, data.title, findings)
    print(verify_page.format_findings(findings))
    print(f"Report: {out / 'report.html'}")
    if verify_page.count_severities(findings)["error"]:
        sys.exit(cli.EXIT_ERROR)


if __name__ == "__main__":
    cli.run_main(main)
