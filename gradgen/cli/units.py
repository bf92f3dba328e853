"""`gradgen units`: the layers whose units can be asked for."""

from __future__ import annotations

import json
from typing import Annotated

from gradgen.cli import common
from gradgen.cli.options import AsJson, argument


def units(
    bundle: Annotated[str, argument(help="The networks: a name, a folder or FILE.py.")] = "tiny64",
    as_json: AsJson = False,
) -> None:
    """List the layers of a bundle's classifier, whose units 'gradgen sample --unit' takes."""
    from gradgen.runtime import configure

    configure()
    from rich.markup import escape
    from rich.table import Table

    from gradgen.evidence.unit import units as found_units

    found = found_units(bundle)
    if as_json:
        print(json.dumps({layer: list(shape) for layer, shape in found.items()}, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("layer", "units", "shape"):
        table.add_column(heading, justify="left" if heading == "layer" else "right")
    for layer, shape in found.items():
        table.add_row(escape(layer), str(shape[-1]), " x ".join(map(str, shape)))
    common.print_table(table)
