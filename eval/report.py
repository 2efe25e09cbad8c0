"""Building blocks of self-contained HTML reports: text, tables, figures, one page.

Each block is a piece of HTML (`Markup`); a section is a heading and its blocks.
"""

import base64
import io
from collections.abc import Sequence

import pandas as pd
from jinja2 import Environment
from markupsafe import Markup, escape
from matplotlib.figure import Figure

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; color: #1b2733; max-width: 62rem;
       margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
nav a { margin-right: 1rem; } a { color: #0b5cad; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid #dde3e9; }
th { background: #f3f6f9; } td.text, th.text { text-align: left; }
img { max-width: 100%; height: auto; }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<nav>{% for heading, _ in sections %}<a href="#section-{{ loop.index }}">{{ heading }}</a>
{% endfor %}</nav>
{% for heading, blocks in sections %}
<section id="section-{{ loop.index }}">
<h2>{{ heading }}</h2>
{% for block in blocks %}{{ block }}
{% endfor %}</section>
{% endfor %}</body>
</html>
"""


def text(words: str) -> Markup:
    """Make a paragraph; the words are escaped."""
    return Markup("<p>{}</p>").format(words)


def table(frame: pd.DataFrame, digits: int = 3) -> Markup:
    """Make a table of all rows of a frame, without its index; text is escaped, NaN is a dash."""
    is_text = [not pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    kinds = [' class="text"' if t else "" for t in is_text]
    head = "".join(f"<th{k}>{escape(c)}</th>" for k, c in zip(kinds, frame.columns, strict=True))
    rows = []
    for values in frame.itertuples(index=False, name=None):
        cells = zip(kinds, (_cell(v, digits) for v in values), strict=True)
        rows.append("<tr>" + "".join(f"<td{k}>{v}</td>" for k, v in cells) + "</tr>")
    body = "\n".join(rows)
    return Markup(
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody>'
        "</table></div>"
    )


def _cell(value: object, digits: int) -> str:
    if value is None or (isinstance(value, float) and pd.isna(value)):
        return "&ndash;"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return str(escape(str(value)))


def figure(drawing: Figure, alt: str = "", dpi: int = 110) -> Markup:
    """Make an image of a matplotlib figure, kept inside the page.

    Parameters
    ----------
    drawing : Figure
    alt : str
        What it shows, for those who cannot see it.
    dpi : int
    """
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return image(buffer.getvalue(), alt)


def image(png: bytes, alt: str = "") -> Markup:
    """Make an image of PNG bytes, kept inside the page."""
    encoded = base64.b64encode(png).decode()
    return Markup('<img alt="{}" src="data:image/png;base64,{}">').format(alt, encoded)


def page(title: str, sections: Sequence[tuple[str, Sequence[Markup]]]) -> str:
    """Put sections on one HTML page that needs no other file.

    Parameters
    ----------
    title : str
    sections : sequence of (heading, blocks)
        Blocks from `text`, `table`, `figure` and `image`.

    Returns
    -------
    str
        The whole document.
    """
    template = Environment(autoescape=True).from_string(_PAGE)
    return template.render(title=title, sections=list(sections))
