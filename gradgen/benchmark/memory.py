"""Peak memory of the accelerator or of this process."""

from __future__ import annotations

import sys
from typing import Any


def peak_memory_gb(device: Any) -> float | None:
    """Return the most memory in use so far in 10^9 bytes, or ``None`` if the system does not tell.

    Args:
        device: a JAX device. For a CPU, the memory is that of this process.
    """
    if device.platform != "cpu":
        peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
        return None if peak is None else peak / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size / 1e9 if sys.platform == "darwin" else size * 1024 / 1e9
