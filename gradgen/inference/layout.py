"""Chains in groups of one size, and the groups spread over devices.

A group is what is computed as one: on CPUs the last bits of a matrix product depend on the number
of its rows, so a chain gives the same bits wherever and beside whatever its group runs. A device
that has several groups takes them one after another.
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
    """How chains are laid out; hashable, so that it can be a static argument.

    Attributes:
        group_size: chains of a group; ``None``: all chains of a device are one group.
        mesh: one-dimensional, of the devices that share the chains; ``None``: the default device.
    """

    group_size: int | None = None
    mesh: Mesh | None = None

    @property
    def multiple(self) -> int:
        """The number of chains has to be a multiple of this (:func:`padded` sees to it)."""
        return (self.group_size or 1) * (1 if self.mesh is None else self.mesh.size)


def make_layout(
    num_chains: int, group_size: int | None = None, devices: Sequence[Any] | None = None
) -> Layout:
    """The layout of so many chains on some devices; no more of them than there are groups."""
    if devices is None or len(devices) < 2:
        return Layout(group_size)
    used = min(len(devices), -(-num_chains // (group_size or 1)))
    if used < 2:
        return Layout(group_size)
    return Layout(group_size, Mesh(np.array(devices[:used]), (AXIS,)))


def padded(tree: Any, num_chains: int) -> Any:
    """Repeat the last chain of every array (chains, ...) until there are so many."""

    def fill(leaf: Any) -> Any:
        if jnp.ndim(leaf) == 0 or len(leaf) == num_chains:
            return leaf
        return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], num_chains - len(leaf), axis=0)])

    return jax.tree.map(fill, tree)


def first(tree: Any, num_chains: int) -> Any:
    """The first chains of every array (chains, ...): what :func:`padded` began with."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.ndim(leaf) == 0 or len(leaf) == num_chains else leaf[:num_chains],
        tree,
    )


def place(per_chain: Any, shared: Any, layout: Layout) -> tuple[Any, Any]:
    """Put arrays (chains, ...) and what all chains share onto the layout's devices."""
    if layout.mesh is None:
        return per_chain, shared
    mesh = layout.mesh
    specs = jax.tree.map(lambda leaf: NamedSharding(mesh, _spec(jnp.ndim(leaf) == 0)), per_chain)
    return (
        jax.device_put(per_chain, specs),
        jax.device_put(shared, NamedSharding(mesh, PartitionSpec())),
    )


def spread(function: Callable[[Any, Any], Any], per_chain: Any, shared: Any, layout: Layout) -> Any:
    """``function(per_chain, shared)`` group by group, the groups of each device in a loop.

    Args:
        function: of a pytree of arrays (chains, ...) and scalars, and of what all chains share;
            gives a pytree of such arrays and scalars. Scalars have to come out alike for every
            group.
        per_chain: its length along the chains is a multiple of ``layout.multiple``.

    To be called inside ``jax.jit``.
    """

    def on_device(per_chain: Any, shared: Any) -> Any:
        if layout.group_size is None:
            return function(per_chain, shared)
        leaves, tree = jax.tree.flatten(per_chain)
        size = layout.group_size
        grouped = [
            leaf.reshape(-1, size, *leaf.shape[1:]) if leaf.ndim else leaf for leaf in leaves
        ]

        def one(arrays: list[Any]) -> Any:
            remaining = iter(arrays)
            whole = [leaf if leaf.ndim == 0 else next(remaining) for leaf in leaves]
            return function(jax.tree.unflatten(tree, whole), shared)

        arrays = [leaf for leaf in grouped if leaf.ndim]
        shapes = jax.eval_shape(one, [leaf[0] for leaf in arrays])
        return jax.tree.map(
            lambda leaf, shape: leaf.reshape(-1, *shape.shape[1:]) if shape.ndim else leaf[0],
            jax.lax.map(one, arrays),
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
        check_vma=False,  # the kernels' custom rules say nothing of how values vary over devices
    )(per_chain, shared)


def _spec(is_scalar: bool) -> PartitionSpec:
    return PartitionSpec() if is_scalar else PartitionSpec(AXIS)
