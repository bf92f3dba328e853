"""The chains' way as an animated picture: codes kept while a run goes on, drawn at its end."""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from gradgen.errors import GradgenError
from gradgen.files import load_npy, make_durable, write_atomically
from gradgen.images import to_uint8
from gradgen.run_files import ANIMATION_FILE

if TYPE_CHECKING:
    from gradgen.runs.plan import Plan
    from gradgen.runs.results import Samples
    from gradgen.runs.sample import SampleProgress

MOST_FRAMES = 60
MOST_TILES = 32  # pictures in a frame, of all classes
FRAME_MS, LAST_FRAME_MS = 120, 2000
QUALITY = 75
_FRAME = re.compile(r"\d{7}-(?P<step>\d{8}|[1-9]\d{8,9})\.npy")


@dataclass(eq=False)
class Recorder:
    """Keeps the codes of at most MOST_FRAMES blocks of each group, in a folder of the run.

    Attributes:
        folder: that is there.
        waiting: frames that have been written and that the disk may not have yet.
    """

    folder: Path
    waiting: list[Path] = field(default_factory=list)

    def take(self, block: SampleProgress, plan: Plan) -> None:
        """Keep a block's codes, if it is time."""
        every = block.num_steps / MOST_FRAMES
        size = plan.groups[block.groups[0]].size
        for place, index in enumerate(block.groups):
            if plan.groups[index].start >= MOST_TILES:
                continue
            kept = self._steps(index)
            last = kept[-1] if kept else 0
            if block.step - last < every and block.step < block.num_steps:
                continue
            buffer = io.BytesIO()
            codes = np.asarray(block.state.position[place * size : (place + 1) * size])
            np.save(buffer, codes, allow_pickle=False)
            path = self._path(index, block.step)
            write_atomically(path, buffer.getvalue(), parents=False, durable=False)
            self.waiting.append(path)

    def settle(self) -> None:
        """Wait until the disk has all frames; a state is not saved before the frames up to it."""
        make_durable(self.waiting)
        self.waiting.clear()

    def write(self, samples: Samples, plan: Plan, path: Path) -> int:
        """Draw the frames into an animated WebP; returns their number."""
        frames = self.frames(samples, plan)
        write_atomically(path / ANIMATION_FILE, animated(frames), parents=False)
        return len(frames)

    def frames(self, samples: Samples, plan: Plan) -> list[Any]:
        """Grids of the first chains, from their start to their end; Pillow images."""
        from gradgen.runs.sample import chain_keys, decoder, first_codes

        present = len(np.unique(samples.class_position))
        shown = np.flatnonzero(samples.chain < max(1, MOST_TILES // max(1, present)))
        places = [
            self._place_of(plan, int(samples.class_position[i]), int(samples.chain[i]))
            for i in shown
        ]
        steps = {group: self._steps(group) for group, _ in places}
        starts: dict[int, np.ndarray] = {}
        for index in steps:
            group = plan.groups[index]
            job = plan.jobs[group.class_position]
            keys = chain_keys(plan.settings.seed, job.label.index, group.start, group.size)
            codes = np.asarray(first_codes(plan, keys, [group]))
            if job.bounds is not None and plan.settings.clip_mode == "project":
                codes = np.clip(codes, *job.bounds)
            starts[index] = codes
        decode, params = decoder(plan.bundle), plan.bundle.generator.params
        drawn = []
        for frame in range(1 + max((len(own) for own in steps.values()), default=0)):
            at = {
                index: starts[index]
                if frame == 0 or not own
                else self._codes(index, own[min(frame, len(own)) - 1], starts[index].shape)
                for index, own in steps.items()
            }
            codes = np.stack([at[index][row] for index, row in places])
            drawn.append(
                replace(
                    samples,
                    images=to_uint8(decode(params, jnp.asarray(codes))),
                    class_position=samples.class_position[shown],
                ).grid()
            )
        return drawn

    @staticmethod
    def _place_of(plan: Plan, class_position: int, chain: int) -> tuple[int, int]:
        """(index of the group, row in it) of a chain."""
        return next(
            (index, chain - group.start)
            for index, group in enumerate(plan.groups)
            if group.class_position == class_position
            and group.start <= chain < group.start + group.size
        )

    def _codes(self, group: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
        path = self._path(group, step)
        codes = load_npy(path)
        if codes.shape != shape or codes.dtype != np.float32:
            raise GradgenError(f"{path} is not a frame of this run; remove it to go on without it")
        return codes

    def _steps(self, group: int) -> list[int]:
        found = map(_FRAME.fullmatch, (path.name for path in self.folder.glob(f"{group:07d}-*")))
        return sorted(int(frame["step"]) for frame in found if frame is not None)

    def _path(self, group: int, step: int) -> Path:
        return self.folder / f"{group:07d}-{step:08d}.npy"


def animated(frames: list[Any]) -> bytes:
    """Pillow images one after another as a WebP file, which rests at the last one."""
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        save_all=True,
        append_images=frames[1:],
        duration=[FRAME_MS] * (len(frames) - 1) + [LAST_FRAME_MS],
        loop=0,
        quality=QUALITY,
    )
    return buffer.getvalue()


def block_size_for(num_steps: int) -> int:
    """A block so short that the run has MOST_FRAMES of them, or all its steps."""
    return math.ceil(num_steps / MOST_FRAMES)
