"""Writes Caffe's files byte by byte and describes its networks in prototxt, for OpenCV to run.

This module uses nothing of gradgen's reader, so that a mistake there cannot be repeated here.
"""

import struct

import numpy as np

# --- protobuf's wire format -------------------------------------------------------------------


def varint(number):
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def chunk(field, content):
    """A length-delimited field: a string, a message or packed numbers."""
    content = content.encode() if isinstance(content, str) else content
    return varint(field << 3 | 2) + varint(len(content)) + content


def integer(field, number):
    return varint(field << 3) + varint(number)


def blob(array, packed=True, legacy=False, diff=False):
    """BlobProto: num 1, channels 2, height 3, width 4, data 5, diff 6, shape 7."""
    array = np.asarray(array, "<f4")
    if legacy:
        shape = (1,) * (4 - array.ndim) + array.shape
        head = b"".join(integer(field, side) for field, side in enumerate(shape, 1))
    else:
        head = chunk(7, chunk(1, b"".join(map(varint, array.shape))))
    if packed:
        data = chunk(5, array.tobytes())
    else:
        tag = varint(5 << 3 | 5)
        data = b"".join(tag + struct.pack("<f", value) for value in array.ravel().tolist())
    return head + data + (chunk(6, np.full_like(array, 7).tobytes()) if diff else b"")


def caffemodel(layers, generation="V2", **how):
    """NetParameter with layers {name: (blobs)}; one layer without blobs comes with them."""
    out = chunk(1, "test net")
    for name, arrays in {"relu of nothing": (), **layers}.items():
        blobs = [blob(array, **how) for array in arrays]
        if generation == "V2":
            out += chunk(
                100, chunk(1, name) + chunk(2, "Any") + b"".join(chunk(7, b) for b in blobs)
            )
        elif generation == "V1":
            out += chunk(2, chunk(4, name) + integer(5, 4) + b"".join(chunk(6, b) for b in blobs))
        else:
            inner = chunk(1, name) + chunk(2, "conv") + b"".join(chunk(50, b) for b in blobs)
            out += chunk(2, chunk(1, inner) + chunk(2, "bottom") + chunk(3, "top"))
    return out


# --- networks ---------------------------------------------------------------------------------


class Prototxt:
    """Collects layers; each reads what the last one gave unless told otherwise."""

    def __init__(self, shape):
        dims = " ".join(f"dim: {side}" for side in shape)
        shape = f"input_param {{ shape {{ {dims} }} }}"
        self.text = [f'layer {{ name: "data" type: "Input" top: "data" {shape} }}']
        self.top = "data"
        self.weights = {}  # name -> (shape of the weights, number of outputs)

    def add(self, name, kind, parameters="", bottom=None):
        bottoms = bottom if isinstance(bottom, list) else [bottom or self.top]
        listed = " ".join(f'bottom: "{b}"' for b in bottoms)
        self.text.append(
            f'layer {{ name: "{name}" type: "{kind}" {listed} top: "{name}" {parameters} }}'
        )
        self.top = name
        return name

    def conv(
        self, name, channels, out, k, s=1, p=0, g=1, bottom=None, kind="Convolution", slope=0.0
    ):
        """A convolution and its rectifier (none where slope is 1), called <name>/r."""
        sizes = f"num_output: {out} kernel_size: {k} stride: {s} pad: {p} group: {g}"
        self.add(name, kind, f"convolution_param {{ {sizes} }}", bottom)
        shape = (channels, out) if kind == "Deconvolution" else (out, channels // g)
        self.weights[name] = ((*shape, k, k), out)
        return self.relu(name, slope)

    def dense(self, name, inputs, out, slope=0.0):
        self.add(name, "InnerProduct", f"inner_product_param {{ num_output: {out} }}")
        self.weights[name] = ((out, inputs), out)
        return self.relu(name, slope)

    def relu(self, name, slope):
        if slope == 1:
            return name
        return self.add(f"{name}/r", "ReLU", f"relu_param {{ negative_slope: {slope} }}")

    def pool(self, name, k, s, p=0, method="MAX", bottom=None):
        return self.add(
            name,
            "Pooling",
            f"pooling_param {{ pool: {method} kernel_size: {k} stride: {s} pad: {p} }}",
            bottom,
        )

    def norm(self, name):
        return self.add(name, "LRN", "lrn_param { local_size: 5 alpha: 0.0001 beta: 0.75 }")

    def random_weights(self, seed=0):
        """He-like: weights of standard deviation sqrt(2 / fan_in), small biases."""
        rng = np.random.default_rng(seed)
        made = {}
        for name, (shape, out) in self.weights.items():
            fan_in = np.prod(shape) / out
            weights = rng.standard_normal(shape, np.float32) * np.float32((2 / fan_in) ** 0.5)
            made[name] = (weights, 0.1 * rng.standard_normal(out, np.float32))
        return made


def caffenet(num_classes=1000, pool_first=True, batch=1):
    net = Prototxt((batch, 3, 227, 227))

    def pool_and_norm(block):
        steps = [lambda: net.pool(f"pool{block}", 3, 2), lambda: net.norm(f"norm{block}")]
        for step in steps if pool_first else steps[::-1]:
            step()

    net.conv("conv1", 3, 96, 11, s=4)
    pool_and_norm(1)
    net.conv("conv2", 96, 256, 5, p=2, g=2)
    pool_and_norm(2)
    net.conv("conv3", 256, 384, 3, p=1)
    net.conv("conv4", 384, 384, 3, p=1, g=2)
    net.conv("conv5", 384, 256, 3, p=1, g=2)
    net.pool("pool5", 3, 2)
    net.dense("fc6", 256 * 36, 4096)
    net.dense("fc7", 4096, 4096)
    net.dense("fc8", 4096, num_classes, slope=1)
    net.add("prob", "Softmax")
    return net


def googlenet(num_classes=1000, batch=1):
    net = Prototxt((batch, 3, 224, 224))
    net.conv("conv1/7x7_s2", 3, 64, 7, s=2, p=3)
    net.pool("pool1/3x3_s2", 3, 2)
    net.norm("pool1/norm1")
    net.conv("conv2/3x3_reduce", 64, 64, 1)
    net.conv("conv2/3x3", 64, 192, 3, p=1)
    net.norm("conv2/norm2")
    net.pool("pool2/3x3_s2", 3, 2)
    channels = 192
    for block, sizes in {
        "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64), "pool3": None,
        "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64),
        "4c": (128, 128, 256, 24, 64, 64), "4d": (112, 144, 288, 32, 64, 64),
        "4e": (256, 160, 320, 32, 128, 128), "pool4": None,
        "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
    }.items():  # fmt: skip
        if sizes is None:
            net.pool(f"{block}/3x3_s2", 3, 2)
            continue
        name, start = f"inception_{block}", net.top
        one, reduce3, three, reduce5, five, pool = sizes
        tops = [net.conv(f"{name}/1x1", channels, one, 1, bottom=start)]
        net.conv(f"{name}/3x3_reduce", channels, reduce3, 1, bottom=start)
        tops.append(net.conv(f"{name}/3x3", reduce3, three, 3, p=1))
        net.conv(f"{name}/5x5_reduce", channels, reduce5, 1, bottom=start)
        tops.append(net.conv(f"{name}/5x5", reduce5, five, 5, p=2))
        net.pool(f"{name}/pool", 3, 1, p=1, bottom=start)
        tops.append(net.conv(f"{name}/pool_proj", channels, pool, 1))
        net.add(f"{name}/output", "Concat", bottom=tops)
        channels = one + three + five + pool
    net.pool("pool5/7x7_s1", 7, 1, method="AVE")
    net.dense("loss3/classifier", channels, num_classes, slope=1)
    net.add("prob", "Softmax")
    return net


def deepsim(code="fc6", batch=1):
    if code == "pool5":
        net = Prototxt((batch, 256, 6, 6))
        net.conv("Rconv6", 256, 512, 3, p=1, slope=0.3)
        net.conv("Rconv7", 512, 512, 3, p=1, slope=0.3)
        net.conv("Rconv8", 512, 512, 3, slope=0.3)
        channels = 512
    else:
        net = Prototxt((batch, 4096))
        for name in ("defc7", "defc6", "defc5"):
            net.dense(name, 4096, 4096, slope=0.3)
        net.add("reshape", "Reshape", "reshape_param { shape { dim: 0 dim: 256 dim: 4 dim: 4 } }")
        channels = 256
    for name, out, k, s in (
        ("deconv5", 256, 4, 2), ("conv5_1", 512, 3, 1), ("deconv4", 256, 4, 2),
        ("conv4_1", 256, 3, 1), ("deconv3", 128, 4, 2), ("conv3_1", 128, 3, 1),
        ("deconv2", 64, 4, 2), ("deconv1", 32, 4, 2), ("deconv0", 3, 4, 2),
    ):  # fmt: skip
        slope = 1 if name == "deconv0" else 0.3
        net.conv(name, channels, out, k, s=s, p=1, kind="Deconvolution", slope=slope)
        channels = out
    return net
