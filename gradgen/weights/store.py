"""Weights on disk: safetensors, embedded ones in half precision.

A network is stored as one ``<name>.safetensors`` whose tensors carry the dotted path of the
parameter inside the Flax module (``fc6.kernel``, ``blocks.0.conv1.bias``).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from gradgen.errors import GradgenError, UsageError
from gradgen.files import replacing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flax import nnx

Module = TypeVar("Module", bound="nnx.Module")
PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".tar", ".joblib")


def weights_dir() -> Path:
    """The folder of the embedded weights: inside an installed package, or of the checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_weights"
    return packaged if packaged.is_dir() else package.parent / "weights"


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
        GradgenError: the file is missing or not a safetensors file, or a number in it is not
            finite: a single one would make every result NaN, without a word.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        arrays = load_file(path)
    except FileNotFoundError:
        raise GradgenError(f"{path} is missing; reinstall gradgen or restore the file") from None
    except (
        SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError,
        MemoryError,
    ) as error:  # fmt: skip  # the last five: types that NumPy lacks, impossible sizes
        raise GradgenError(f"{path} is not a readable safetensors file ({error})") from error
    found = {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in arrays.items()
    }
    check_finite(found, str(path))
    return found


def check_finite(arrays: Mapping[str, np.ndarray], source: str) -> None:
    """Refuse weights with a number that is not finite.

    Raises:
        GradgenError: there is one; the message names the file and the parameter.
    """
    for name, array in arrays.items():
        if array.dtype.kind != "f" or array.size == 0:
            continue
        # NaN and infinities all show in the extremes, which cost no memory
        if not (np.isfinite(array.min()) and np.isfinite(array.max())):
            count = int(array.size - np.isfinite(array).sum())
            raise GradgenError(
                f"{source}: {count} of the {array.size} numbers of {name} are not finite; the file "
                "is broken, restore it or fetch it again"
            )


def load_weights(path: str | Path) -> dict[str, np.ndarray]:
    """Read weights of one's own: a safetensors file, {name: array}.

    Raises:
        UsageError: the file is a pickle by its name, whose reading would run code, or not there.
        GradgenError: it is not a safetensors file.
    """
    path = Path(path)
    if path.suffix.lower() in PICKLES:
        raise UsageError(
            f"{path} is a pickle, whose reading runs whatever code is in it; convert it where you "
            "trust it: safetensors.torch.save_file(module.state_dict(), 'weights.safetensors')"
        )
    if not path.is_file():
        raise UsageError(f"{path}: no such file")
    return load_arrays(path)


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


def load_module(path: Path, module: Module) -> Module:
    """Fill a module (abstract, from ``nnx.eval_shape``, or real) with a file's parameters.

    Raises:
        GradgenError: a parameter is missing, superfluous or of another shape; each is named.
    """
    return fill_module(module, load_arrays(path), str(path))


def fill_module(module: Module, arrays: dict[str, np.ndarray], source: str) -> Module:
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
