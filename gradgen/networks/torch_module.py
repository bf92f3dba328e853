"""A PyTorch module as a function that JAX can call and differentiate.

There are two ways. Called back, the module runs as it is, in PyTorch: ``jax.pure_callback`` takes
the numbers out of the compiled program and back, and ``jax.custom_vjp`` asks PyTorch's autograd for
the way back. So any module works, of any layers; what it costs besides its own time is a copy of
its inputs and outputs. Translated, by torchax if that is installed, the module becomes operations
of JAX, which any device of JAX computes. A translation is compared with the module, values and
gradient, before it is used, and whatever goes wrong leads to the first way.
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


# Translated and called values, and gradients, differ at most so much of their largest number. In
# float32 EfficientNet-Lite0's differ by 1e-5 and its gradients, for rectifiers' kinks, by 1e-3.
AGREEMENT = 1e-2
TRANSLATED, CALLED = "translated", "called"


def from_torch(
    module: Any,
    *,
    input_shape: tuple[int, ...] | None = None,
    output: Callable[[Any], Any] | None = None,
    way: str | None = None,
) -> TorchFunction:
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
        way: ``translated``, which fails where the module cannot be translated, or ``called``.
            ``None``: translated if torchax is installed and can, else called.

    Returns:
        A function of an array (n, …), which ``jax.jit``, ``jax.grad`` and ``jax.lax.map`` take.

    Raises:
        UsageError: PyTorch is not installed, or the module is none.
    """
    if way not in (None, TRANSLATED, CALLED):
        raise UsageError(f"`way` {way!r}: choose one of {TRANSLATED}, {CALLED}")
    try:
        import torch
    except ImportError:
        raise UsageError(
            "from_torch needs PyTorch, which is not installed: pip install 'gradgen[torch]'"
        ) from None
    if not isinstance(module, torch.nn.Module):
        raise UsageError(f"from_torch takes a torch.nn.Module, not {type(module).__name__}")
    module.eval().requires_grad_(False)
    return TorchFunction(_Runner(module, input_shape, output), way)


class TorchFunction:
    """A module as a function of an array.

    Attributes:
        params: the module's numbers for its translation, which :meth:`apply` takes; ``None`` where
            it is called back.
        weights_sha256: of the module's numbers.
        way: what became of it, in words, once it has been called; recorded with runs.
    """

    def __init__(self, runner: _Runner, wanted: str | None) -> None:
        import torch

        self._runner = runner
        self._called = _called_back(runner)
        self._translated: Callable[[Any, Array], Array] | None = None
        self._checked: set[tuple[int, ...]] = set()
        self.params: Any = None
        self.weights_sha256 = runner.weights_sha256()
        self._wanted = wanted
        self.way = f"called back in PyTorch {torch.__version__}"
        if wanted != CALLED:
            try:
                self.params, self._translated = _translation(runner)
            except Exception as error:  # whatever torchax, or its import, raises
                self._give_up(error)

    def __call__(self, x: Array) -> Array:
        return self.apply(self.params, x)

    def apply(self, params: Any, x: Array) -> Array:
        """The function with its parameters, so that they are no constants of a program."""
        params = self.params if params is None else params
        row = tuple(x.shape[1:])
        if self._translated is not None and row not in self._checked:
            self._runner.result(x)  # raises what the module says of such an input
            try:
                self._check(row)
                self._checked.add(row)
            except Exception as error:
                self._give_up(error)
        if self._translated is None:
            return self._called(x)
        return self._translated(params, x)

    def _give_up(self, error: Exception) -> None:
        if self._wanted == TRANSLATED:
            name = type(self._runner.module).__name__
            reason = str(error).strip().splitlines() or [""]
            raise GradgenError(
                f"{name} cannot be translated: {type(error).__name__}: {reason[0]}"
            ) from error
        self._translated, self.params = None, None

    def _check(self, row: tuple[int, ...]) -> None:
        """Compare values and gradient with the module's own; whatever is wrong is raised."""
        import torch
        import torchax

        assert self._translated is not None
        translated = self._translated
        rng = np.random.default_rng(0)
        x = rng.uniform(-1, 1, (2, *row)).astype(np.float32)
        end, ticket = self._runner.forward_and_keep(x)
        weights = rng.normal(size=end.shape).astype(np.float32)
        back = self._runner.backward(x, ticket, weights)

        def both(params: Any, x: Array) -> tuple[Array, Array]:
            value, pull = jax.vjp(lambda x: translated(params, x), x)
            return value, pull(jnp.asarray(weights))[0]

        with jax.ensure_compile_time_eval():  # whoever calls may be tracing
            found = jax.jit(both)(self.params, jnp.asarray(x))
            pairs = [(np.asarray(a), b) for a, b in zip(found, (end, back), strict=True)]
        for mine, own in pairs:
            gap = np.abs(mine - own).max()
            if not gap <= AGREEMENT * np.abs(own).max():
                raise GradgenError(f"the translation differs by {gap:g}")
        self.way = f"translated by torchax {torchax.__version__} from PyTorch {torch.__version__}"


def _translation(runner: _Runner) -> tuple[Any, Callable[[Any, Array], Array]]:
    """The module's numbers, and a function of them and of an input, in JAX's operations."""
    import torch
    import torchax

    class Whole(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.module = runner.module

        def forward(self, x: Any) -> Any:
            return runner.apply(x)

    numbers, call = torchax.extract_jax(Whole())
    return numbers, lambda params, x: call(params, (x,))


def _called_back(runner: _Runner) -> Callable[[Array], Array]:
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
    return differentiable


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
            return _array(self.apply(self._tensor(x)), np.asarray(x).dtype)

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
            return start, self.apply(start)

    def _tensor(self, x: Any) -> Any:
        """The input as it comes, on the module's device; a copy, since JAX owns its memory."""
        import torch

        own = next(self.module.parameters(), None)
        device = torch.device("cpu") if own is None else own.device
        return torch.from_numpy(np.array(x, np.float32)).to(device)

    def apply(self, x: Any) -> Any:
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
