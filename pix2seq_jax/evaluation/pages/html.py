"""One page that opens without a network: headings, tables with their CSV, charts, pictures."""

import csv
import io
import math
from collections.abc import Sequence
from html import escape
from pathlib import PurePath

from PIL import Image

from pix2seq_jax.files.whole import open_whole, write_whole

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; margin: 2rem auto;
  max-width: 1120px; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { border-bottom: 1px solid #ccc; margin-top: 2.5rem; }
h3 { margin-bottom: .3rem; }
p { max-width: 46rem; } nav a { margin-right: 1rem; }
.wide { overflow-x: auto; } .row { display: flex; flex-wrap: wrap; gap: 1rem; }
table { border-collapse: collapse; margin: .5rem 0; font-size: 14px; }
th, td { padding: .15rem .6rem; border-bottom: 1px solid #e4e4e4; text-align: left; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.matrix th { font-weight: normal; } .matrix td { text-align: right; }
figure { margin: .5rem 0; } figure img { max-width: 100%; border: 1px solid #ddd; }
figcaption, .note { color: #555; font-size: 14px; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: #333; }
"""


class Page:
    """An HTML file under construction, and the folder beside it for CSV files and pictures.

    Attributes:
        path: of the HTML file.
        folder: beside it, of the same stem.
    """

    def __init__(self, path: PurePath, title: str) -> None:
        self.path, self.folder = path, path.with_suffix("")
        self._title, self._parts = title, []
        self._sections: list[tuple[str, str]] = []

    def section(self, name: str, title: str) -> None:
        """Begins a part that the top of the page links to."""
        self._sections.append((name, title))
        self._parts.append(f'<h2 id="{escape(name)}">{escape(title)}</h2>')

    def heading(self, title: str) -> None:
        """Begins a part of a section."""
        self._parts.append(f"<h3>{escape(title)}</h3>")

    def text(self, words: str) -> None:
        """A paragraph."""
        self._parts.append(f"<p>{escape(words)}</p>")

    def charts(self, *svgs: str) -> None:
        """Charts of `pictures.svg`, beside each other where there is room."""
        inside = "".join(f"<div>{svg}</div>" for svg in svgs)
        self._parts.append(f'<div class="row">{inside}</div>')

    def table(
        self, name: str, header: Sequence[str], rows: Sequence[Sequence], most: int = 0
    ) -> None:
        """A table; NAME.csv has its numbers unrounded.

        Args:
            name: of the CSV file, and id of the table.
            header: names of the columns.
            rows: texts, whole numbers, and other numbers (NaN and None are written "-").
            most: only so many rows are shown, and the CSV has all; 0: all.
        """
        self.file(name, header, rows)
        shown = rows[: most or None]
        numeric = [not all(isinstance(row[c], str) for row in rows) for c in range(len(header))]
        head = "".join(_cell("th", h, n) for h, n in zip(header, numeric, strict=True))
        body = "".join(
            f"<tr>{''.join(_cell('td', v, n) for v, n in zip(row, numeric, strict=True))}</tr>"
            for row in shown
        )
        table = f'<table id="{escape(name)}"><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
        self._parts.append(f'<div class="wide">{table}</table></div>')
        more = f" ({len(shown)} of {len(rows)} rows shown)" if len(shown) < len(rows) else ""
        self.link(name, more)

    def matrix(self, name: str, names: Sequence[str], columns: Sequence[str], counts) -> None:
        """A table of counts whose cells are the darker the larger their share of the row."""
        rows = [[one, *map(int, row)] for one, row in zip(names, counts, strict=True)]
        self.file(name, ["", *columns], rows)
        head = "".join(f"<th>{escape(one)}</th>" for one in ("", *columns))
        body = ""
        for first, *values in rows:
            total = sum(values) or 1
            cells = "".join(_shaded(value, value / total) for value in values)
            body += f"<tr><th>{escape(first)}</th>{cells}</tr>"
        table = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        table = f'<table class="matrix" id="{escape(name)}">{table}</table>'
        self._parts.append(f'<div class="wide">{table}</div>')
        self.link(name)

    def file(self, name: str, header: Sequence[str], rows: Sequence[Sequence]) -> None:
        """Writes NAME.csv; a number that is NaN or None is an empty field."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([["" if _missing(value) else value for value in row] for row in rows])
        write_whole(self.folder / f"{name}.csv", text.getvalue())

    def link(self, name: str, more: str = "") -> None:
        """A line that links to NAME.csv."""
        target = escape(f"{self.folder.name}/{name}.csv")
        self._parts.append(f'<p class="note"><a href="{target}">{escape(name)}.csv</a>{more}</p>')

    def picture(self, name: str, picture: Image.Image, words: str) -> None:
        """A picture, written as NAME.png, above words."""
        with open_whole(self.folder / f"{name}.png") as stream:
            picture.save(stream, "PNG")
        target = escape(f"{self.folder.name}/{name}.png")
        size = f'width="{picture.width}" height="{picture.height}"'
        image = f'<img src="{target}" alt="{escape(words)}" {size} style="height:auto">'
        caption = f"<figcaption>{escape(words)}</figcaption>"
        self._parts.append(f"<figure>{image}{caption}</figure>")

    def write(self) -> PurePath:
        """Writes the HTML file as a whole; returns its path."""
        links = "".join(
            f'<a href="#{escape(name)}">{escape(title)}</a>' for name, title in self._sections
        )
        title = escape(self._title)
        head = f'<meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        head += '<meta name="viewport" content="width=device-width, initial-scale=1">'
        body = f"<h1>{title}</h1><nav>{links}</nav>" + "\n".join(self._parts)
        page = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body>{body}</body></html>\n'
        write_whole(self.path, page)
        return self.path


def _cell(tag: str, value, numeric: bool) -> str:
    kind = ' class="number"' if numeric else ""
    return f"<{tag}{kind}>{escape(shown(value))}</{tag}>"


def _shaded(value: int, share: float) -> str:
    """A cell in blue; its ink is white where that is dark."""
    ink = "#fff" if share > 0.55 else "#222"
    style = f"background:rgba(0,90,170,{share:.2f});color:{ink}"
    return f'<td style="{style}">{value if value else ""}</td>'


def shown(value) -> str:
    """A value as it stands in a table."""
    if _missing(value):
        return "-"
    return str(value) if isinstance(value, int | str) else f"{value:.3f}"


def _missing(value) -> bool:
    return value is None or (isinstance(value, float) and not math.isfinite(value))
