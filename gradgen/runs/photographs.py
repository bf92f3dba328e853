"""The photographs of a run: from the files that its settings name, or from its record."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from gradgen.errors import UsageError
from gradgen.evidence.photograph import Photograph, from_png, load_photograph, to_png
from gradgen.images import load_image
from gradgen.networks.interfaces import Bundle
from gradgen.runs.record import EvidenceRecord
from gradgen.runs.settings import SampleSettings

RECORD = "the record"  # what messages call a photograph's source


def seen_photograph(
    settings: SampleSettings, bundle: Bundle, recorded: EvidenceRecord | None
) -> Photograph | None:
    """The photograph that is to be matched, if any is.

    Args:
        recorded: what the run's record or the recipe holds; the files are not looked at then.

    Raises:
        UsageError: it does not fit the bundle's pictures.
        GradgenError: a file cannot be read.
    """
    if settings.match is None or settings.noise is None:
        return None
    reduction = settings.downscaled or 1
    if recorded is not None and recorded.photograph is not None:
        content = _decoded(recorded.photograph)
        return from_png(content, settings.noise, reduction, bundle.image_size, RECORD)
    return load_photograph(
        settings.match, settings.mask, settings.noise, reduction, bundle.image_size
    )


def starting_point(
    settings: SampleSettings, bundle: Bundle, recorded: EvidenceRecord | None
) -> np.ndarray | None:
    """The code (code,) of the photograph at which chains start, if there is one.

    Raises:
        UsageError: the bundle has no encoder, or the record is broken.
        GradgenError: the file cannot be read.
    """
    if settings.start is None:
        return None
    if recorded is not None and recorded.start is not None:
        content = _decoded(recorded.start)
        if len(content) != 4 * bundle.code_size:
            raise UsageError(f"{RECORD} holds a start of another size than the bundle's code")
        code = np.frombuffer(content, "<f4").astype(np.float32)
    else:
        encoder = bundle.encoder
        picture = load_image(Path(settings.start), encoder.input_size)
        code = np.asarray(encoder.apply(encoder.params, jnp.asarray(picture)[None]))[0]
    if not np.isfinite(code).all():
        raise UsageError(f"{settings.start}: its code is not finite")
    return code


def evidence_record(photograph: Photograph | None, start: np.ndarray | None) -> EvidenceRecord:
    """Both as a record holds them."""
    return EvidenceRecord(
        photograph=None if photograph is None else _encoded(to_png(photograph)),
        start=None if start is None else _encoded(np.ascontiguousarray(start, "<f4").tobytes()),
    )


def _encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"{RECORD} holds what is no base64 ({error})") from None
