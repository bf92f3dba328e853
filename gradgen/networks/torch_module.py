"""A PyTorch module as a function that JAX can call and differentiate.

The module runs as it is, in PyTorch: ``jax.pure_callback`` takes the numbers out of the compiled
program and back, and ``jax.custom_vjp`` asks PyTorch's autograd for the way back. So any module
works, of any layers; what it costs besides its own time is a copy of its inputs and outputs.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gradgen.errors import GradgenError, UsageError

MOST_GRAPHS = 64  # forward passes that wait for their way back; an older one is computed again


def from_torch(
    module: Any,
    *,
    input_shape: tuple[int, ...] | None = None,
    output: Callable[[Any], Any] | None = None,
) -> Callable[[Array], Array]:
    """Make a function of a ``torch.nn.Module``, for :meth:`gradgen.Bundle.from_functions`.

    Pictures are (n, H, W, channels) outside and (n, channels, H, W) for the module; codes are
    (n, code). The module is put into eval mode and its parameters are frozen. Each row of the
    output must depend on that row of the input alone, as it does in eval mode.

    Args:
        module: on the device on which it shall run.
        input_shape: of a single input as the module takes it, where a code is no plain vector:
            ``(100, 1, 1)`` for a DCGAN. ``None``: as it comes.
        output: from what the module returns to the tensor that is wanted, where that is a tuple
            or the like: ``lambda result: result.logits``.

    Returns:
        A function of an array (n, …), which ``jax.jit``, ``jax.grad`` and ``jax.lax.map`` take.

    Raises:
        UsageError: PyTorch is not installed, or the module is none.
    """
    try:
        import torch
    except ImportError:
        raise UsageError(
            "from_torch needs PyTorch, which is not installed: pip install 'gradgen[torch]'"
        ) from None
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    module.eval().requires_grad_(False)
    runner = _Runner(module, input_shape, output)

    def call(x: Array) -> Array:
        return jax.pure_callback(runner.forward, runner.result(x), x, vmap_method="sequential")

    def call_and_keep(x: Array) -> tuple[Array, tuple[Array, Array]]:
        number = jax.ShapeDtypeStruct((), jnp.int32)
        value, ticket = jax.pure_callback(
            runner.forward_and_keep, (runner.result(x), number), x, vmap_method="sequential"
        )
        return value, (x, ticket)

    def back(kept: tuple[Array, Array], cotangent: Array) -> tuple[Array]:
        x, ticket = kept
        result = jax.ShapeDtypeStruct(x.shape, x.dtype)
        return (
            jax.pure_callback(
                runner.backward, result, x, ticket, cotangent, vmap_method="sequential"
            ),
        )

    differentiable = jax.custom_vjp(call)
    differentiable.defvjp(call_and_keep, back)

    def function(x: Array) -> Array:
        return differentiable(x)

    function.weights_sha256 = runner.weights_sha256()  # type: ignore[attr-defined]
    return function


class _Runner:
    """The module's side: NumPy arrays in, NumPy arrays out; nothing here calls JAX."""

    def __init__(
        self,
        module: Any,
        input_shape: tuple[int, ...] | None,
        output: Callable[[Any], Any] | None,
    ) -> None:
        self.module, self.input_shape, self.output = module, input_shape, output
        self.graphs: OrderedDict[int, tuple[Any, Any]] = OrderedDict()
        self.shapes: dict[tuple[int, ...], tuple[int, ...]] = {}
        self.count = 0
        self.lock = threading.Lock()  # several devices may call at a time

    def result(self, x: Array) -> jax.ShapeDtypeStruct:
        """Shape and type of what comes out for an input; found by a try with zeros.

        Raises:
            GradgenError: the module does not take such an input; the message is its own.
        """
        row = x.shape[1:]
        if row not in self.shapes:
            try:
                self.shapes[row] = self.forward(np.zeros((1, *row), np.float32)).shape[1:]
            except Exception as error:  # whatever a module raises
                raise GradgenError(
                    f"{type(self.module).__name__} fails for an input of shape {(1, *row)}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return jax.ShapeDtypeStruct((x.shape[0], *self.shapes[row]), x.dtype)

    def forward(self, x: Any) -> np.ndarray:
        import torch

        with torch.no_grad():
            return _array(self._apply(self._tensor(x)), np.asarray(x).dtype)

    def forward_and_keep(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """The output, and a ticket for the graph that leads back from it."""
        graph = self._graph(x)
        with self.lock:
            self.count = (self.count + 1) % 2**31
            ticket = self.count
            self.graphs[ticket] = graph
            while len(self.graphs) > MOST_GRAPHS:
                self.graphs.popitem(last=False)
        return _array(graph[1].detach(), np.asarray(x).dtype), np.asarray(ticket, np.int32)

    def backward(self, x: Any, ticket: Any, cotangent: Any) -> np.ndarray:
        """The cotangent of the input. A graph that is not there any more is computed again."""
        import torch

        with self.lock:
            kept = self.graphs.pop(int(ticket), None)
        start, end = kept if kept is not None else self._graph(x)
        weights = torch.from_numpy(np.array(cotangent, np.float32)).to(end.device)
        (gradient,) = torch.autograd.grad(end, start, weights)
        return _array(gradient, np.asarray(x).dtype)

    def weights_sha256(self) -> str:
        """SHA-256 of the module's parameters and buffers, in the order of their names."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.module.state_dict().items()):
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{name}{values.dtype}{tuple(values.shape)}".encode())
            digest.update(values.flatten().view(_bytes_type()).numpy().tobytes())
        return digest.hexdigest()

    def _graph(self, x: Any) -> tuple[Any, Any]:
        import torch

        start = self._tensor(x).requires_grad_()
        with torch.enable_grad():
            return start, self._apply(start)

    def _tensor(self, x: Any) -> Any:
        """The input as it comes, on the module's device; a copy, since JAX owns its memory."""
        import torch

        own = next(self.module.parameters(), None)
        device = torch.device("cpu") if own is None else own.device
        return torch.from_numpy(np.array(x, np.float32)).to(device)

    def _apply(self, x: Any) -> Any:
        """The output, pictures with their channels last."""
        if self.input_shape is not None:
            x = x.reshape(len(x), *self.input_shape)
        elif x.ndim == 4:
            x = x.permute(0, 3, 1, 2)  # in memory this is PyTorch's channels_last
        found = self.module(x)
        if self.output is not None:
            found = self.output(found)
        if not hasattr(found, "permute"):
            raise TypeError(
                f"it returns {type(found).__name__}, not a tensor; `output` says which is wanted"
            )
        return found.permute(0, 2, 3, 1) if found.ndim == 4 else found


def _array(tensor: Any, dtype: Any) -> np.ndarray:
    return np.ascontiguousarray(tensor.cpu().numpy(), dtype)


def _bytes_type() -> Any:
    import torch

    return torch.uint8
