"""Chains as ArviZ's InferenceData, for its plots and diagnostics, and such files read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError
from gradgen.inference.diagnostics import import_arviz
from gradgen.inference.traces import Traces

if TYPE_CHECKING:
    from gradgen.runs.record import RunRecord

LOG_DENSITY = "log_density"
# ArviZ means something else by log_likelihood
NAMES = {"log_likelihood": "log_p_class"}


def inference_data(record: RunRecord, traces: Traces, class_position: np.ndarray) -> Any:
    """The chains since the warm-up.

    Group ``posterior``: the traced quantities, a variable each, with dimensions chain and draw.
    Several classes' chains follow one another; ``class_index`` in ``sample_stats`` says whose a
    chain is.

    Args:
        record: of the run.
        traces: of all chains.
        class_position: (chains,) index into the record's classes.
    """
    last = min(min(job.steps) for job in record.classes if job.steps)
    traces = traces.between(record.warmup_steps or 0, last)
    series = traces.series()
    shape = series[LOG_DENSITY].shape
    return import_arviz().from_dict(
        posterior={
            NAMES.get(name, name): values for name, values in series.items() if name != LOG_DENSITY
        },
        sample_stats={
            "lp": series[LOG_DENSITY],
            "acceptance_rate": traces.acceptance,
            "step_size": traces.step_size,
            "class_index": np.broadcast_to(class_position[:, None], shape).copy(),
        },
        attrs={
            "gradgen_settings": json.dumps(record.settings.to_json(), ensure_ascii=False),
            "gradgen_classes": json.dumps([job.name for job in record.classes]),
            "inference_library": "gradgen",
        },
    )


def read_series(path: Path) -> dict[str, dict[str, np.ndarray]]:
    """{class: {quantity: (chains, draws)}} of a NetCDF file of ours or of any library's.

    A file that is not ours has one class, named as the file. A variable with more dimensions than
    chain and draw gives a quantity for each of its numbers.

    Raises:
        GradgenError: the file is no InferenceData with a posterior.
    """
    try:
        data = import_arviz().from_netcdf(str(path))
        posterior = {name: np.asarray(found) for name, found in data.posterior.items()}
        stats = data.sample_stats if "sample_stats" in data.groups() else {}
        names = json.loads(data.attrs.get("gradgen_classes", "null"))
        extra = {name: np.asarray(stats[name]) for name in ("lp", "class_index") if name in stats}
    except Exception as error:  # the libraries under it raise nearly anything on broken bytes
        raise GradgenError(f"{path} is no NetCDF file with a posterior ({error})") from error
    series: dict[str, np.ndarray] = {}
    if "lp" in extra:
        series[LOG_DENSITY] = extra["lp"]
    ours = {stored: name for name, stored in NAMES.items()} if names else {}
    for name, values in posterior.items():
        flat = values.reshape(*values.shape[:2], -1)
        for place in range(flat.shape[2]):
            label = ours.get(name, name) + (f"[{place}]" if flat.shape[2] > 1 else "")
            series[label] = flat[:, :, place].astype(np.float64)
    if not names or "class_index" not in extra:
        return {path.stem: series}
    whose = extra["class_index"][:, 0]
    return {
        name: {key: values[whose == place] for key, values in series.items()}
        for place, name in enumerate(names)
        if (whose == place).any()
    }
