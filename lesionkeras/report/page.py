"""One HTML file without a dependency: everything escaped, pictures inside, opens offline."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionkeras.files import write_bytes

_STYLE = """
body{font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;color:#1a1a1a;
background:#fff;max-width:62rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.8rem;line-height:1.2;margin-bottom:.3rem}
h2{font-size:1.3rem;margin-top:2.5rem;border-bottom:1px solid #ccc;padding-bottom:.2rem}
.lead{font-size:1.1rem}
.wide{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;font-size:.92rem}
th,td{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
thead th{border-bottom:2px solid #888;vertical-align:bottom}
td.number,th.number{text-align:right;font-variant-numeric:tabular-nums}
tr.strong{background:#eef4fb;font-weight:600}
caption{caption-side:bottom;text-align:left;color:#555;font-size:.88rem;padding-top:.4rem;
max-width:min(60rem,92vw)}
figure{margin:1.2rem 0}
figure img{max-width:100%;height:auto;border:1px solid #ddd}
figcaption{color:#555;font-size:.92rem}
.scores{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0;padding:0;list-style:none}
.scores li{border:1px solid #ccd;border-radius:6px;padding:.6rem 1rem;min-width:8.5rem}
.scores strong{display:block;font-size:1.7rem;line-height:1.2}
.scores span{color:#555;font-size:.88rem}
.warning{border:2px solid #b00020;border-left-width:10px;background:#fdecee;color:#5f0012;
padding:.8rem 1rem;margin:1rem 0}
details summary{cursor:pointer}
:root{color-scheme:light dark}
@media screen and (prefers-color-scheme:dark){
body{color:#e4e4e4;background:#17191c}
h2{border-color:#45494f}
th,td,thead th{border-color:#3b3f45}
tr.strong{background:#1e2c3b}
caption,figcaption,.scores span{color:#a9afb7}
.scores li,figure img{border-color:#45494f}
.warning{background:#3b141a;color:#ffd9de;border-color:#d4455c}
}
@media print{body{max-width:none}h2{break-after:avoid}figure,tr{break-inside:avoid}}
""".strip()


def format_count(number: int, what: str) -> str:
    """Return how many of what there are.

    >>> format_count(1, "patient"), format_count(1200, "slice")
    ('1 patient', '1,200 slices')
    """
    return f"{number:,} {what}{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Paragraph:
    """Plain text."""

    text: str

    def to_html(self) -> str:
        """Writes it as HTML."""
        return f"<p>{html.escape(self.text)}</p>"


@dataclass(frozen=True)
class Notice:
    """A red box."""

    title: str
    text: str

    def to_html(self) -> str:
        """Writes it as HTML."""
        return (
            f'<div class="warning" role="alert"><strong>{html.escape(self.title)}</strong> '
            f"{html.escape(self.text)}</div>"
        )


@dataclass(frozen=True)
class Scores:
    """The figures that a reader came for: (name, value, remark) each."""

    rows: Sequence[tuple[str, str, str]]

    def to_html(self) -> str:
        """Writes them as HTML."""
        items = (
            f"<li>{html.escape(name)}<strong>{html.escape(value)}</strong>"
            f"<span>{html.escape(remark)}</span></li>"
            for name, value, remark in self.rows
        )
        return f'<ul class="scores">{"".join(items)}</ul>'


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        header: Column names.
        rows: Cells as text.
        caption: What it shows and where it is from.
        numbers: Columns to set flush right.
        strong: Rows to set off.
        folded: A title under which the table is folded away; "" shows it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    numbers: Iterable[int] = ()
    strong: Iterable[int] = ()
    folded: str = ""

    def to_html(self) -> str:
        """Writes it as HTML."""
        right, strong = set(self.numbers), set(self.strong)
        head = "".join(self._cell("th", i, name, right) for i, name in enumerate(self.header))
        body = []
        for place, row in enumerate(self.rows):
            cells = "".join(self._cell("td", i, cell, right) for i, cell in enumerate(row))
            mark = ' class="strong"' if place in strong else ""
            body.append(f"<tr{mark}>{cells}</tr>")
        caption = f"<caption>{html.escape(self.caption)}</caption>" if self.caption else ""
        table = (
            f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead>'
            f"<tbody>{''.join(body)}</tbody></table></div>"
        )
        if not self.folded:
            return table
        return f"<details><summary>{html.escape(self.folded)}</summary>{table}</details>"

    @staticmethod
    def _cell(tag: str, column: int, text: str, right: set[int]) -> str:
        scope = ' scope="col"' if tag == "th" else ""
        number = ' class="number"' if column in right else ""
        return f"<{tag}{scope}{number}>{html.escape(text)}</{tag}>"


@dataclass(frozen=True)
class Picture:
    """A PNG with what it shows, for those who cannot see it too.

    Args:
        png: The file's bytes.
        alt: What is to be seen.
        caption: The line below.
    """

    png: bytes
    alt: str
    caption: str

    def to_html(self) -> str:
        """Writes it as HTML, the picture inside."""
        data = base64.b64encode(self.png).decode("ascii")
        return (
            f'<figure><img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}">'
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        )


Block = Paragraph | Notice | Scores | Table | Picture


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: Sequence[Block]


def write_report(
    path: Path, title: str, summary: Sequence[Block], sections: Sequence[Section]
) -> Path:
    """Writes a page, whole or not at all.

    Args:
        path: The HTML file; its folder exists.
        title: Of the page.
        summary: What stands above the first heading.
        sections: The rest; a section without blocks is left out.

    Returns:
        The path.
    """
    parts = [block.to_html() for block in summary]
    for section in sections:
        if section.blocks:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
            parts += [block.to_html() for block in section.blocks]
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )
    write_bytes(path, text.encode())
    return path
