"""`gradgen view`: runs as a page to look at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gradgen.cli.common import note
from gradgen.cli.options import argument, as_options, option


def view(
    folders: Annotated[list[Path], argument(metavar="RUN...", help="Folders of runs.")],
    out_file: Annotated[Path, option("--out", "-o", help="The page.")] = Path("view.html"),
    serve: Annotated[
        bool,
        option(
            "--serve",
            help="Serve the page to this machine's browsers, up to date while runs go on, until "
            "Ctrl-C.",
        ),
    ] = False,
    port: Annotated[
        int, option(help="Of --serve.", default="any that is free", least=0, max=65535)
    ] = 0,
) -> None:
    """Make a page of runs: pictures with their numbers and recipes, the chains' way, traces, words.

    The page is one file that needs nothing else. The chains' way is there for runs that were made
    with --animate.
    """
    if not serve:
        from gradgen.evaluation.view import view as page_of
        from gradgen.files import write_atomically

        write_atomically(out_file, page_of(folders, as_options).encode())
        print(out_file)
        return
    from gradgen.runtime import configure

    configure()
    from gradgen.evaluation.serve import LOOPBACK, server_of

    server = server_of(folders, port, as_options)
    note("Ctrl-C ends this")
    print(f"http://{LOOPBACK}:{server.server_port}/", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        return
    finally:
        server.server_close()
