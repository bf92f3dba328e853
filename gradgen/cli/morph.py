"""`gradgen morph`: from one class or photograph to another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from gradgen.cli import common
from gradgen.cli.complete import complete_bundles, complete_classes, complete_classifiers
from gradgen.cli.options import AsJson, option
from gradgen.cli.preview import can_show, preview_option, show_file
from gradgen.errors import UsageError

if TYPE_CHECKING:
    from gradgen.runs.morph import Morph, MorphProgress, OnFrame


def morph(
    first: Annotated[
        str | None,
        option(
            "--from",
            help="Where the way begins: a class, plain or composed, or a photograph's file.",
            default="none; a new morph needs one",
            autocompletion=complete_classes,
        ),
    ] = None,
    second: Annotated[
        str | None,
        option(
            "--to",
            help="Where it ends, likewise.",
            default="none; a new morph needs one",
            autocompletion=complete_classes,
        ),
    ] = None,
    noise: Annotated[
        float | None,
        option(
            help="Standard deviation of a photograph's pixels; 1 is from black to white.",
            default="none; a photograph needs it",
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        option(
            help="Networks: a name, a folder, or FILE.py[:FUNCTION], which is run.",
            default="ten64 for its ten classes, else tiny64",
            autocompletion=complete_bundles,
        ),
    ] = None,
    classifier: Annotated[
        str | None,
        option(
            help="Another classifier.",
            default="the bundle's own; lite0 where that does not know both classes",
            autocompletion=complete_classifiers,
        ),
    ] = None,
    likelihood_weight: Annotated[
        float | None, option(help="β of the classes.", default="the bundle's recommendation")
    ] = None,
    method: Annotated[str, option("--method", "-m", help="mala or hmc.")] = "mala",
    num_chains: Annotated[
        int, option("--num-chains", "-n", least=1, help="Chains that walk side by side.")
    ] = 4,
    num_frames: Annotated[
        int, option("--frames", least=2, help="Pictures of each chain, from end to end.")
    ] = 24,
    budget: Annotated[
        int,
        option(
            "--budget",
            "-b",
            least=1,
            help="Gradient evaluations of a chain for the whole way, a quarter at either end.",
        ),
    ] = 2400,
    step_size: Annotated[
        float | None, option(help="Of the chains.", default="found by dual averaging on the way")
    ] = None,
    seed: Annotated[int, option("--seed", "-s", least=0, help="Of all randomness.")] = 0,
    again: Annotated[
        Path | None,
        option(help="Make the morph in this folder again, and compare.", default="a new morph"),
    ] = None,
    out: Annotated[
        Path | None,
        option("--out", "-o", help="Folder.", default="runs/<time>-<from>-to-<to>-<method>-<seed>"),
    ] = None,
    preview: Annotated[bool, preview_option()] = True,
    as_json: AsJson = False,
    force: Annotated[
        bool,
        option("--force", help="Replace a morph in --out; go on although weights differ."),
    ] = False,
) -> int | None:
    """Walk from one posterior to another, and draw the chains on the way.

    At t the chains sample p(A|image)^(β(1-t)) p(B|image)^(βt) p(z), from t = 0 to t = 1. Writes a
    folder: strip.png, a row for each chain; animation.webp; frames.npz, the codes; morph.json, by
    which --again makes the same pictures again.
    """
    from gradgen.runtime import configure

    configure()
    from gradgen.runs import morph as walking

    if again is None and (first is None or second is None):
        raise UsageError("a morph needs both ends: --from and --to")
    if again is not None and (first is not None or second is not None):
        raise UsageError("--again makes a morph as it was: drop --from and --to")
    if out is not None and not force:
        walking.refuse_full(out)
    with common.progress("walking", unit="stops") as bar:

        def on_frame(stop: MorphProgress) -> None:
            bar.total = stop.total
            a, b = stop.log_likelihoods
            bar.update(
                stop.done,
                f"t {stop.share:.2f}, log p {a:.1f} and {b:.1f}, acceptance {stop.acceptance:.2f}",
            )

        made = _made(
            again,
            {
                "first": first,
                "second": second,
                "noise": noise,
                "classifier": classifier,
                "likelihood_weight": likelihood_weight,
                "method": method,
                "num_chains": num_chains,
                "num_frames": num_frames,
                "budget": budget,
                "step_size": step_size,
                "seed": seed,
            },
            bundle,
            force,
            on_frame,
        )
    for line in made.notes:
        common.note(line)
    same = None if again is None else walking.same_frames(made, again)
    folder = made.save(walking.make_folder(out, made.record, force))
    return _report(made, folder, same, preview, as_json)


def _made(
    again: Path | None,
    given: dict[str, Any],
    bundle: str | None,
    force: bool,
    on_frame: OnFrame,
) -> Morph:
    from gradgen.runs import morph as walking

    if again is not None:
        return walking.replay(again, bundle, force, on_frame)
    return walking.morph(bundle=bundle, on_frame=on_frame, **given)


def _report(
    made: Morph, folder: Path, same: bool | None, preview: bool, as_json: bool
) -> int | None:
    """The result on standard output; the exit code."""
    from gradgen.run_files import ANIMATION_FILE, STRIP_FILE

    if as_json:
        more = {} if same is None else {"same_bits": same}
        common.print_json({"folder": str(folder), **more, **made.record.to_json()})
    else:
        if preview and can_show():
            show_file(folder / STRIP_FILE)
        common.print_table(_table(made))
        common.say(f"folder     {folder}")
        common.say(f"strip      {folder / STRIP_FILE}")
        common.say(f"animation  {folder / ANIMATION_FILE}")
    if same is not None:
        common.note("the codes are the same, bit by bit" if same else "the codes differ")
    return None if same is not False else 1


def _table(made: Morph) -> Any:
    """A row for each picture of the strip."""
    from rich.table import Table

    from gradgen.runs.morph import spread_over

    record = made.record
    table = Table(
        caption=f"{record.gradient_evaluations} gradient evaluations a chain in "
        f"{common.format_duration(record.wall_time_s)}; means over "
        f"{common.counted(made.images.shape[1], 'chain')}"
    )
    ends = [end.classes[0].name for end in (record.first, record.second)]
    for heading in ("t", *(f"log p({common.printable(name)})" for name in ends), "acceptance"):
        table.add_column(heading, justify="right")
    for frame in spread_over(len(record.shares)):
        a, b = record.log_likelihoods[frame]
        table.add_row(
            f"{record.shares[frame]:.2f}", f"{a:.2f}", f"{b:.2f}", f"{record.acceptance[frame]:.2f}"
        )
    return table
