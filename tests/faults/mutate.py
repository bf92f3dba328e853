"""Damages files: one seeded mutator changes bytes, and another keeps JSON valid or nearly valid."""

import io
import json
import struct
import zipfile

# Numbers at the edges of what fields of 1, 2, 4 and 8 bytes hold.
EDGES = (0, 1, 2**7 - 1, 2**7, 2**8 - 1, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1)
# Values that JSON can spell and that nobody expects.
NASTY = (
    "null", "true", "-1", "0", "1.5", "1e999", "-1e999", "NaN", "Infinity", '""', "[]", "{}",
    '"\\ud800"', '"\\u0000"', '"\\u001b[2J\\u009b31m"', '"\\u202e"', "9" * 5000, "-" + "9" * 30,
    "1" * 19, "[" * 100_000, "[" * 500 + "]" * 500, '{"a":' * 80 + "1" + "}" * 80,
    '"' + "a" * 70_000 + '"', '[null, "a", {"b": [1e308]}]', "[[]]", '{"": {}}', '"nan"',
    '"../../etc/passwd"', "1e-400", "\x1b", "'a'",
)  # fmt: skip


def mutate(rng, content):
    """Bytes damaged in one to three places.

    Args:
        rng: a ``random.Random``.
        content: the bytes of a good file, not empty.
    """
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        rng.choice(_DAMAGES)(rng, data)
        if not data:
            break
    return bytes(data)


def _flip_bits(rng, data):
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _replace(rng, data):
    where, width = rng.randrange(len(data)), rng.randint(1, 12)
    data[where : where + width] = rng.randbytes(width)


def _cut(rng, data):
    del data[rng.randrange(len(data)) :]


def _double(rng, data):
    where = rng.randrange(len(data))
    data += data[where : where + rng.randint(1, 400)]


def _move(rng, data):
    where, width = rng.randrange(len(data)), rng.randint(1, 200)
    piece = data[where : where + width]
    del data[where : where + width]
    other = rng.randrange(len(data) + 1)
    data[other:other] = piece


def _insert(rng, data):
    where = rng.randrange(len(data))
    data[where:where] = rng.randbytes(rng.choice((1, 4, 9, 300)))


def _put_edge(rng, data):
    """A number at the edge of its field, in either order of bytes."""
    number = rng.choice(EDGES)
    width = rng.choice([width for width in (1, 2, 4, 8) if number < 256**width])
    where = rng.randrange(len(data))
    data[where : where + width] = number.to_bytes(width, rng.choice(("little", "big")))


_DAMAGES = (_flip_bits, _flip_bits, _replace, _put_edge, _put_edge, _cut, _double, _move, _insert)


def mutate_json(rng, value):
    """The text of a JSON value with one to three parts replaced by what nobody expects."""
    mark = '"@@@"'
    value = json.loads(json.dumps(value))
    spots = []
    for _ in range(rng.choice((1, 1, 2, 3))):
        holder, key = rng.choice(list(_places(value)))
        kind = rng.randrange(4)
        if kind == 0 and isinstance(holder, dict):
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[rng.choice(("", "../x", "\x1b[2J", "a" * 300))] = holder.pop(key)
        else:
            holder[key] = "@@@"
            spots.append(rng.choice(NASTY))
        if not value:
            break
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    for nasty in spots:
        text = text.replace(mark, nasty, 1)
    content = text.encode("utf-8", "surrogatepass")
    return mutate(rng, content) if rng.random() < 0.2 else content


def _places(value):
    """All (holder, key or index) of a JSON value, the inner ones too."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in items:
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


def mutate_npz(rng, arrays):
    """An .npz whose checksums are right, so that the damage reaches whoever reads the arrays.

    Args:
        rng: a ``random.Random``.
        arrays: {name: bytes of its .npy file}.
    """
    buffer = io.BytesIO()
    victim = rng.choice(sorted(arrays))
    with zipfile.ZipFile(
        buffer, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    ) as file:
        for name, content in arrays.items():
            if name == victim:
                content = mutate_npy(rng, content)
            if name != victim or rng.random() < 0.95:
                file.writestr(f"{name}.npy", content)
    content = buffer.getvalue()
    return mutate(rng, content) if rng.random() < 0.2 else content


HEADERS = (
    "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "{'descr': '|O', 'fortran_order': "
    "False, 'shape': (3,), }", "{'descr': '<f4', 'fortran_order': False, 'shape': (-3,), }",
    "{'descr': '<f8', 'fortran_order': True, 'shape': (10000000000, 10000000000), }",
    "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 99999999999999999999), }",
    "{'descr': '<U999999999', 'fortran_order': False, 'shape': (1,), }", "(" * 5000, "{'descr': [",
    "{'descr': [('a', '<f4'), ('b', '|O')], 'fortran_order': False, 'shape': (1,), }",
    "{'descr': '<f4', 'fortran_order': 7, 'shape': 3}", "9" * 5000, "'''", "\\", "-" * 3000 + "1",
    "{'descr': '<M8[ns]', 'fortran_order': False, 'shape': (1,), }", "{}", "\x00", "é" * 20,
    "{'descr': '>f2', 'fortran_order': False, 'shape': (True,), }", "[" * 9000,
)  # fmt: skip


def mutate_npy(rng, content):
    """An .npy file, damaged anywhere or in its header, whose length then fits."""
    if rng.random() < 0.6:
        return mutate(rng, content)
    header = rng.choice(HEADERS).encode("latin1") + b"\n"
    version = rng.choice((1, 1, 2, 3))
    length = struct.pack("<H", len(header)) if version == 1 else struct.pack("<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + bytes(rng.choice((0, 12, 13)))
