"""The chains' way as an animated picture: codes kept while a run goes on, drawn at its end."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
import numpy as np

from gradgen.images import ANIMATION_FILE, to_uint8
from gradgen.weights.store import write_atomically

if TYPE_CHECKING:
    from gradgen.plan import Plan
    from gradgen.samples import Samples
    from gradgen.sampling import SampleProgress

MOST_FRAMES = 60
MOST_TILES = 32  # pictures in a frame, of all classes
FRAME_MS, LAST_FRAME_MS = 120, 2000
QUALITY = 75


@dataclass(eq=False)
class Recorder:
    """Keeps the codes of at most MOST_FRAMES blocks of each group, in a folder of the run."""

    folder: Path

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
            write_atomically(self._path(index, block.step), buffer.getvalue())

    def write(self, samples: Samples, plan: Plan, path: Path) -> int:
        """Draw the frames into an animated WebP; returns their number."""
        frames = self.frames(samples, plan)
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
        write_atomically(path / ANIMATION_FILE, buffer.getvalue())
        return len(frames)

    def frames(self, samples: Samples, plan: Plan) -> list[Any]:
        """Grids of the first chains, from their start to their end; Pillow images."""
        from gradgen.sampling import chain_keys, decoder, starting_codes

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
            codes = np.asarray(starting_codes(keys, plan.bundle.code_size))
            if job.bounds is not None and plan.settings.clip_mode == "project":
                codes = np.clip(codes, *job.bounds)
            starts[index] = codes
        decode, params = decoder(plan.bundle), plan.bundle.generator.params
        drawn = []
        for frame in range(1 + max((len(own) for own in steps.values()), default=0)):
            at = {
                index: starts[index]
                if frame == 0 or not own
                else np.load(self._path(index, own[min(frame, len(own)) - 1]))
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

    def _steps(self, group: int) -> list[int]:
        return sorted(int(p.stem.split("-")[1]) for p in self.folder.glob(f"{group:07d}-*.npy"))

    def _path(self, group: int, step: int) -> Path:
        return self.folder / f"{group:07d}-{step:08d}.npy"


def block_size_for(num_steps: int) -> int:
    """A block so short that the run has MOST_FRAMES of them, or all its steps."""
    return math.ceil(num_steps / MOST_FRAMES)
