"""Ways to damage inputs: bytes, JSON, checkpoints' objects, archives.

A mutation is a few plain numbers drawn by Hypothesis: what to do, where (a fraction of the
whole) and with what (an index into a list of hostile values). It can therefore shrink, and the
same numbers give the same mutation.
"""

from __future__ import annotations

import argparse
import copy
import datetime as dt
import io
import json
import pathlib
import pickle
import warnings
import zipfile
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from hypothesis import strategies as st

HOSTILE_TEXTS = (
    "",
    " ",
    "x" * 5000,
    "\x1b[2J\x1b]0;owned\x07",
    "\r\nall fine",
    "\x9b31m",
    "\u202egnp.exe",
    "\u2066\u200b\ufeff",
    "\u2028",
    "[/x]",
    "[red]",
    ":smile:",
    "$\\frac{1}{0}$",
    "%s%n{0}{x}",
    "../../etc/passwd",
    "/dev/zero",
    "\x00",
    "\ud800",
    "-",
    "--json",
    "nan",
    "1e999999999",
    "-1e-999999999",
    "0-16777214",
    "0-9999999999999999999",
    "os:system",
    "builtins:eval",
    "timm:hf-hub:a/b",
    "resnet18",
    "\u0661\u0662",
    "float[1,3,8,8]",
    "int64[99999999,99999999]",
)

HOSTILE_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    2**16,
    2**31 - 1,
    2**31,
    2**53 + 1,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    10**400,
    -(2**63) - 1,
    0.5,
    -0.0,
    1e-320,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    True,
    False,
)


def nested(depth, make):
    value = make()
    for _ in range(depth):
        value = [value]
    return value


HOSTILE_VALUES = (
    None,
    [],
    {},
    [None] * 1000,
    {"": None},
    nested(60, dict),
    nested(200, list),
    *HOSTILE_TEXTS,
    *HOSTILE_NUMBERS,
)


@dataclass(frozen=True)
class Mutation:
    """The numbers that tell what to do, where and with what."""

    kind: int
    where: float
    what: int

    def at(self, length):
        return min(int(self.where * length), max(0, length - 1))

    def pick(self, items):
        return items[self.what % len(items)]


MUTATIONS = st.lists(
    st.builds(
        Mutation,
        st.integers(0, 1023),
        st.floats(0, 1, allow_nan=False),
        st.integers(0, 1 << 20),
    ),
    min_size=1,
    max_size=4,
)


# Bytes


def _flip(data, m):
    at = m.at(len(data))
    return data[:at] + bytes([data[at] ^ (1 << m.what % 8)]) + data[at + 1 :] if data else b"\0"


def _overwrite(data, m):
    at = m.at(len(data))
    words = (b"\0" * 8, b"\xff" * 8, b"\x7f" + b"\xff" * 7, (1 << 62).to_bytes(8, "little"), b"{")
    return data[:at] + m.pick(words) + data[at + 8 :]


def _cut(data, m):
    return data[: m.at(len(data))]


def _remove(data, m):
    at = m.at(len(data))
    return data[:at] + data[at + 1 + m.what % 64 :]


def _repeat(data, m):
    at, length = m.at(len(data)), 1 + m.what % 256
    return data[:at] + data[at : at + length] * (2 + m.what % 5) + data[at + length :]


def _insert(data, m):
    at = m.at(len(data))
    text = str(m.pick(HOSTILE_TEXTS)).encode("utf-8", "surrogatepass")
    return data[:at] + text + data[at:]


def _append(data, m):
    return data + bytes(m.what % 300)


def _nest(data, m):
    at = m.at(len(data))
    return data[:at] + m.pick((b"[", b'{"a":', b"(", b"}q\0", b"]")) * 5000 + data[at:]


BYTE_MUTATIONS = (_flip, _overwrite, _cut, _remove, _repeat, _insert, _append, _nest)


def mutated_bytes(data, mutations):
    for m in mutations:
        data = BYTE_MUTATIONS[m.kind % len(BYTE_MUTATIONS)](data, m)
    return data


# JSON


def _nodes(content, path=()):
    """Return the paths of all values in the content."""
    yield path
    if isinstance(content, dict):
        for key in content:
            yield from _nodes(content[key], (*path, key))
    elif isinstance(content, list):
        for index, item in enumerate(content):
            yield from _nodes(item, (*path, index))


def _put(content, path, value):
    if not path:
        return value
    target = content
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = value
    return content


def _get(content, path):
    for step in path:
        content = content[step]
    return content


def mutated_json(content, mutations):
    content = copy.deepcopy(content)
    for m in mutations:
        paths = list(_nodes(content))
        path = paths[m.at(len(paths))]
        kind = m.kind % 6
        if kind <= 2:
            content = _put(content, path, copy.deepcopy(m.pick(HOSTILE_VALUES)))
        elif kind == 3 and path:
            owner = _get(content, path[:-1])
            del owner[path[-1]]
        elif kind == 4:
            owner = _get(content, path)
            if isinstance(owner, dict):
                owner[str(m.pick(HOSTILE_TEXTS))] = m.pick(HOSTILE_NUMBERS)
            elif isinstance(owner, list):
                owner.extend(copy.deepcopy(owner[:5]) * 3)
        else:
            other = _get(content, paths[m.what % len(paths)])
            content = _put(content, path, copy.deepcopy(other))
    return content


def dumped(content):
    """Return JSON text, even of values that JSON does not have."""
    return json.dumps(content).encode("utf-8", "surrogatepass")


def mutated_json_bytes(data, mutations):
    """Damage JSON, and half of the time also the bytes of its text."""
    first, rest = mutations[0], mutations[1:]
    text = dumped(mutated_json(json.loads(data), mutations))
    return mutated_bytes(text, rest) if first.kind & 512 and rest else text


# Checkpoints' objects


class Unknown:
    """Pickled by reference to this module: nothing that a checkpoint may hold."""


@cache
def hostile_tensors():
    """Return tensors that no network's state holds, or not under such a name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of their kinds are deprecated
        return tuple(_hostile_tensors())


def _hostile_tensors():
    yield torch.zeros(3)
    yield torch.zeros(())
    yield torch.zeros(0, 4)
    yield torch.full((32, 1, 3, 3), float("nan"))
    yield torch.full((32, 1, 3, 3), 1e38)
    yield torch.zeros(32, 1, 3, 3)
    yield torch.zeros(1, 1).expand(10**8, 64)
    yield torch.zeros(1).expand(10**9)
    yield torch.ones(32, 1, 3, 3, dtype=torch.float64) * 1e-200
    yield torch.ones(32, 1, 3, 3, dtype=torch.float64) * 1e200
    yield torch.ones(32, 1, 3, 3, dtype=torch.bfloat16)
    yield torch.ones(32, 1, 3, 3).to(torch.float8_e4m3fn)
    yield torch.ones(32, 1, 3, 3, dtype=torch.cfloat)
    yield torch.ones(32, 1, 3, 3, dtype=torch.int8)
    yield torch.ones(32, 1, 3, 3, dtype=torch.bool)
    yield torch.ones(4, 4).to_sparse()
    yield torch.quantize_per_tensor(torch.ones(4, 4), 0.1, 0, torch.qint8)
    yield torch.ones(8, 8)[::2, ::3]
    yield torch.nn.Parameter(torch.ones(2, 2))
    yield torch.empty(5, device="meta")


@cache
def hostile_objects():
    """Return objects that training scripts save beside tensors, and objects that none should."""
    return tuple(_hostile_objects())


def _hostile_objects():
    loop = {}
    loop["a"] = loop
    yield from (loop, nested(2000, dict), Unknown(), Unknown, object, print, 3 + 4j, {1, 2}, b"\0")
    yield from (
        argparse.Namespace(a=1),
        pathlib.PurePosixPath("a"),
        dt.datetime(2020, 1, 1, tzinfo=dt.UTC),
    )
    yield from (OrderedDict(a=1), defaultdict(list), np.float32(3), np.random.RandomState(0))
    for kind in ("u2", "u4", "u8", "c8", "S3", "U3", "?", "O", "M8[s]", ">f4", "f2"):
        yield np.zeros(3, np.dtype(kind))
    yield np.zeros(3, np.dtype([("a", "f4"), ("b", "i2")]))
    double = ()
    for _ in range(25):
        double = (double, double)
    yield double


def mutated_object(content, mutations):
    content = copy.copy(content)
    for m in mutations:
        names = list(content)
        name = names[m.at(len(names))] if names else "a"
        kind = m.kind % 8
        if kind <= 1:
            content[name] = m.pick(hostile_tensors())
        elif kind == 2:
            content[name] = m.pick(hostile_objects())
        elif kind == 3:
            content[m.pick(HOSTILE_TEXTS)] = m.pick(hostile_objects())
        elif kind == 4:
            content[f"{name}{m.pick(HOSTILE_TEXTS)}"] = content.pop(name, 0)
        elif kind == 5:
            content.pop(name, None)
        elif kind == 6:
            content = {m.pick(("state_dict", "model", "a", 7, None)): content, "epoch": 3}
        else:
            content[m.pick((7, None, True, (1, 2), "module.x"))] = content.get(name)
    return content


def saved(content, m):
    """Save in one of the ways for checkpoints; None if the content cannot be saved so."""
    file = io.BytesIO()
    try:
        if m.kind & 3 == 3:
            pickle.dump(content, file, protocol=m.what % 6)
        else:
            torch.save(
                content,
                file,
                _use_new_zipfile_serialization=m.kind & 3 != 0,
                pickle_protocol=(2, 2, 3, 4, 5)[m.what % 5],
            )
    except Exception:  # noqa: BLE001 - not everything can be saved in every way
        return None
    return file.getvalue()


# Archives


def mutated_archive(data, mutations):
    """Damage an entry of a zip archive, or its list of entries."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    first = mutations[0]
    at = first.at(len(entries))
    name, content = entries[at]
    kind = first.kind % 5
    if kind <= 1:
        at = next(i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl"))
        entries[at] = entries[at][0], mutated_bytes(entries[at][1], mutations)
    elif kind == 2:
        entries[at] = name, mutated_bytes(content, mutations)
    elif kind == 3:
        del entries[at]
    else:
        entries[at] = name + str(first.pick(HOSTILE_TEXTS)).replace("\ud800", ""), content
    file = io.BytesIO()
    packed = zipfile.ZIP_DEFLATED if first.kind & 64 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", packed) as archive:
        for name, content in entries:
            archive.writestr(name or "a", content)
    return file.getvalue()


def mutated_safetensors(data, mutations):
    """Damage a safetensors file's header, which stays JSON of the right length."""
    length = int.from_bytes(data[:8], "little")
    header = mutated_json(json.loads(data[8 : 8 + length]), mutations)
    text = dumped(header)
    claimed = len(text) + (mutations[0].what % 3 - 1 if mutations[0].kind & 256 else 0)
    return claimed.to_bytes(8, "little") + text + data[8 + length :]
