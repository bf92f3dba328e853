"""Settings of JAX that must be in place before it is imported.

A command calls :func:`configure` first, before ``import jax``.
"""

from __future__ import annotations

import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# jaxlib 0.10 hands convolutions on the CPU to YNNPACK, which runs those of the backward pass on a
# single core. Without YNNPACK a gradient of tiny64 takes less than half the time. XLA aborts on
# flags that it does not know, so the version is checked first.
CPU_FLAGS = {"0.10": "--xla_cpu_experimental_ynn_fusion_type="}


def configure() -> None:
    """Set XLA flags and the persistent compilation cache, unless the user has set them.

    The function changes nothing that is in the environment already: it only adds to ``XLA_FLAGS``,
    and it respects ``JAX_COMPILATION_CACHE_DIR``. ``GRADGEN_HOME`` moves the cache.
    """
    try:
        jaxlib = ".".join(version("jaxlib").split(".")[:2])
    except PackageNotFoundError:
        return
    flag = CPU_FLAGS.get(jaxlib)
    present = os.environ.get("XLA_FLAGS", "")
    if flag and flag.split("=")[0] not in present:
        os.environ["XLA_FLAGS"] = f"{present} {flag}".strip()
    # Otherwise XLA's C++ code logs lines about the flags above between our own lines.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "xla"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")


def cache_dir() -> Path:
    """Return the folder for files that can be made again.

    It is ``$GRADGEN_HOME/cache`` or gradgen's folder in the user's cache.
    """
    home = os.environ.get("GRADGEN_HOME")
    if home:
        return Path(home).expanduser() / "cache"
    from platformdirs import user_cache_path

    return user_cache_path("gradgen")
