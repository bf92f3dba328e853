"""A comparison as a page of HTML: a table whose columns sort, before the runs themselves."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from gradgen.evaluation.compare import METRICS, Measured
from gradgen.evaluation.metrics import Value
from gradgen.evaluation.view import Words, page, read_view


def comparison_page(measured: Sequence[Measured], words: Words = str) -> str:
    """The page, as HTML; see :func:`gradgen.evaluation.view.page`."""
    runs = [read_view(entry.run.folder) for entry in measured]
    title = f"{len(measured)} run{'' if len(measured) == 1 else 's'} compared"
    return page(runs, title, comparison_table(measured), words)


def comparison_table(measured: Sequence[Measured]) -> str:
    """The table and what its columns mean, as HTML."""
    shown = [m for m in METRICS if any(_has(entry.values.get(m.key)) for entry in measured)]
    heads = "".join(
        f'<th tabindex="0" title="{escape(m.meaning)}">{escape(m.heading)}</th>' for m in shown
    )
    rows = []
    for entry in measured:
        cells = [
            f"<td>{escape(entry.run.name)}<small>{escape(_describe(entry))}</small></td>",
            *(
                _cell(entry.values.get(m.key), m.form, _is_best(entry, m.key, m.better, measured))
                for m in shown
            ),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    meanings = "".join(f"<dt>{escape(m.heading)}</dt><dd>{escape(m.meaning)}</dd>" for m in shown)
    notes = "".join(
        f"<li>{escape(n)}</li>" for n in dict.fromkeys(n for m in measured for n in m.notes)
    )
    return f"""<div class="wide"><table class="sorted">
<thead><tr><th tabindex="0">run</th>{heads}</tr></thead>
<tbody>{"".join(rows)}</tbody></table></div>
<p>Below each figure its 95 % bootstrap interval, where there are enough pictures for it. A click
on a heading sorts, and so does Enter; the best figure of a column stands out.</p>
<ul>{notes}</ul>
<details><summary>What the columns are</summary><dl class="columns">{meanings}</dl></details>"""


def _has(value: Value | None) -> bool:
    return value is not None and value.value is not None


def _describe(entry: Measured) -> str:
    settings = entry.run.record.settings
    count = len(entry.run.record.classes)
    return (
        f"{settings.method}, {settings.budget} gradients, clip {settings.clip_mode}, "
        f"{count} class{'es' if count > 1 else ''}, {len(entry.run.images)} pictures"
    )


def _is_best(entry: Measured, key: str, better: int, measured: Sequence[Measured]) -> bool:
    own = entry.values.get(key, Value(None)).value
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
