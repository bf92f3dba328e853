"""Measures what a user waits for: the help, a first picture, the scores of many pictures."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gradgen.benchmark.timing import seconds
from gradgen.errors import GradgenError

# The JPEGs to score take about as long to decode as photographs of that size.
PICTURES, SIDE = 256, 256


def measure(
    bundle: str, on_figure: Callable[[str], None] = lambda name: None, pictures: int = PICTURES
) -> dict[str, float]:
    """Measure all figures.

    Args:
        bundle: name or folder.
        on_figure: called with a figure's name after it has been measured.
        pictures: how many pictures are scored.

    Returns:
        {name of the figure: its value}, in seconds, and for scoring in pictures per second.

    Raises:
        GradgenError: a command failed.
    """
    found: dict[str, float] = {}

    def note(name: str, value: float) -> None:
        found[name] = value
        on_figure(name)

    with tempfile.TemporaryDirectory(prefix="gradgen-bench-") as folder:
        root = Path(folder)
        note("help_seconds", statistics.median(_command(["--help"]) for _ in range(3)))
        for cache in ("cold", "warm"):
            arguments = ["sample", "--bundle", bundle, "--class", "0", "--method", "mala"]
            arguments += ["--budget", "1", "--num-chains", "1", "--step-size", "0.02"]
            out = str(root / cache)
            taken = _command(
                [*arguments, "--out", out], JAX_COMPILATION_CACHE_DIR=str(root / "xla")
            )
            note(f"first_picture_{cache}_cache_seconds", taken)
        _write_pictures(root / "pictures", pictures)
        note("scored_pictures_per_second", _scoring_rate(bundle, root / "pictures", pictures))
    return found


def _command(arguments: list[str], **environment: str) -> float:
    def run() -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "gradgen", *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
        )
        if ended.returncode:
            last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
            raise GradgenError(f"gradgen {arguments[0]} failed in the benchmark: {last}")

    return seconds(run)


def _write_pictures(folder: Path, count: int) -> None:
    """Write smooth noise, because JPEG's speed depends on smoothness, as photographs have it."""
    from PIL import Image

    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(folder / f"{number:04d}.jpg")


def _scoring_rate(bundle: str, folder: Path, count: int) -> float:
    from gradgen.scoring import score

    score([folder], bundle)  # this compiles and brings the files into the system's cache
    return count / seconds(lambda: score([folder], bundle))
