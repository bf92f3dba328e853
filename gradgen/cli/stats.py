"""`gradgen stats`: the clipping statistics of a class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gradgen.cli.common import (
    counted,
    find_pictures,
    note,
    out,
    print_json,
    print_table,
    progress,
    quiet_pillow,
    say,
    warn,
)
from gradgen.cli.complete import complete_bundles
from gradgen.cli.hosts import Coordinator, Distributed, NumProcesses, ProcessId, join_hosts
from gradgen.cli.options import AsJson, Threads, option
from gradgen.errors import UsageError

if TYPE_CHECKING:
    from gradgen.code_bounds import Statistics
    from gradgen.hosts import Hosts
    from gradgen.labels import Label
    from gradgen.networks.interfaces import Bundle
    from gradgen.runs.results import Samples
    from gradgen.runs.sample import SampleProgress

# One code a chain: n independent ones give a standard deviation to about 1/sqrt(2n), here 13 %.
DEFAULT_CHAINS = 32
# Chains have to agree before their ends say anything of the posterior. With tiny64's own classifier
# it takes some minutes on two cores, with lite0 ten times as long.
DEFAULT_BUDGET = 2000


def stats(
    class_name: Annotated[
        str | None,
        option(
            "--class",
            "-c",
            help="Name, synset id or index.",
            default="all classes together",
        ),
    ] = None,
    images: Annotated[
        list[str] | None,
        option(
            metavar="PATH...", help="Pictures to encode: files, folders, globs.", default="none"
        ),
    ] = None,
    file: Annotated[
        Path | None,
        option(help="Show a statistics file, or DGN-AM's plain text bounds.", default="none"),
    ] = None,
    sigmas: Annotated[float, option(help="Bounds are mean ± this · std.")] = 3.0,
    out_file: Annotated[
        Path | None, option("--out", help="Statistics file.", default="stats-<class>.npz")
    ] = None,
    plot: Annotated[bool, option(help="Draw a plot beside the file.")] = True,
    units: Annotated[
        str | None,
        option(
            help="With --images: how high they drive the hidden units of a layer, conv4, or one "
            "of them, conv4:17. Printed, for 'gradgen sample --unit'.",
            default="none",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        option(
            help="The bundle: a name or a folder.",
            default="ten64 for its ten classes, else tiny64",
            autocompletion=complete_bundles,
        ),
    ] = None,
    generator: Annotated[
        str | None,
        option(
            help="Another generator's codes: deepsim-fc7, deepsim-pool5, a bundle.",
            default="the bundle's own",
        ),
    ] = None,
    samples: Annotated[
        bool,
        option(
            "--from-samples",
            "--samples",
            help="From posterior samples of the class, if their chains agree.",
        ),
    ] = False,
    method: Annotated[str, option(help="Of the posterior samples: mala, hmc.")] = "mala",
    num_chains: Annotated[
        int, option(least=2, help="Posterior samples, one a chain.")
    ] = DEFAULT_CHAINS,
    budget: Annotated[int, option(least=1, help="Gradient evaluations a chain.")] = DEFAULT_BUDGET,
    seed: Annotated[int, option(help="Of the posterior samples.")] = 0,
    batch_size: Annotated[int, option(least=1, help="Pictures encoded at a time.")] = 32,
    threads: Threads = None,
    distributed: Distributed = False,
    coordinator: Coordinator = None,
    num_processes: NumProcesses = None,
    process_id: ProcessId = None,
    as_json: AsJson = False,
) -> None:
    """Mean, standard deviation and clipping bounds of every code unit of a class.

    From pictures (--images) through the bundle's encoder; else from the tables that come with the
    bundle: of the classes that it was trained on, and of all of ImageNet's, for which every
    training photograph counts by how likely it is of the class. The file it writes is what
    'gradgen sample --clip --stats FILE' takes.
    """
    if units is not None:
        if not images or class_name or samples or file or generator or distributed:
            raise UsageError("--units goes with --images, --bundle, --batch-size and --threads")
        _units(units, images, bundle, batch_size, threads, as_json)
        return
    if images and (samples or file):
        raise UsageError("--images, --from-samples and --file exclude one another")
    if file and (samples or class_name):
        raise UsageError("--file says by itself what it is of: leave out --class, --from-samples")
    if samples and not class_name:
        raise UsageError("--from-samples needs --class")
    if samples and method == "map":
        raise UsageError("--method map draws no samples of the posterior; take mala or hmc")
    if distributed and not images:
        raise UsageError("--distributed shares pictures among hosts: give them by --images")
    from gradgen import code_bounds as st
    from gradgen import runtime
    from gradgen.hosts import ALONE
    from gradgen.networks.bounds import check_sigmas

    check_sigmas(sigmas)
    hosts = ALONE
    if file is not None:
        result, name = st.load_statistics(file), file.stem
    else:
        runtime.configure()
        quiet_pillow()
        files = _find(images)
        hosts = join_hosts(distributed, coordinator, num_processes, process_id, stay=True)
        from gradgen.networks.catalog import choose_bundle
        from gradgen.networks.load import load_bundle

        choice = None
        if bundle is None:
            choice = choose_bundle([class_name] if class_name else [], generator)
            bundle = choice.name
        loaded = load_bundle(bundle, generator=generator)
        label = st.find_label(loaded, class_name) if class_name else None
        if choice is not None:
            note(f"bundle {choice.name}: {choice.reason}")
        name = label.slug if label else "images" if files else "all"
        if files:
            result = _from_images(loaded, files, sigmas, class_name, batch_size, threads, hosts)
        elif label is not None and samples:
            settings = {"method": method, "budget": budget, "seed": seed}
            drawn = _draw(loaded, label, num_chains, settings)
            result = st.stats(loaded, class_name, samples=drawn, sigmas=sigmas)
        else:
            result = st.stats(loaded, class_name, sigmas=sigmas)
    if not hosts.is_first:
        return
    _finish(result, file, out_file or Path(f"stats-{name}.npz"), plot, as_json)


def _find(images: list[str] | None) -> list[Path]:
    return find_pictures(images) if images else []


def _units(
    units: str,
    images: list[str],
    bundle: str | None,
    batch_size: int,
    threads: int | None,
    as_json: bool,
) -> None:
    """What pictures do to hidden units: a table, or the one unit's numbers and their use."""
    from gradgen.runtime import configure

    configure()
    quiet_pillow()
    from rich.table import Table

    from gradgen.evidence.unit import activations, find_unit
    from gradgen.networks.catalog import DEFAULT_BUNDLE
    from gradgen.networks.load import load_bundle

    loaded = load_bundle(bundle or DEFAULT_BUNDLE)
    one = find_unit(units, loaded.classifier) if ":" in units else None
    files = _find(images)
    with progress("looking", total=len(files), unit="images") as shown:
        layer = units if one is None else one.layer
        found = activations(loaded, layer, files, batch_size, threads, shown.update)
    for message in found.unreadable:
        warn(f"skipped: {message}")
    numbers = range(found.values.shape[1]) if one is None else [one.number]
    rows = []
    for number in numbers:
        seen = found.values[:, number]
        high = found.wanted(number) if seen.std() > 0 or one is not None else None
        rows.append(
            {
                "unit": f"{layer}:{number}",
                "mean": float(seen.mean()),
                "std": float(seen.std()),
                "value": None if high is None else high.value,
                "noise": None if high is None else high.noise,
            }
        )
    if as_json:
        print_json({"pictures": len(found.values), "units": rows})
        return
    table = Table(
        caption=f"{counted(len(found.values), 'picture')}; value: what 1 % of them exceed; noise: "
        "a quarter of std",
    )
    for heading in ("unit", "mean", "std", "value", "noise"):
        table.add_column(heading, justify="left" if heading == "unit" else "right")
    for row in rows:
        figures = (row[name] for name in ("mean", "std", "value", "noise"))
        table.add_row(
            str(row["unit"]), *("–" if figure is None else f"{figure:.4g}" for figure in figures)
        )
    print_table(table)
    if one is not None:
        value, noise = rows[0]["value"], rows[0]["noise"]
        note(
            f"use it: gradgen sample --bundle {loaded.name} --unit {one} --unit-value {value:.6g} "
            f"--unit-noise {noise:.6g}"
        )


def _from_images(
    bundle: Bundle,
    files: list[Path],
    sigmas: float,
    class_name: str | None,
    batch_size: int,
    threads: int | None,
    hosts: Hosts,
) -> Statistics:
    from gradgen.code_bounds import stats as measure

    with progress("encoding", total=len(hosts.share(len(files))), unit="images") as shown:

        def on_progress(done: int, failed: int) -> None:
            shown.update(done, f"{failed} unreadable" if failed else None)

        result = measure(
            bundle,
            class_name,
            images=files,
            sigmas=sigmas,
            batch_size=batch_size,
            threads=threads,
            on_progress=on_progress,
            hosts=hosts,
        )
    if not hosts.is_first:
        return result
    for message in result.record["unreadable_files"]:
        warn(f"skipped: {message}")
    if result.record["unreadable"]:
        warn(f"skipped {result.record['unreadable']} of {counted(len(files), 'image')}")
    return result


def _draw(bundle: Bundle, label: Label, num_chains: int, settings: dict[str, Any]) -> Samples:
    """Posterior samples of a class, with a bar."""
    from gradgen.runs.sample import sample

    note(
        f"drawing {counted(num_chains, 'posterior sample')} of {label} "
        f"({settings['method']}, {counted(settings['budget'], 'gradient')} each)"
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
    if not drawn.record.finished:
        raise KeyboardInterrupt
    return drawn


def _finish(
    result: Statistics, read_from: Path | None, out_file: Path, plot: bool, as_json: bool
) -> None:
    """Write the file and the plot, print the summary."""
    from gradgen import code_bounds as st

    # A file that is only shown may lie in somebody else's folder: its plot goes here.
    picture = (Path(read_from.name) if read_from else out_file).with_suffix(".png")
    if read_from is None:
        result.save(out_file)
    if plot:
        from gradgen.plots import save_figure, statistics_figure

        save_figure(statistics_figure(result, _title(result.record)), picture)
    _warn_of_few(result.record)
    if as_json:
        written = {} if read_from else {"file": str(out_file)}
        print_json({**result.record, **written, **st.summary(result)})
        return
    out.print(_title(result.record), highlight=False, markup=False, soft_wrap=True)
    counts = ("effective_photographs", "expected_photographs")
    numbers = {name: result.record[name] for name in counts if name in result.record}
    for key, value in {**numbers, **st.summary(result)}.items():
        out.print(f"  {key.replace('_', ' ')}: {value:.4g}", highlight=False, markup=False)
    if read_from is None:
        say(out_file)
    if plot:
        say(picture)
    if read_from is None:
        note(f"use it: gradgen sample --clip --stats {out_file}")


def _warn_of_few(record: dict[str, Any]) -> None:
    """Say where a class's photographs are too few to tell it by themselves."""
    share = record.get("own_share", 1.0)
    if share < 1:
        warn(
            f"the photographs are worth only {record['effective_photographs']:.1f} of this class: "
            f"its own numbers count by {share:.0%}, those of all classes by the rest; better: "
            "pictures of it, --images DIR"
        )


def _title(record: dict[str, Any]) -> str:
    what = record.get("class") or "all classes"
    source = {
        "images": counted(record.get("count", 0), "image"),
        "bundle": f"the table of {record.get('bundle')}",
        "photographs": "weighted photographs",
        "samples": counted(record.get("count", 0), "posterior sample"),
        "text": f"plain text bounds {record.get('file')}",
        "published": f"the bounds of {record.get('by')}, mean + {record.get('sigmas')} std",
    }[record["source"]]
    if record["source"] in ("text", "published"):
        return source
    if record["source"] == "images" and not record.get("class"):
        return f"code statistics from {source}, mean ± {record['sigmas']:g} std"
    return f"code statistics of {what} from {source}, mean ± {record['sigmas']:g} std"
