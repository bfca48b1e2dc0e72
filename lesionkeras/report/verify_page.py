"""What a check of raw data found: a table on the terminal, a JSON, a page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from lesionkeras.ct.verification import SEVERITIES, Finding
from lesionkeras.files import write_json
from lesionkeras.report.page import Block, Notice, Scores, Section, Table, write_report

_SHOWN_A_KIND = 5  # lines of one kind on a terminal; the page and the JSON have all
_MEANINGS = {
    "error": "cannot be built, or must not be trained on",
    "warning": "look at it",
    "corrected": "the builder sees to it",
    "note": "good to know",
}


def count_severities(findings: Sequence[Finding]) -> dict[str, int]:
    """Return how many findings there are of each severity, the worst first.

    >>> count_severities([Finding("note", "disk", "here", "enough")])
    {'error': 0, 'warning': 0, 'corrected': 0, 'note': 1}
    """
    counts = Counter(finding.severity for finding in findings)
    return {severity: counts[severity] for severity in SEVERITIES}


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings by severity, the worst first, then by kind and place."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.name, f.where))


def format_findings(findings: Sequence[Finding]) -> str:
    """Format findings for a terminal: at most five of a kind, the worst first.

    Args:
        findings: Any.

    Returns:
        A table, then one line of counts.
    """
    by_kind: dict[tuple[str, str], list[Finding]] = {}
    for finding in sort_findings(findings):
        by_kind.setdefault((finding.severity, finding.name), []).append(finding)
    rows = []
    for (severity, name), group in by_kind.items():
        rows += [(severity, name, f.where, f.text) for f in group[:_SHOWN_A_KIND]]
        if len(group) > _SHOWN_A_KIND:
            rows.append((severity, name, "...", f"and {len(group) - _SHOWN_A_KIND} more"))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(3)]
    lines = [
        "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]])
        for row in rows
    ]
    counts = ", ".join(f"{n} {severity}" for severity, n in count_severities(findings).items())
    return "\n".join([*lines, counts])


def write_verification(folder: Path, title: str, findings: Sequence[Finding]) -> None:
    """Write `findings.json` and `report.html` into a folder.

    Args:
        folder: Exists.
        title: The data set.
        findings: What was found.
    """
    counts = count_severities(findings)
    ordered = sort_findings(findings)
    write_json(
        folder / "findings.json",
        {
            "data": title,
            "counts": counts,
            "findings": [asdict(finding) for finding in ordered],
        },
    )
    summary: list[Block] = [Scores([(s, str(n), _MEANINGS[s]) for s, n in counts.items()])]
    if counts["error"]:
        text = "A model trained on this data set could not be trusted; see the first table."
        summary.append(Notice(f"{counts['error']} errors.", text))
    sections = [
        Section(severity.capitalize(), [_build_table(ordered, severity)])
        for severity, count in counts.items()
        if count
    ]
    write_report(folder / "report.html", f"Verification of {title}", summary, sections)


def _build_table(findings: Sequence[Finding], severity: str) -> Table:
    rows = [(f.name, f.where, f.text) for f in findings if f.severity == severity]
    return Table(["kind", "where", "what"], rows, f"{severity}: {_MEANINGS[severity]}.")
