"""The HTML builder: everything escaped, nothing half-written."""

from __future__ import annotations

import base64
from pathlib import Path

from lesionkeras.report.page import (
    Notice,
    Paragraph,
    Picture,
    Scores,
    Section,
    Table,
    write_report,
)

EVIL = """<script>alert("1")</script> & 'x'"""
SAFE = "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; &amp; &#x27;x&#x27;"


def test_every_text_is_escaped(tmp_path: Path) -> None:
    summary = [Paragraph(EVIL), Notice(EVIL, EVIL), Scores([(EVIL, EVIL, EVIL)])]
    blocks = [Table([EVIL], [[EVIL]], EVIL, folded=EVIL), Picture(b"png", EVIL, EVIL)]
    path = write_report(tmp_path / "a.html", EVIL, summary, [Section(EVIL, blocks)])
    text = path.read_text(encoding="utf-8")
    assert "<script" not in text and 'alert("' not in text
    # title twice, paragraph, notice twice, scores three times, heading, table four, picture two
    assert text.count(SAFE) == 15


def test_table_marks_numbers_and_rows() -> None:
    table = Table(["a", "b"], [["x", "1"], ["y", "2"]], numbers=(1,), strong=(1,))
    html = table.to_html()
    assert html.count('<th scope="col" class="number">b</th>') == 1
    assert '<tr><td>x</td><td class="number">1</td></tr>' in html
    assert '<tr class="strong"><td>y</td><td class="number">2</td></tr>' in html
    assert "<details>" not in html and "<caption>" not in html


def test_picture_is_inside() -> None:
    html = Picture(b"\x89PNG 1", "what", "caption").to_html()
    assert base64.b64encode(b"\x89PNG 1").decode() in html and 'alt="what"' in html


def test_page_replaces_the_old_one_and_leaves_nothing_beside(tmp_path: Path) -> None:
    for word in ("first", "second"):
        empty = Section("nobody sees this", [])
        write_report(tmp_path / "report.html", "T", [Paragraph(word)], [empty])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "second" in text and "first" not in text and "nobody sees this" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
