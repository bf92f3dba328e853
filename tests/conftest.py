"""What all tests share: JAX is configured before anything imports it."""

from gradgen import runtime

runtime.configure()
