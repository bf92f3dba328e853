"""A comparison as one page of HTML that needs nothing else: pictures inside, columns that sort."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image

from gradgen.evaluation.compare import METRICS, Measured, Value, grid_of

MOST_PIXELS = 900  # longer side of a grid on the page
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
.wide { overflow-x: auto }
th, td { padding: .3rem .6rem; border-bottom: 1px solid #ddd; text-align: right }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
th { cursor: pointer; vertical-align: bottom; user-select: none }
th::after { content: " \\2195"; color: #aaa }
th[aria-sort=ascending]::after { content: " \\2191"; color: #000 }
th[aria-sort=descending]::after { content: " \\2193"; color: #000 }
td small { display: block; color: #666 }
td.best { font-weight: 600; background: #eef6ee }
figure { margin: 1.5rem 0 } figcaption { margin-bottom: .4rem }
img { max-width: 100%; image-rendering: auto }
dl { columns: 2; font-size: 90% } dt { font-weight: 600 } dd { margin: 0 0 .4rem 0 }
@media (prefers-color-scheme: dark) {
  body { background: #16181a; color: #e4e4e4 } th, td { border-color: #3a3d40 }
  td.best { background: #20352a } td small { color: #9a9a9a } th[aria-sort]::after { color: #fff } }
"""
SCRIPT = """
for (const head of document.querySelectorAll("th")) head.addEventListener("click", () => {
  const column = head.cellIndex, body = head.closest("table").tBodies[0];
  const down = head.getAttribute("aria-sort") !== "descending";
  for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = row => { const v = row.cells[column].dataset.value; return v === "" ? NaN : +v };
  const text = row => row.cells[column].textContent;
  const rows = [...body.rows].sort((a, b) => {
    if (column === 0) return text(a).localeCompare(text(b)) * (down ? -1 : 1);
    const [x, y] = [key(a), key(b)];
    if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
    return down ? y - x : x - y;
  });
  body.append(...rows);
});
"""


def comparison_page(measured: Sequence[Measured]) -> str:
    """The page, as HTML."""
    shown = [m for m in METRICS if any(_has(one.values.get(m.key)) for one in measured)]
    heads = "".join(f'<th title="{escape(m.meaning)}">{escape(m.heading)}</th>' for m in shown)
    rows = []
    for one in measured:
        cells = [
            f"<td>{escape(one.run.name)}<small>{escape(_describe(one))}</small></td>",
            *(
                _cell(one.values.get(m.key), m.form, _is_best(one, m.key, m.better, measured))
                for m in shown
            ),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    meanings = "".join(f"<dt>{escape(m.heading)}</dt><dd>{escape(m.meaning)}</dd>" for m in shown)
    notes = "".join(
        f"<li>{escape(n)}</li>" for n in dict.fromkeys(n for m in measured for n in m.notes)
    )
    figures = "".join(_figure(one) for one in measured)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>gradgen: {len(measured)} runs compared</title><style>{STYLE}</style></head><body>
<h1>{len(measured)} runs compared</h1>
<div class="wide"><table><thead><tr><th>run</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>
<p>Below each figure its 95 % bootstrap interval (pictures drawn anew within their classes). A click
on a heading sorts; the best figure of a column stands out.</p>
<ul>{notes}</ul>
{figures}
<h2>Columns</h2><dl>{meanings}</dl>
<script>{SCRIPT}</script></body></html>
"""


def _has(value: Value | None) -> bool:
    return value is not None and value.value is not None


def _describe(one: Measured) -> str:
    settings = one.run.record["settings"]
    count = len(one.run.record["classes"])
    return (
        f"{settings['method']}, {settings['budget']} gradients, clip {settings['clip_mode']}, "
        f"{count} class{'es' if count > 1 else ''}, {len(one.run.images)} pictures"
    )


def _is_best(one: Measured, key: str, better: int, measured: Sequence[Measured]) -> bool:
    own = one.values.get(key, Value(None)).value
    others = [m.values[key].value for m in measured if _has(m.values.get(key))]
    if own is None or better == 0 or len(others) < 2:
        return False
    return all(own * better >= value * better for value in others if value is not None)


def _cell(value: Value | None, form: str, best: bool) -> str:
    if value is None or value.value is None:
        return '<td data-value="">–</td>'
    interval = ""
    if value.low is not None and value.high is not None:
        interval = f"<small>{value.low:{form}} … {value.high:{form}}</small>"
    kind = ' class="best"' if best else ""
    return f'<td{kind} data-value="{value.value!r}">{value.value:{form}}{interval}</td>'


def _figure(one: Measured) -> str:
    path = grid_of(one.run)
    if not path.is_file():
        return ""
    with Image.open(path) as image:
        picture = image.convert("RGB")
        picture.thumbnail((MOST_PIXELS, MOST_PIXELS))
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG", quality=88)
    data = base64.b64encode(buffer.getvalue()).decode()
    names = ", ".join(job["name"] for job in one.run.record["classes"])
    return (
        f"<figure><figcaption><strong>{escape(one.run.name)}</strong>: {escape(names)}; "
        f"{escape(_describe(one))}</figcaption>"
        f'<img alt="Grid of the run {escape(one.run.name)}" src="data:image/jpeg;base64,{data}">'
        "</figure>"
    )
