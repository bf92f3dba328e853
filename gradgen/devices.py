"""Divides chains into groups of equal size, and spreads the groups over devices.

A group is computed as a whole. On CPUs the last bits of a matrix product depend on the number of
its rows. Since that number is the size of the group, a chain gives the same bits on any device and
beside any other groups. A device that has several groups computes them in sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = "chains"


class Layout(NamedTuple):
    """How chains are laid out. It is hashable, so that it can be a static argument.

    Attributes:
        group_size: number of chains in a group. With ``None``, all chains of a device are a group.
        mesh: one-dimensional mesh of the devices that share the chains, or ``None`` for the default
            device alone.
    """

    group_size: int | None = None
    mesh: Mesh | None = None

    @property
    def multiple(self) -> int:
        """The number of chains has to be a multiple of this number, as after :func:`padded`."""
        return (self.group_size or 1) * (1 if self.mesh is None else self.mesh.size)


def make_layout(
    num_chains: int, group_size: int | None = None, devices: Sequence[Any] | None = None
) -> Layout:
    """Choose the layout of chains on some devices. It uses no more devices than there are groups.

    Args:
        num_chains: how many chains there are.
        group_size: chains in a group; see :class:`Layout`.
        devices: JAX devices, or ``None`` for the default device alone.
    """
    if devices is None or len(devices) < 2:
        return Layout(group_size)
    used = min(len(devices), -(-num_chains // (group_size or 1)))
    if used < 2:
        return Layout(group_size)
    return Layout(group_size, Mesh(np.array(devices[:used]), (AXIS,)))


def padded(tree: Any, num_chains: int) -> Any:
    """Repeat the last chain of every array (chains, ...) until there are ``num_chains``."""

    def fill(leaf: Any) -> Any:
        if jnp.ndim(leaf) == 0 or len(leaf) == num_chains:
            return leaf
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], num_chains - len(leaf), axis=0)])

    return jax.tree.map(fill, tree)


def first(tree: Any, num_chains: int) -> Any:
    """Keep the first ``num_chains`` of every array (chains, ...), which inverts :func:`padded`."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.ndim(leaf) == 0 or len(leaf) == num_chains else leaf[:num_chains],
        tree,
    )


def place(per_chain: Any, shared: Any, layout: Layout) -> tuple[Any, Any]:
    """Put arrays (chains, ...), and the arrays that all chains share, on the layout's devices."""
    if layout.mesh is None:
        return per_chain, shared
    mesh = layout.mesh
    specs = jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(jnp.ndim(leaf) == 0)), per_chain)
    return (
        jax.device_put(per_chain, specs),
        jax.device_put(shared, NamedSharding(mesh, PartitionSpec())),
    )


def spread(function: Callable[[Any, Any], Any], per_chain: Any, shared: Any, layout: Layout) -> Any:
    """Compute ``function(per_chain, shared)`` group by group. Each device loops over its groups.

    Call this inside ``jax.jit``.

    Args:
        function: takes ``per_chain`` and ``shared``, and returns a pytree of arrays (chains, ...)
            and scalars. Every group has to give the same scalars.
        per_chain: pytree of arrays (chains, ...) and scalars. The number of chains is a multiple of
            ``layout.multiple``.
        shared: pytree of what all chains share.
        layout: the groups and the devices.

    Returns:
        What ``function`` returns, for all chains.
    """

    def on_device(per_chain: Any, shared: Any) -> Any:
        if layout.group_size is None:
            return function(per_chain, shared)
        leaves, tree = jax.tree.flatten(per_chain)
        size = layout.group_size
        grouped = [
            leaf.reshape(-1, size, *leaf.shape[1:]) if leaf.ndim else leaf for leaf in leaves
        ]

        def on_group(arrays: list[Any]) -> Any:
            remaining = iter(arrays)
            whole = [leaf if leaf.ndim == 0 else next(remaining) for leaf in leaves]
            return function(jax.tree.unflatten(tree, whole), shared)

        arrays = [leaf for leaf in grouped if leaf.ndim]
        shapes = jax.eval_shape(on_group, [leaf[0] for leaf in arrays])
        return jax.tree.map(
            lambda leaf, shape: leaf.reshape(-1, *shape.shape[1:]) if shape.ndim else leaf[0],
            jax.lax.map(on_group, arrays),
            shapes,
        )

    if layout.mesh is None:
        return on_device(per_chain, shared)
    scalar = jax.tree.map(
        lambda shape: shape.ndim == 0, jax.eval_shape(on_device, per_chain, shared)
    )
    return jax.shard_map(
        on_device,
        mesh=layout.mesh,
        in_specs=(jax.tree.map(lambda leaf: _spec(leaf.ndim == 0), per_chain), PartitionSpec()),
        out_specs=jax.tree.map(_spec, scalar),
        check_vma=False,  # custom gradient rules do not tell how values vary over devices
    )(per_chain, shared)


def _spec(is_scalar: bool) -> PartitionSpec:
    return PartitionSpec() if is_scalar else PartitionSpec(AXIS)
