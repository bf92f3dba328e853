"""Cards: what the ``card.json`` beside weights says of them; read, checked and written here.

A card is a JSON object with these fields; whatever else it holds (``training``, ``metrics``,
``source``, …) is for people, and is kept.

    name           of the bundle or the network
    kind           "bundle" (encoder and classifier, generator, discriminator), "classifier" or
                   "network" (of the paper's, converted)
    architecture   {"name": …, "sizes": {…}}; sizes, such as the units of a layer, only where the
                   architecture has some that can be chosen
    labels         the classes, a line each: "n02814860 beacon, lighthouse" or "my class"
    preprocessing  what happens to a picture first, in words
    licence        SPDX identifier, or in words
    files          {file: its SHA-256}
    temperature    by which logits are divided, so that probabilities are calibrated
    code_size      units of z, of a bundle
    code_variance_kept   share of the encoder's variance that z holds, of a bundle
    recommended    settings for pictures, of a bundle: {"likelihood_weight": …}

The cards of bundles that were trained before had other forms; :func:`parse_card` takes them too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gradgen.errors import GradgenError
from gradgen.files import json_text, read_json, write_atomically

CARD_FILE = "card.json"
MAX_CARD_BYTES = 4 * 2**20  # of a bundle of 1000 classes it takes 60 kB
KINDS = ("bundle", "classifier", "network")


@dataclass(frozen=True)
class Card:
    """What a card says, checked; the module's head explains the fields.

    Attributes:
        architecture: its name alone; ``sizes`` is beside it.
        content: the whole card as JSON has it, in today's form, for whoever writes it again.
    """

    name: str
    kind: str
    architecture: str = ""
    sizes: Mapping[str, Any] = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    preprocessing: str = ""
    licence: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    temperature: float = 1.0
    code_size: int = 0
    code_variance_kept: float = 1.0
    likelihood_weight: float | None = None
    content: Mapping[str, Any] = field(default_factory=dict)


def read_card(folder: Path) -> Card:
    """The card of a folder of weights.

    Raises:
        GradgenError: the card is missing or not JSON, or a field is missing or makes no sense; the
            message names file and field.
    """
    path = folder / CARD_FILE
    try:
        content = read_json(path, limit=MAX_CARD_BYTES)
    except FileNotFoundError:
        raise GradgenError(
            f"{folder} holds no {CARD_FILE}, so it is not a folder of weights"
        ) from None
    return parse_card(content, str(path))


def write_card(folder: Path, content: Mapping[str, Any]) -> None:
    """Write the card of a folder of weights, atomically.

    Raises:
        GradgenError: it would not be readable; nothing is written then.
    """
    path = folder / CARD_FILE
    text = json_text(parse_card(content, str(path)).content, indent=1)
    write_atomically(path, f"{text}\n".encode())


def parse_card(content: Any, source: str) -> Card:
    """A card from JSON's objects, in today's or an earlier form.

    Args:
        source: what messages call the card, its path.

    Raises:
        GradgenError: a field is missing or makes no sense.
    """
    if not isinstance(content, Mapping):
        raise GradgenError(f"{source} is no card: it holds no JSON object")
    content = _in_todays_form(content)
    fields = _Fields(content, source)
    kind = fields.text("kind")
    if kind not in KINDS:
        raise fields.wrong("kind", f"one of {', '.join(KINDS)}")
    is_bundle, has_classes = kind == "bundle", kind != "network"
    architecture = _Fields(fields.object("architecture"), f"{source}: architecture")
    recommended = _Fields(fields.object("recommended", {}), f"{source}: recommended")
    return Card(
        name=fields.text("name"),
        kind=kind,
        architecture=architecture.text("name"),
        sizes=architecture.object("sizes", {}),
        labels=fields.lines("labels", None if has_classes else ()),
        preprocessing=fields.text("preprocessing", ""),
        licence=fields.text("licence"),
        files=fields.hashes("files"),
        temperature=fields.positive("temperature", None if has_classes else 1.0),
        code_size=round(fields.positive("code_size", None if is_bundle else 0.0)),
        code_variance_kept=fields.positive("code_variance_kept", None if is_bundle else 1.0),
        likelihood_weight=recommended.positive("likelihood_weight")
        if recommended.content
        else None,
        content=content,
    )


def _in_todays_form(content: Mapping[str, Any]) -> dict[str, Any]:
    """A card with the forms that fields had in earlier cards replaced."""
    new = dict(content)
    architecture = new.get("architecture")
    if isinstance(architecture, str):
        sizes = new.pop("sizes", None)
        new["architecture"] = {"name": architecture} | ({"sizes": sizes} if sizes else {})
    elif isinstance(architecture, Mapping) and "variant" in architecture:
        kept = {key: architecture[key] for key in architecture if key not in ("class", "variant")}
        new["architecture"] = {"name": architecture["variant"], **kept}
    if new.get("labels") == "imagenet-1k":
        from gradgen.labels import imagenet_labels

        new["labels"] = [str(label) for label in imagenet_labels()]
    if isinstance(licence := new.get("licence"), Mapping):
        new["licence"] = licence.get("spdx")
    if isinstance(steps := new.get("preprocessing"), Mapping):
        new["preprocessing"] = "; ".join(str(step) for step in steps.values())
    if isinstance(files := new.get("files"), Mapping):
        new["files"] = {
            name: entry.get("sha256") if isinstance(entry, Mapping) else entry
            for name, entry in files.items()
        }
    return new


class _Fields:
    """Checked reading of an object's fields; a field without a default has to be there."""

    def __init__(self, content: Mapping[str, Any], source: str) -> None:
        self.content = content
        self.source = source

    def wrong(self, name: str, expected: str) -> GradgenError:
        if name not in self.content:
            return GradgenError(f"{self.source} lacks the field {name} ({expected})")
        found = json.dumps(self.content[name], ensure_ascii=False, default=str)
        shown = found if len(found) <= 60 else f"{found[:59]}…"
        return GradgenError(f"{self.source}: the field {name} must be {expected}, not {shown}")

    def text(self, name: str, default: str | None = None) -> str:
        value = self.content.get(name, default)
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def positive(self, name: str, default: float | None = None) -> float:
        value = self.content.get(name)
        if value is None and default is not None and name not in self.content:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise self.wrong(name, "a positive number")
        return float(value)

    def lines(self, name: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        value = self.content.get(name, default)
        if not isinstance(value, list | tuple) or not all(isinstance(line, str) for line in value):
            raise self.wrong(name, "a list of texts")
        return tuple(value)

    def object(self, name: str, default: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        value = self.content.get(name, default)
        if not isinstance(value, Mapping):
            raise self.wrong(name, "an object")
        return value

    def hashes(self, name: str) -> Mapping[str, str]:
        value = self.object(name)
        if not all(isinstance(sha256, str) for sha256 in value.values()):
            raise self.wrong(name, "an object of texts")
        for file in value:
            if Path(file).name != file:  # it would reach outside the folder
                raise GradgenError(f"{self.source}: {name} names {file!r}, which is no file name")
        return value
