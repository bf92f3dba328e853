"""What all tests share: JAX is configured before anything imports it."""

import os

from gradgen import runtime

# Each worker keeps its compiled programs in a folder of its own. Workers that read each other's
# while these were being written have crashed inside XLA; JAX does not write them atomically.
worker = os.environ.get("PYTEST_XDIST_WORKER", "alone")
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(runtime.cache_dir() / "xla-of-tests" / worker)
)
runtime.configure()
