"""Weights on disk: safetensors in half precision, a JSON card beside them.

A network is stored as one ``<name>.safetensors`` whose tensors carry the dotted path of the
parameter inside the Flax module (``fc6.kernel``, ``blocks.0.conv1.bias``).
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError

if TYPE_CHECKING:
    from flax import nnx


def weights_dir() -> Path:
    """The folder of the embedded weights: inside an installed package, or of the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_weights"
    return packaged if packaged.is_dir() else package.parent / "weights"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_arrays(path: Path, arrays: dict[str, np.ndarray], half: bool = True) -> None:
    """Write arrays as safetensors, atomically; floating-point ones in float16 if ``half``."""
    from safetensors.numpy import save_file

    stored = {
        name: np.ascontiguousarray(
            array.astype(np.float16) if half and array.dtype.kind == "f" else array
        )
        for name, array in arrays.items()
    }
    with replacing(path) as temporary:
        save_file(stored, temporary)
        temporary.chmod(0o644)  # it comes out readable by its owner alone


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a safetensors file; half-precision tensors come back as float32.

    Raises:
        GradgenError: the file is missing or not a safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise GradgenError(f"{path} is missing; reinstall gradgen or restore the file") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise GradgenError(f"{path} is not a readable safetensors file ({error})") from error
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
    }


def module_arrays(module: nnx.Module) -> dict[str, np.ndarray]:
    """All parameters of a module as a flat dictionary under their dotted paths."""
    from flax import nnx

    return {
        ".".join(str(part) for part in path): np.asarray(variable[...])
        for path, variable in nnx.to_flat_state(nnx.state(module, nnx.Param))
    }


def save_module(path: Path, module: nnx.Module, half: bool = True) -> None:
    """Write the parameters of a Flax module (see :func:`save_arrays`)."""
    save_arrays(path, module_arrays(module), half)


def load_module(path: Path, module: nnx.Module) -> nnx.Module:
    """Fill a module (abstract, from ``nnx.eval_shape``, or real) with a file's parameters.

    Raises:
        GradgenError: a parameter is missing, superfluous or of another shape; each is named.
    """
    return fill_module(module, load_arrays(path), str(path))


def fill_module(module: nnx.Module, arrays: dict[str, np.ndarray], source: str) -> nnx.Module:
    """Fill a module with arrays under their dotted paths; ``source`` is what messages call them.

    Raises:
        GradgenError: as for :func:`load_module`.
    """
    import jax.numpy as jnp
    from flax import nnx

    flat = list(nnx.to_flat_state(nnx.state(module, nnx.Param)))
    wanted = {".".join(str(part) for part in key): variable for key, variable in flat}
    faults = [f"missing {name}" for name in sorted(wanted.keys() - arrays.keys())]
    faults += [f"unexpected {name}" for name in sorted(arrays.keys() - wanted.keys())]
    faults += [
        f"{name} has shape {arrays[name].shape}, expected {tuple(wanted[name].shape)}"
        for name in sorted(wanted.keys() & arrays.keys())
        if arrays[name].shape != tuple(wanted[name].shape)
    ]
    if faults:
        raise misfit(source, faults)
    state = nnx.from_flat_state(
        [
            (key, variable.replace(jnp.asarray(arrays[".".join(map(str, key))])))
            for key, variable in flat
        ]
    )
    nnx.update(module, state)
    return module


def misfit(source: str, faults: list[str]) -> GradgenError:
    """The error of weights that do not fit their network; the first eight faults are named."""
    more = f"; and {len(faults) - 8} more" if len(faults) > 8 else ""
    return GradgenError(f"{source} does not fit its network: {'; '.join(faults[:8])}{more}")


def read_card(folder: Path) -> dict[str, Any]:
    """The ``card.json`` of a folder of weights.

    Raises:
        GradgenError: the card is missing or not JSON.
    """
    path = folder / "card.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise GradgenError(
            f"{folder} holds no card.json, so it is not a folder of weights; "
            f"embedded ones are in {weights_dir()}"
        ) from None
    except json.JSONDecodeError as error:
        raise GradgenError(f"{path} is not JSON ({error})") from error


def write_card(folder: Path, card: dict[str, Any]) -> None:
    """Write the ``card.json`` of a folder of weights, atomically."""
    text = json.dumps(card, indent=1, ensure_ascii=False)
    write_atomically(folder / "card.json", f"{text}\n".encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``, which takes its place when the block ends well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
