"""Reads Caffe's files, and turns their blobs into the parameters of our modules.

A caffemodel is a protobuf message ``NetParameter``, in one of three generations: V2 (``layer``), V1
(``layers``) and V0 (``layers`` that hold a ``layer``). The schema below has only the fields that
weights need. Protobuf skips the others (diffs, solver settings, training data).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gradgen.errors import GradgenError
from gradgen.weights.store import check_finite, misfit

if TYPE_CHECKING:
    from flax import nnx


@dataclass(frozen=True, eq=False)
class CaffeLayer:
    """A layer with weights: its name and its float32 blobs in the shapes of the file."""

    name: str
    blobs: tuple[np.ndarray, ...]


def read_caffemodel(path: Path) -> list[CaffeLayer]:
    """Read the layers of a caffemodel that hold blobs, in the file's order.

    Raises:
        GradgenError: the file is missing, truncated or not a caffemodel.
    """
    layers = list(_layers(path, _parse(path)))
    if not layers:
        raise GradgenError(f"{path} holds no weights: is it a .caffemodel, not a .prototxt?")
    return layers


def _parse(path: Path) -> Any:
    """Read the file as a ``NetParameter``."""
    from google.protobuf.message import DecodeError

    try:
        content = path.read_bytes()
    except OSError as error:
        raise GradgenError(f"{path}: {error.strerror}") from error
    net = _messages()["NetParameter"]()
    try:
        net.ParseFromString(content)
    except DecodeError as error:
        raise GradgenError(
            f"{path} is no caffemodel, or is cut short ({len(content)} bytes); fetch it again"
        ) from error
    return net


def _layers(path: Path, net: Any) -> Iterator[CaffeLayer]:
    found = [(layer.name, layer.blobs) for layer in net.layer]
    for outer in net.layers:
        inner = outer.layer if outer.HasField("layer") else outer
        found.append((inner.name, inner.blobs))
    for raw_name, blobs in found:
        name = raw_name.decode("utf-8", "backslashreplace")
        if not name.isprintable():  # messages of one line name it
            name = name.encode("unicode_escape").decode()
        if blobs:
            yield CaffeLayer(name, tuple(_array(path, name, blob) for blob in blobs))


def _array(path: Path, layer: str, blob: Any) -> np.ndarray:
    """Return a blob's numbers in its shape. Legacy blobs always have four dimensions."""
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else None
    if shape is None:
        shape = (blob.num, blob.channels, blob.height, blob.width)
    broken = f"{path}: layer {layer} has a blob of shape {shape} with"
    if blob.data:  # the numbers are packed, perhaps in several pieces
        packed = b"".join(blob.data)
        if len(packed) % 4:
            raise GradgenError(f"{broken} {len(packed)} bytes; the file is broken, fetch it again")
        values = np.frombuffer(packed, "<f4")
    else:  # each number has a tag of its own, which is rare and slower
        whole = _messages(packed=False)["BlobProto"]()
        whole.ParseFromString(blob.SerializeToString())
        values = np.array(whole.data or whole.double_data, np.float32)
    if min(shape, default=1) < 0 or values.size != math.prod(shape):
        raise GradgenError(f"{broken} {values.size} numbers; the file is broken, fetch it again")
    return values.astype(np.float32, copy=False).reshape(shape)


@cache
def _messages(packed: bool = True) -> dict[str, Any]:
    """Make the message classes of the schema, by name.

    Args:
        packed: whether a blob's data is declared as bytes. A packed list of floats has the same
            form in the file as bytes, so that no Python object is made for each of 60 million
            floats. Data that is not packed then comes to the unknown fields, where the other form
            of the schema finds it.
    """
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    field = descriptor_pb2.FieldDescriptorProto
    data = field.TYPE_BYTES if packed else field.TYPE_FLOAT
    optional, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    # Names are declared as bytes, because in a broken file they may not be UTF-8.
    text, whole, wide = field.TYPE_BYTES, field.TYPE_INT32, field.TYPE_INT64
    schema: dict[str, list[tuple[str, int, Any, int]]] = {
        "BlobShape": [("dim", 1, wide, many)],
        "BlobProto": [
            ("num", 1, whole, optional),
            ("channels", 2, whole, optional),
            ("height", 3, whole, optional),
            ("width", 4, whole, optional),
            ("data", 5, data, many),
            ("shape", 7, "BlobShape", optional),
            ("double_data", 8, field.TYPE_DOUBLE, many),
        ],
        "V0LayerParameter": [("name", 1, text, optional), ("blobs", 50, "BlobProto", many)],
        "V1LayerParameter": [
            ("layer", 1, "V0LayerParameter", optional),
            ("name", 4, text, optional),
            ("blobs", 6, "BlobProto", many),
        ],
        "LayerParameter": [("name", 1, text, optional), ("blobs", 7, "BlobProto", many)],
        "NetParameter": [
            ("layers", 2, "V1LayerParameter", many),
            ("layer", 100, "LayerParameter", many),
        ],
    }
    package = f"gradgen.caffe.{'packed' if packed else 'plain'}"
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{package}.proto", package=package, syntax="proto2"
    )
    for message_name, fields in schema.items():
        message = file.message_type.add(name=message_name)
        for name, number, kind, label in fields:
            added = message.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = field.TYPE_MESSAGE, f".{package}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in schema
    }


# --- blobs to parameters ----------------------------------------------------------------------


def caffe_parameters(
    module: nnx.Module, layers: list[CaffeLayer], source: str, ignored: tuple[str, ...] = ()
) -> dict[str, np.ndarray]:
    """Turn a caffemodel's blobs into the parameters of a module of :mod:`gradgen.models`.

    Args:
        module: real or abstract (``nnx.eval_shape``).
        layers: result of :func:`read_caffemodel`.
        source: what messages call the file.
        ignored: beginnings of the names of layers that the module leaves out on purpose.

    Returns:
        The arrays under their dotted paths: views of the blobs, or permuted copies.

    Raises:
        GradgenError: layers are missing, superfluous or of another shape, each of which the message
            names, or a number is not finite.
    """
    wanted = caffe_layers(module)
    given = {layer.name: layer for layer in layers if not layer.name.startswith(ignored or ("\0",))}
    faults = [f"missing {name}" for name in wanted if name not in given]
    faults += [f"unexpected {name}" for name in given if name not in wanted]
    found: dict[str, np.ndarray] = {}
    for name, (path, layer) in wanted.items():
        if name not in given:
            continue
        blobs, shapes = given[name].blobs, blob_shapes(layer)
        fitted = [
            fit
            for blob, shape in zip(blobs, shapes, strict=False)
            if (fit := _fitted(blob, shape)) is not None
        ]
        if not len(blobs) == len(fitted) == len(shapes):
            listed = " and ".join(str(blob.shape) for blob in blobs)
            faults.append(f"{name} has blobs {listed}, expected {' and '.join(map(str, shapes))}")
            continue
        kernel, bias = to_parameters(layer, fitted[0], fitted[1])
        found |= {f"{path}.kernel": kernel, f"{path}.bias": bias}
    if faults:
        raise misfit(source, faults)
    check_finite(found, source)
    return found


def caffe_layers(module: nnx.Module) -> dict[str, tuple[str, Any]]:
    """List a module's layers that hold weights: {Caffe's name: (dotted path, layer)}."""
    from flax import nnx

    from gradgen.models.caffe_layers import Conv, Deconv, Dense

    return {
        str(path[-1]): (".".join(map(str, path)), layer)
        for path, layer in nnx.iter_modules(module)
        if isinstance(layer, Conv | Deconv | Dense)
    }


def blob_shapes(layer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the shapes that Caffe gives to a layer's two blobs.

    The weights are (out, in / groups, k, k), for a Deconvolution (in, out, k, k), and for an
    InnerProduct (out, in). The bias is (out,).
    """
    from gradgen.models.caffe_layers import Deconv, Dense

    shape = tuple(layer.kernel.shape)
    if isinstance(layer, Dense):
        return shape[::-1], shape[1:]
    height, width, first, last = shape
    if isinstance(layer, Deconv):
        return (first, last, height, width), (last,)
    return (last, first, height, width), (last,)


def _fitted(blob: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """Bring a blob to a shape, or return ``None``. Only leading dimensions of 1 may differ."""
    found = blob.shape
    while len(found) > len(shape) and found[0] == 1:
        found = found[1:]
    return blob.reshape(shape) if found == shape else None


def to_parameters(
    layer: Any, weights: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Make kernel and bias in our layout from blobs in Caffe's shapes (:func:`blob_shapes`)."""
    from gradgen.models.caffe_layers import Deconv, Dense

    if isinstance(layer, Dense):
        if layer.input_shape is not None:  # columns change from C x H x W to H x W x C
            weights = weights.reshape(-1, *layer.input_shape).transpose(0, 2, 3, 1)
            weights = weights.reshape(len(bias), -1)
        if layer.output_shape is not None:  # rows change likewise
            order = np.arange(len(bias)).reshape(layer.output_shape).transpose(1, 2, 0).ravel()
            weights, bias = weights[order], bias[order]
        return weights.T, bias
    if isinstance(layer, Deconv):
        return deconvolution_kernel(weights), bias
    return weights.transpose(2, 3, 1, 0), bias


def deconvolution_kernel(weights: np.ndarray) -> np.ndarray:
    """Flip a kernel for a plain convolution: (in, out, k, k) -> (k, k, in, out)."""
    return weights[:, :, ::-1, ::-1].transpose(2, 3, 0, 1)
