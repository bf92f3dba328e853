"""`gradgen stats`: the clipping statistics of a class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradgen.cli.common import err, note, out, progress, quiet_pillow, warn
from gradgen.cli.hosts import Coordinator, Distributed, NumProcesses, ProcessId, join_hosts
from gradgen.errors import UsageError

if TYPE_CHECKING:
    from gradgen.hosts import Hosts
    from gradgen.labels import Label
    from gradgen.networks import Bundle
    from gradgen.sampling import SampleProgress
    from gradgen.statistics import Statistics

# One code a chain: n independent ones give a standard deviation to about 1/sqrt(2n), here 13 %.
DEFAULT_CHAINS = 32
# Chains start in the prior, which the posterior differs from in few directions: this is what they
# need to get there, not to explore. On two cores with lite0 it is some minutes.
DEFAULT_BUDGET = 200


def stats(
    class_name: Annotated[
        str | None,
        typer.Option(
            "--class", "-c", help="Name, synset id or index [default: all classes together]."
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(help="Folder, file or glob of pictures to encode; may be repeated."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", help="Show a statistics file, or DGN-AM's plain text bounds."),
    ] = None,
    sigmas: Annotated[float, typer.Option(help="Bounds are mean ± this · std.")] = 3.0,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Statistics file [default: stats-<class>.npz].")
    ] = None,
    plot: Annotated[bool, typer.Option(help="Draw a plot beside the file.")] = True,
    bundle: Annotated[str, typer.Option(help="The bundle: a name or a folder.")] = "tiny64",
    generator: Annotated[
        str | None,
        typer.Option(help="Another generator's codes: deepsim-fc7, deepsim-pool5, a bundle."),
    ] = None,
    samples: Annotated[
        bool, typer.Option("--samples", help="From posterior samples even if there is a table.")
    ] = False,
    method: Annotated[str, typer.Option(help="Of the posterior samples: map, mala, hmc.")] = "mala",
    num_chains: Annotated[
        int, typer.Option(min=2, help="Posterior samples, one a chain.")
    ] = DEFAULT_CHAINS,
    budget: Annotated[
        int, typer.Option(min=1, help="Gradient evaluations a chain.")
    ] = DEFAULT_BUDGET,
    seed: Annotated[int, typer.Option(help="Of the posterior samples.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures encoded at a time.")] = 32,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads that decode [default: one a core, up to 8].")
    ] = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    as_json: Annotated[bool, typer.Option("--json", help="The record on standard output.")] = False,
) -> None:
    """Mean, standard deviation and clipping bounds of every code unit of a class.

    From pictures (--images) through the bundle's encoder; else from the table that comes with the
    bundle; else, for a class that the bundle was not trained on, from posterior samples of it. The
    file it writes is what 'gradgen sample --clip --stats FILE' takes.
    """
    if images and (samples or file):
        raise UsageError("--images, --samples and --file exclude one another")
    if file and (samples or class_name):
        raise UsageError("--file says by itself what it is of: leave out --class and --samples")
    if samples and not class_name:
        raise UsageError("--samples needs --class")
    if distributed and not images:
        raise UsageError("--distributed shares pictures among hosts: give them by --images")
    from gradgen import runtime
    from gradgen import statistics as st

    st.check_sigmas(sigmas)
    from gradgen.hosts import ALONE

    hosts = ALONE
    if file is not None:
        result, name = st.load_statistics(file), file.stem
    else:
        runtime.configure()
        quiet_pillow()
        files = _find(images)
        hosts = join_hosts(distributed, coordinator, num_processes, process_id, stay=True)
        from gradgen.bundle import load_bundle

        loaded = load_bundle(bundle, generator=generator)
        label, in_table = st.find_label(loaded, class_name) if class_name else (None, True)
        name = label.slug if label else "images" if files else "all"
        if files:
            result = _from_images(
                loaded, files, sigmas, str(label) if label else None, batch_size, threads, hosts
            )
        elif in_table and not samples:
            result = st.from_bundle(loaded, label, sigmas)
        else:
            assert label is not None
            settings = {"method": method, "budget": budget, "seed": seed}
            result = _from_samples(loaded, label, sigmas, num_chains, settings)
    if not hosts.is_first:
        return
    _finish(result, file, out_file or Path(f"stats-{name}.npz"), plot, as_json)


def _find(images: list[str] | None) -> list[Path]:
    if not images:
        return []
    from gradgen.images import find_images

    return find_images(images)


def _from_images(
    bundle: Bundle,
    files: list[Path],
    sigmas: float,
    class_name: str | None,
    batch_size: int,
    threads: int | None,
    hosts: Hosts,
) -> Statistics:
    from gradgen import statistics as st

    with progress("encoding", total=len(hosts.share(len(files))), unit="images") as shown:

        def on_progress(done: int, failed: int) -> None:
            shown.update(done, f"{failed} unreadable" if failed else None)

        result = st.from_images(
            bundle, files, sigmas, class_name, batch_size, threads, on_progress, hosts
        )
    if not hosts.is_first:
        return result
    for message in result.record["unreadable_files"]:
        warn(f"skipped: {message}")
    if result.record["unreadable"]:
        warn(f"skipped {result.record['unreadable']} of {len(files)} images")
    return result


def _from_samples(
    bundle: Bundle, label: Label, sigmas: float, num_chains: int, settings: dict[str, Any]
) -> Statistics:
    import numpy as np

    from gradgen import statistics as st
    from gradgen.sampling import sample

    note(
        f"{bundle.name} has no statistics of {label}, so they are taken from {num_chains} "
        f"posterior samples ({settings['method']}, {settings['budget']} gradients each)"
    )
    with progress("sampling", unit="gradients") as shown:

        def on_block(block: SampleProgress) -> None:
            shown.total = block.total_gradient_evaluations
            shown.update(
                block.gradient_evaluations,
                f"log p(class) {block.log_likelihood:.2f}, acceptance {block.acceptance_rate:.2f}",
            )

        drawn = sample(
            bundle,
            label.synset or label.name,
            num_chains=num_chains,
            clip=False,  # bounds from clipped codes would be of our own making
            on_block=on_block,
            **settings,
        )
    if drawn.record["status"] != "finished":
        raise KeyboardInterrupt
    codes = np.asarray(drawn.codes).reshape(-1, bundle.code_size)
    return st.from_samples(bundle, codes, label, drawn.record, sigmas)


def _finish(
    result: Statistics, read_from: Path | None, out_file: Path, plot: bool, as_json: bool
) -> None:
    """Write the file and the plot, print the summary."""
    from gradgen import statistics as st

    # A file that is only shown may lie in somebody else's folder: its plot goes here.
    picture = (Path(read_from.name) if read_from else out_file).with_suffix(".png")
    if read_from is None:
        result.save(out_file)
    if plot:
        st.save_figure(st.statistics_figure(result, _title(result.record)), picture)
    if as_json:
        written = {} if read_from else {"file": str(out_file)}
        print(json.dumps({**result.record, **written, **st.summary(result)}, indent=2))
        return
    out.print(_title(result.record), highlight=False, markup=False, soft_wrap=True)
    for key, value in st.summary(result).items():
        out.print(f"  {key.replace('_', ' ')}: {value:.4g}", highlight=False, markup=False)
    if read_from is None:
        out.print(str(out_file), highlight=False, markup=False, soft_wrap=True)
    if plot:
        out.print(str(picture), highlight=False, markup=False, soft_wrap=True)
    if read_from is None:
        err.print(f"use it: gradgen sample --clip --stats {out_file}", highlight=False)


def _title(record: dict[str, Any]) -> str:
    what = record.get("class") or "all classes"
    source = {
        "images": f"{record.get('count')} images",
        "bundle": f"the table of {record.get('bundle')}",
        "samples": f"{record.get('count')} posterior samples",
        "text": f"plain text bounds {record.get('file')}",
        "published": f"the bounds of {record.get('by')}, mean + {record.get('sigmas')} std",
    }[record["source"]]
    if record["source"] in ("text", "published"):
        return source
    if record["source"] == "images" and not record.get("class"):
        return f"code statistics from {source}, mean ± {record['sigmas']:g} std"
    return f"code statistics of {what} from {source}, mean ± {record['sigmas']:g} std"
