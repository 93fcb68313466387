"""The interpreter of pickles: equal values for harmless ones, nothing run or hung for others."""

from __future__ import annotations

import argparse
import collections
import datetime as dt
import fractions
import io
import pathlib
import pickle
import pickletools
import struct
import types
import uuid
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import nn

from alds_cli.checkpoint import pickles, read_checkpoint
from alds_cli.checkpoint.files import MalformedError, NeedsCodeError
from alds_cli.checkpoint.pickle_items import Opaque
from alds_cli.checkpoint.torch_files import read_archive, read_pickle
from alds_cli.errors import CheckpointError, UnsafeCheckpointError

PROTOCOLS = [2, 3, 4, 5]

TOUCHED = []


def canary(*arguments):
    """What no file may get called."""
    TOUCHED.append(arguments)
    return {}


class Canary:
    def __reduce__(self):
        return canary, (1,)

    def __setstate__(self, state):
        TOUCHED.append(state)


@pytest.fixture(autouse=True)
def untouched():
    TOUCHED.clear()
    yield
    assert not TOUCHED


def state():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)).state_dict()


def require_same(found, expected):
    assert list(found) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(found[name], torch.as_tensor(tensor)), name


def read_bytes(content, tmp_path):
    path = tmp_path / "file.pkl"
    path.write_bytes(content)
    return read_pickle(path)


def legacy(pickled):
    """A file as PyTorch wrote them before 1.6, around a pickle of anything."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2}}
    head = [pickle.dumps(part, 2) for part in (0x1950A86A20F9469CFC6C, 1001, machine)]
    return b"".join([*head, pickled, pickle.dumps([], 2)])


def archive(pickled, path, **options):
    with zipfile.ZipFile(path, "w", **options) as written:
        written.writestr("a/data.pkl", pickled)
        written.writestr("a/version", b"3\n")


# --- harmless values come back equal

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
KEYS = st.text(max_size=5) | st.integers(-(2**60), 2**60) | st.booleans() | st.none()
VALUES = st.recursive(
    SCALARS | st.binary(max_size=9).map(bytearray) | st.sets(KEYS) | st.frozensets(KEYS),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(KEYS, inner, max_size=3).map(collections.OrderedDict)
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(VALUES, st.sampled_from(PROTOCOLS), st.booleans())
def test_plain_values_come_back_equal(tmp_path_factory, value, protocol, twice):
    value = [value, value] if twice else value
    found = read_bytes(pickle.dumps(value, protocol), tmp_path_factory.getbasetemp())
    assert repr(plain(found)) == repr(plain(value))


def plain(value):
    """Ordered dictionaries are read as dictionaries, which keep their order; sets have none."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return type(value), sorted(map(repr, value))
    if isinstance(value, (list, tuple)):
        return type(value)(map(plain, value))
    return value


KINDS = ("b1", "i1", "i2", "i4", "i8", "u2", "u4", "u8", "f2", "f4", "f8", "c8")
NUMBERS = st.sampled_from([f"{order}{kind}" for order in "<>" for kind in KINDS])


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(PROTOCOLS), st.sampled_from("CF"))
def test_numpy_arrays_come_back_equal(tmp_path_factory, data, protocol, order):
    kind = np.dtype(data.draw(NUMBERS))
    shape = data.draw(hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    array = np.asarray(data.draw(hnp.arrays(kind, shape)), order=order)
    found = read_bytes(pickle.dumps([array], protocol), tmp_path_factory.getbasetemp())[0]
    assert found.dtype == kind.newbyteorder("=")
    assert found.shape == array.shape
    assert found.astype(kind).tobytes() == array.tobytes()


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "kind", [*KINDS, "u1", "c16", ">i4", ">f8", "g", "S3", "U5", "M8[ns]", "m8[s]"]
)
def test_numpy_of_every_plain_kind_stands_beside_a_state_dict(kind, protocol, tmp_path):
    array = np.zeros(3, kind)
    content = {"model": state(), "history": array, "best": array[0], "random": ("MT19937", array)}
    path = tmp_path / "model.pt"
    torch.save(content, path, pickle_protocol=protocol)
    require_same(read_checkpoint(path).tensors, state())
    path.write_bytes(pickle.dumps({**content, "model": numpy_state()}, protocol))
    require_same(read_checkpoint(path).tensors, state())


def numpy_state():
    return {name: tensor.numpy() for name, tensor in state().items()}


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("size", [3, 100_000])
def test_arrays_of_any_size_are_read_as_tensors(protocol, size, tmp_path):
    content = {
        "weight": np.arange(size, dtype=np.float32),
        "turned": np.arange(12.0).reshape(3, 4).T,
        "backwards": np.arange(5, dtype=np.int16)[::-1],
        "steps": np.int64(7),
    }
    path = tmp_path / "model.pkl"
    path.write_bytes(pickle.dumps({"blobs": content}, protocol))
    found = read_checkpoint(path).tensors
    for name, array in content.items():
        assert np.array_equal(found[name].numpy(), array), name
        found[name].zero_()  # memory of its own, and not shared


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.bool,
        torch.uint16,
        torch.float8_e4m3fn,
        torch.complex64,
    ],
)
def test_tensors_by_every_protocol(dtype, form, protocol, tmp_path):
    weight = torch.arange(12).reshape(3, 4).to(dtype)
    content = {
        "weight": weight,
        "turned": weight.t(),
        "row": weight[1],
        "parameter": nn.Parameter(weight, requires_grad=False),
        "long": torch.zeros(50_000, dtype=dtype),
        "empty": torch.empty(0, 3, dtype=dtype),
    }
    path = tmp_path / "model.pt"
    if form == "plain":
        if dtype in {torch.uint16, torch.float8_e4m3fn}:
            pytest.skip("PyTorch pickles no such storage without a file")
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        zipped = form == "zip"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    found = read_checkpoint(path).tensors
    assert list(found) == list(content)
    for name, tensor in content.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name].to(torch.complex64), tensor.to(torch.complex64)), name
    if form != "plain":
        assert found["row"].untyped_storage().data_ptr() == found["weight"].data_ptr()


HARMLESS = [
    argparse.Namespace(lr=0.1, inner=argparse.Namespace(x=[1])),
    types.SimpleNamespace(a=1),
    collections.OrderedDict(a=1),
    collections.defaultdict(list, a=[1]),
    collections.defaultdict(dict),
    collections.Counter("aab"),
    collections.deque([1, 2], maxlen=3),
    pathlib.PurePosixPath("a/b"),
    pathlib.PureWindowsPath("a"),
    pathlib.Path("a"),
    dt.datetime(2020, 1, 2, tzinfo=dt.UTC),
    dt.date(2020, 1, 2),
    dt.timedelta(1),
    fractions.Fraction(1, 3),
    uuid.UUID(int=5),
    range(3),
    slice(1, 2),
    1j,
    torch.float32,
    torch.device("cpu"),
    torch.Size([1, 2]),
    {(1, "a"): 1, frozenset([1]): 2, 3.5: 3},
    {torch.float32: 1},
]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", HARMLESS, ids=lambda value: type(value).__name__)
def test_harmless_objects_stand_beside_a_state_dict(value, protocol, tmp_path):
    content = {"model": state(), "extra": value, "again": [value]}
    path = tmp_path / "model.pt"
    torch.save(content, path, pickle_protocol=protocol)
    require_same(read_checkpoint(path).tensors, state())


def python2_pickle():
    """As cPickle of Python 2 writes a dictionary of an array: 8-bit strings for names and data."""
    array = np.arange(3, dtype="<f4")
    name, data = b"caf\xe9.weight", array.tobytes()
    return (
        b"\x80\x02}U\x05blobs}"
         b"U" + bytes([len(name)]) + name
        + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        + b"(K\x01K\x03\x85cnumpy\ndtype\nU\x02f4K\x00K\x01\x87R"
        + b"(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + b"T" + struct.pack("<i", len(data)) + data + b"tbss."
    )  # fmt: skip


def test_pickles_of_python_2(tmp_path):
    path = tmp_path / "model.pkl"
    path.write_bytes(python2_pickle())
    found = read_checkpoint(path).tensors
    assert {name: tensor.tolist() for name, tensor in found.items()} == {
        "café.weight": [0.0, 1.0, 2.0]
    }


# --- what is refused


class Structured:
    """A NumPy dtype that gives itself fields outside of its size."""

    def __reduce__(self):
        fields = {"a": (np.dtype("f8"), -8)}
        return np.dtype, ("b1", False, True), (4, "|", None, ("a",), fields, 1 << 30, 1, 63)


class WithDtype:
    def __init__(self, dtype):
        self.dtype = dtype

    def __reduce__(self):
        make = np.zeros(1).__reduce__()[0]
        return make, (np.ndarray, (0,), b"b"), (1, (4,), self.dtype, False, b"abcd")


def as_pickle(value):
    return pickle.dumps({"history": value}, 2)


@pytest.mark.parametrize(
    ("pickled", "complaint"),
    [
        (as_pickle(WithDtype(Structured())), "fields"),
        (as_pickle(np.zeros(2, "i4,f8")), "not a plain one|fields"),
        (as_pickle(np.array([None])), "Python objects|not a plain one"),
        (as_pickle(np.zeros(2, "V8")), "not a plain one"),
        (as_pickle(Canary()), "canary"),
        (as_pickle(canary), "canary"),
        (as_pickle(Canary), "Canary"),
        (b"\x80\x02cos\nsystem\nX\x04\0\0\0true\x85R.", r"os\.system"),
        (b"\x80\x02cbuiltins\ngetattr\n)R.", "getattr"),
        (b"\x80\x02cnumpy\nndarray\nJ\0\x84\xd7\x17\x85R.", "ndarray"),
        (b"\x80\x02(icollections\nnamedtuple\n.", "namedtuple"),
        (b"\x80\x02(S'a'\n.", "operation"),
    ],
    ids=range(12),
)
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_what_needs_code_is_refused_by_name(pickled, complaint, form, tmp_path):
    path = tmp_path / "model.pt"
    if form == "zip":
        archive(pickled, path)
    else:
        path.write_bytes(legacy(pickled) if form == "legacy" else pickled)
    with pytest.raises(UnsafeCheckpointError, match=complaint) as caught:
        read_checkpoint(path)
    assert "--allow-pickle" in caught.value.tip
    assert "weights_only" not in caught.value.message


class Wrapped(dict):
    """A class of the user's own, whose pickle needs it."""


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_code_that_the_user_allows(form, protocol, tmp_path):
    path = tmp_path / "model.pt"
    content = {"model": Wrapped(numpy_state() if form == "plain" else state())}
    if form == "plain":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        zipped = form == "zip"
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafeCheckpointError, match="Wrapped"):
        read_checkpoint(path)
    require_same(read_checkpoint(path, allow_pickle=True).tensors, state())


def doubled(item, pairing, levels=45):
    """A container of twice the same one, and so on: values double with every few bytes."""
    content = b"\x80\x02" + item + b"q\x00"
    for level in range(levels):
        content += pairing(b"h" + bytes([level])) + b"q" + bytes([level + 1])
    return content


def in_dict(get):
    return b"}X\1\0\0\0a" + get + b"sX\1\0\0\0b" + get + b"s"


NESTED = [
    (doubled(b"}", in_dict) + b".", "the same again"),
    (doubled(b")", lambda get: get + get + b"\x86") + b".", "the same again"),
    (doubled(b"]", lambda get: b"](" + get + get + b"e") + b".", "the same again"),
    (b"\x80\x02" + b"}X\1\0\0\0a" * 5000 + b"}" + b"s" * 5000 + b".", "levels deep"),
    (b"\x80\x02" + b"]" * 5000 + b"a" * 4999 + b".", "levels deep"),
    (b"\x80\x02N" + b"\x85" * 5000 + b".", "levels deep"),
    (b"\x80\x02}q\x00X\1\0\0\0ah\x00s.", "contains itself"),
    (b"\x80\x02]q\x00h\x00a.", "contains itself"),
    (b"\x80\x02]q\x00h\x00\x85a.", "contains itself"),
    (b"\x80\x02" + b"N0" * 2_000_000 + b".", "steps"),
    (b"\x80\x02\x8b\xff\xff\xff\x7f.", "whole number"),
    (b"\x80\x02X\xff\xff\xff\x7f.", "too early"),
    (b"\x80\x04\x8e" + b"\xff" * 8 + b".", "too early"),
    (b"\x80\x09N.", "protocol 9"),
    (b"\x80\x02c_codecs\nencode\nX\1\0\0\0aX\x08\0\0\0punycode\x86R.", "encodes text"),
]


@pytest.mark.parametrize(("pickled", "complaint"), NESTED, ids=range(len(NESTED)))
@pytest.mark.parametrize("form", ["zip", "legacy", "plain"])
def test_what_would_take_for_ever_is_refused(pickled, complaint, form, tmp_path):
    path = tmp_path / "model.pt"
    if form == "zip":
        archive(pickled, path)
    else:
        path.write_bytes(legacy(pickled) if form == "legacy" else pickled)
    with pytest.raises(CheckpointError, match=complaint):
        read_checkpoint(path)


def test_a_key_of_doubled_tuples_costs_nothing(tmp_path):
    pickled = doubled(b")", lambda get: get + get + b"\x86") + b"}h\x2dK\x01s."
    found = read_bytes(pickled, tmp_path)
    assert [str(key) for key in found] == ["a key of type tuple"]


def test_keys_that_collide_cost_nothing(tmp_path):
    """Whole numbers that are multiples of Python's modulus all have the hash 0."""
    keys = [(2**61 - 1) * n for n in range(1, 6_000)]
    found = read_bytes(pickle.dumps(dict.fromkeys(keys, 1), 2), tmp_path)
    assert all(isinstance(key, Opaque) for key in found)


MEMO_BYTES = b"\x80\x02X" + struct.pack("<I", 60_000) + b"a" * 60_000 + b"q\x00"


@pytest.mark.parametrize(
    "once",
    [
        b"c_codecs\nencode\nh\x00X\6\0\0\0latin1\x86Ra",
        b"c__builtin__\nlist\nh\x01\x85Ra",
        b"ccollections\nCounter\nh\x02\x85Ra",
        b"c__builtin__\nset\nh\x01\x85Ra",
        b"ccollections\ndeque\nh\x01\x85Ra",
    ],
)
def test_copies_of_one_value_are_counted(once, tmp_path):
    listed = b"](" + b"K\x01" * 9000 + b"eq\x010"
    mapped = b"}(" + b"".join(b"M" + struct.pack("<H", n) + b"N" for n in range(9000)) + b"uq\x020"
    with pytest.raises(MalformedError, match="again and again"):
        read_bytes(MEMO_BYTES + b"0" + listed + mapped + b"]" + once * 9000 + b".", tmp_path)


def test_one_array_s_data_serve_once(tmp_path):
    """Each array has memory of its own, so all of them together have no more than the file."""
    data = np.zeros(100_000, np.uint8)
    make, arguments, (version, shape, kind, fortran, raw) = data.__reduce__()

    class Again:
        def __reduce__(self):
            return make, arguments, (version, shape, kind, fortran, raw)

    with pytest.raises(MalformedError, match="more data than its"):
        read_bytes(pickle.dumps([Again() for _ in range(50)], 4), tmp_path)


@pytest.mark.parametrize("count", [10**7, 10**9])
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_expanded_tensors_take_memory_by_the_file_s_size(count, form, tmp_path):
    path = tmp_path / "model.pt"
    content = {**state(), "wide": torch.zeros(1, 1).expand(count, 64)}
    torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=f"{path.stat().st_size:,}.*4 times"):
        read_checkpoint(path)


def test_small_expanded_and_tied_tensors_are_read(tmp_path):
    weight = torch.randn(64, 64)
    content = {f"layer{n}.weight": weight for n in range(500)}
    content["mask"] = torch.ones(1).expand(100, 100)
    path = tmp_path / "model.pt"
    torch.save(content, path)
    found = read_checkpoint(path).tensors
    require_same(found, content)
    assert len({found[f"layer{n}.weight"].data_ptr() for n in range(500)}) == 1


@pytest.mark.parametrize(
    ("storage", "arguments"),
    [
        (4, (0, (5,), (1,))),
        (4, (1, (4,), (1,))),
        (4, (0, (2, 2), (4, 1))),
        (4, (-1, (2,), (1,))),
        (4, (0, (2,), (-1,))),
        (4, (0, (-2,), (1,))),
        (4, (0, (2,), (1, 1))),
        (4, (0, (2.0,), (1,))),
        (4, (True, (2,), (1,))),
        (4, (0, (1 << 63, 0), (1, 1))),
        (4, (0, (1 << 62, 0), (1, 1))),
        (4, (0, (1,) * 99, (1,) * 99)),
        (1 << 40, (0, (2,), (1,))),
        (-4, (0, (2,), (1,))),
    ],
)
@pytest.mark.parametrize("form", ["zip", "legacy"])
def test_tensors_that_do_not_fit_their_storage(storage, arguments, form, tmp_path):
    class Kept:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, item):
            kind = torch.FloatStorage
            found = ("storage", kind, "0", "cpu", storage)
            legacy_tail = (None,) if form == "legacy" else ()
            return (*found, *legacy_tail) if isinstance(item, Kept) else None

        def reducer_override(self, item):
            if isinstance(item, Lying):
                hooks = collections.OrderedDict()
                return torch._utils._rebuild_tensor_v2, (Kept(), *arguments, False, hooks)
            return NotImplemented

    class Lying:
        pass

    buffer = io.BytesIO()
    Pickler(buffer, 2).dump({"w": Lying()})
    path = tmp_path / "model.pt"
    if form == "zip":
        archive(buffer.getvalue(), path)
        with zipfile.ZipFile(path, "a") as written:
            written.writestr("a/data/0", bytes(16))
    else:
        whole = legacy(buffer.getvalue()).removesuffix(pickle.dumps([], 2))
        path.write_bytes(whole + pickle.dumps(["0"], 2) + struct.pack("<q", 4) + bytes(16))
    with pytest.raises(CheckpointError):
        read_checkpoint(path)


# --- damage of any kind


def samples():
    content = {"model": state(), "array": np.arange(5.0), "when": dt.date(2020, 1, 1)}
    content |= {
        "canary": 1,
        "list": [1, (2, {"a": 3.5})],
        "bytes": b"abc",
        "path": pathlib.Path("a"),
    }
    plain_values = {**content, "model": numpy_state()}
    for protocol in PROTOCOLS:
        yield pickle.dumps(plain_values, protocol)
        yield pickle.dumps(content, protocol)
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    yield buffer.getvalue()


SAMPLES = list(samples())
CANARY_CALL = f"c{__name__}\ncanary\n)R".encode()
OPERATIONS = [op.code.encode("latin-1") for op in pickletools.opcodes]
SPLICES = st.sampled_from([*OPERATIONS, CANARY_CALL, b"h\x00", b"r\xff\xff\xff\x7f", b"(", b"t"])


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("value", [torch.zeros(2), np.zeros(2), True, 2.5, None, [], {}])
def test_anything_may_stand_where_a_number_is_expected(tmp_path, value, protocol):
    path = tmp_path / "odd.pt"
    odd = pickle.dumps(value, protocol)
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol)
    for content in (odd, magic + odd + pickle.dumps({"little_endian": True}, protocol)):
        path.write_bytes(content)
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(SAMPLES), st.data())
def test_mutated_pickles_are_read_or_refused(tmp_path_factory, sample, data):
    """Bytes changed, operations put in, pieces taken out or repeated: an answer, and no code."""
    content = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        end = place + data.draw(st.integers(0, 12))
        match data.draw(st.sampled_from(["change", "put in", "take out", "repeat"])):
            case "change":
                content[place:end] = data.draw(st.binary(min_size=1, max_size=8))
            case "put in":
                content[place:place] = data.draw(SPLICES)
            case "take out":
                del content[place:end]
            case _:
                content[place:place] = content[place:end] * data.draw(st.integers(1, 3))
    path = tmp_path_factory.getbasetemp() / "mutated.pt"
    path.write_bytes(bytes(content))
    try:
        found = read_checkpoint(path)
    except CheckpointError:
        return
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.tensors.values())


@settings(max_examples=200, deadline=None)
@given(st.lists(SPLICES | st.binary(max_size=6), max_size=40))
def test_random_programs_are_read_or_refused(tmp_path_factory, pieces):
    path = tmp_path_factory.getbasetemp() / "program.pt"
    for content in (b"\x80\x04" + b"".join(pieces) + b".", legacy(b"".join(pieces) + b".")):
        path.write_bytes(content)
        try:
            read_checkpoint(path)
        except CheckpointError:
            continue


def test_every_operation_is_known_or_named(tmp_path):
    """Of what Python can pickle in protocols 2 to 5 nothing is missing."""
    known = set(pickles._OPERATIONS) | {b"."}
    modern = {op.code.encode("latin-1") for op in pickletools.opcodes if op.proto >= 1}
    extensions_and_buffers = {b"\x82", b"\x83", b"\x84", b"\x97", b"\x98", b"P"}
    assert modern - known == extensions_and_buffers - {b"P"}
    for code in extensions_and_buffers:
        with pytest.raises((NeedsCodeError, MalformedError)):
            read_bytes(b"\x80\x02N" + code + b"\0\0\0\0.", tmp_path)


def test_archives_without_a_pickle_of_their_own(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as written:
        written.writestr("x/data.pkl.txt", b"")
    with pytest.raises(MalformedError, match=r"lacks its member data\.pkl"):
        read_archive(tmp_path / "a.zip")
