import json

from lesionkeras.ct.verification import Finding
from lesionkeras.report.verify_page import format_findings, write_verification

FINDINGS = [
    *[Finding("note", "noisy-row", f"row {row}", "possibly noisy") for row in range(1, 8)],
    Finding("error", "truncated", "a/1.png", "A PNG is truncated <here>"),
    Finding("corrected", "box-over-edge", "row 3", "clipped"),
]


def test_terminal_shows_the_worst_first_and_five_of_a_kind():
    assert format_findings(FINDINGS).splitlines() == [
        "error      truncated      a/1.png  A PNG is truncated <here>",
        "corrected  box-over-edge  row 3    clipped",
        *[f"note       noisy-row      row {row}    possibly noisy" for row in range(1, 6)],
        "note       noisy-row      ...      and 2 more",
        "1 error, 0 warning, 1 corrected, 7 note",
    ]
    assert format_findings([]) == "0 error, 0 warning, 0 corrected, 0 note"


def test_files_hold_every_finding(tmp_path):
    write_verification(tmp_path, "deeplesion/all", FINDINGS)
    written = json.loads((tmp_path / "findings.json").read_text())
    assert written["counts"] == {"error": 1, "warning": 0, "corrected": 1, "note": 7}
    assert written["findings"][0] == {
        "severity": "error",
        "name": "truncated",
        "where": "a/1.png",
        "text": "A PNG is truncated <here>",
    }
    page = (tmp_path / "report.html").read_text()
    assert "1 errors." in page and "A PNG is truncated &lt;here&gt;" in page
    assert page.count("possibly noisy") == 7 and "<h2>Warning" not in page
