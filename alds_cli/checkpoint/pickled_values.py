"""What the names in a checkpoint's pickle stand for: tensors, NumPy arrays, harmless values.

The whole list is here. A name that is not on it is Python code, and only refused; nothing is ever
imported or looked up by a name that a file gives.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, UntypedStorage

from alds_cli.checkpoint.pickles import (
    Blob,
    ByteText,
    MalformedError,
    NeedsCodeError,
    Opaque,
    Reference,
    Unfinished,
    as_key,
)

_ALLOWANCE = 16 << 20
_EXPANSION = 4
"""Tensors may take so many times the file's size, and the allowance, where they share data."""

_MOST_DIMENSIONS = 64

_LATIN = {"latin1", "latin-1", "iso-8859-1"}

_STORAGE_TYPES = {
    f"torch.{name}Storage": dtype
    for name, dtype in {
        "Double": torch.float64,
        "Float": torch.float32,
        "Half": torch.float16,
        "BFloat16": torch.bfloat16,
        "Long": torch.int64,
        "Int": torch.int32,
        "Short": torch.int16,
        "Char": torch.int8,
        "Byte": torch.uint8,
        "Bool": torch.bool,
        "ComplexDouble": torch.complex128,
        "ComplexFloat": torch.complex64,
        "QInt8": torch.qint8,
        "QInt32": torch.qint32,
        "QUInt8": torch.quint8,
        "QUInt4x2": torch.quint4x2,
        "QUInt2x4": torch.quint2x4,
    }.items()
}
_STORAGE_TYPES |= {name.replace("torch.", "torch.cuda."): d for name, d in _STORAGE_TYPES.items()}
_UNTYPED = {"torch.storage.UntypedStorage", "torch.UntypedStorage"}

_DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

_HARMLESS = {
    "argparse.Namespace",
    "builtins.object",
    "builtins.range",
    "builtins.slice",
    "datetime.date",
    "datetime.datetime",
    "datetime.time",
    "datetime.timedelta",
    "datetime.timezone",
    "decimal.Decimal",
    "fractions.Fraction",
    "torch.Generator",
    "torch.device",
    "types.SimpleNamespace",
    "uuid.UUID",
    *(
        f"{module}.{kind}"
        for module in ("pathlib", "pathlib._local")
        for kind in (
            "Path",
            "PosixPath",
            "WindowsPath",
            "PurePath",
            "PurePosixPath",
            "PureWindowsPath",
        )
    ),
}
"""Plain objects of the standard library and of torch; they are noted, and not even made."""

_ONLY_NAMED = {
    "builtins.bool",
    "builtins.float",
    "builtins.int",
    "builtins.str",
    "numpy.ndarray",
    "torch.Tensor",
    "torch.nn.parameter.Buffer",
    "torch.nn.parameter.Parameter",
    "torch.per_channel_affine",
    "torch.per_channel_affine_float_qparams",
    "torch.per_channel_symmetric",
    "torch.per_tensor_affine",
    "torch.per_tensor_symmetric",
}
"""What values may refer to, for instance a defaultdict's `int`."""

_ARRAY_TYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[SUMm]\d{0,9})")


class Storage(Unfinished):
    """A tensor's storage, whose bytes come from elsewhere in the file.

    Attributes:
        data: the bytes, filled when the pickle has been judged.
        dtype: of its elements; None where each tensor says.
        start: the first byte that this view of it shows.
    """

    def __init__(self, data: UntypedStorage, dtype: torch.dtype | None, start: int = 0) -> None:
        self.data = data
        self.dtype = dtype
        self.start = start

    def finish(self) -> object:
        """Nobody has a use for one without a tensor."""
        return Opaque("a storage")


class ArrayType:
    """A NumPy dtype of a plain kind, as far as the pickle has described it."""

    def __init__(self, text: str) -> None:
        self._text = text.lstrip("<>|=")
        self._order = text[0] if text[0] in "<>" else "="

    def describe(self, state: object) -> None:
        """Take over the byte order, and refuse fields, subarrays and Python objects."""
        if not isinstance(state, tuple) or len(state) < 5 or state[1] not in set("<>|="):
            raise MalformedError("a NumPy type in it is damaged")
        if state[2:5] != (None, None, None):
            raise NeedsCodeError("it holds a NumPy array with fields")
        self._order = "=" if state[1] == "|" else state[1]

    @property
    def plain(self) -> np.dtype[Any] | None:
        """The numbers' dtype; None for text, dates, and what this machine has not."""
        if self._text[0] in "SUMm":
            return None
        try:
            return np.dtype(self._order + self._text)
        except TypeError:
            return None


class Array(Unfinished):
    """A NumPy array that is described in one step and filled in another."""

    def __init__(self) -> None:
        self._type: np.dtype[Any] | None = None
        self._shape: tuple[int, ...] = ()
        self._order: Any = "C"
        self._content: object = b""
        self._value: object = None

    def describe(self, kind: np.dtype[Any] | None, shape: tuple[int, ...], order: str) -> None:
        """Note what the array is; a type of None is no numbers."""
        self._type, self._shape, self._order = kind, shape, order

    def fill(self, content: object) -> None:
        """Note what it holds."""
        self._content = content

    def finish(self) -> object:
        """The array in memory of its own; text and dates are not looked at."""
        if self._value is None:
            self._value = self._made() if self._type else Opaque("a NumPy array without numbers")
        return self._value

    def _made(self) -> NDArray[Any]:
        assert self._type is not None  # noqa: S101 - for the type checker
        flat = np.empty(math.prod(self._shape), self._type)
        copy_into(self._content, flat.view(np.uint8).data)
        native = flat.astype(self._type.newbyteorder("="), copy=False)
        return native.reshape(self._shape, order=self._order)


class Deferred(Unfinished):
    """A tensor that is made when its parts have their data."""

    def __init__(self, make: Callable[[], Tensor], otherwise: str) -> None:
        self._make = make
        self._otherwise = otherwise
        self._value: object = None

    def finish(self) -> object:
        """The tensor, or a note that its parts are not sound."""
        if self._value is None:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that a layout is new is not the user's
                    self._value = self._make()
            except (RuntimeError, TypeError, ValueError):
                self._value = Opaque(self._otherwise, tensor=True)
        return self._value


class StorageSource(Protocol):
    """Where the data of the tensors in a pickle are."""

    def named(
        self, key: str, count: int, dtype: torch.dtype | None, values: PickledValues
    ) -> UntypedStorage:
        """The storage of that key with so many elements (bytes, without a dtype), to be filled."""

    def nested(self, content: object, values: PickledValues) -> object:
        """The storage that bytes within the pickle hold."""


class Limits:
    """What the pickles of one file may ask for; all of it follows from the file's size."""

    def __init__(self, nbytes: int, data: int | None = None) -> None:
        """Start counting.

        Args:
            nbytes: the file's size.
            data: bytes of what is unpacked from it, where it is packed.
        """
        self.nbytes = nbytes
        self._data_left = self._copies_left = nbytes if data is None else data
        self._views_left = _EXPANSION * nbytes + _ALLOWANCE
        self._views: set[tuple[object, ...]] = set()

    def claim_data(self, count: int) -> None:
        """Count bytes that the file says it holds; there cannot be more than the file has."""
        self._data_left -= count
        if self._data_left < 0:
            raise MalformedError(f"it asks for more data than its {self.nbytes:,} bytes can hold")

    def claim_copies(self, count: int) -> None:
        """Count what is copied from one form into another; a file holds each but once."""
        self._copies_left -= count
        if self._copies_left < 0:
            raise MalformedError("its pickle copies the same content again and again")

    def claim_view(
        self, shape: Sequence[int], itemsize: int, place: tuple[object, ...] | None
    ) -> None:
        """Count a tensor's memory, once for each distinct part of a storage.

        Tensors that show the same elements again and again make little of a large network.
        """
        if place in self._views:
            return
        if place is not None:
            self._views.add(place)
        needed = itemsize * math.prod(max(1, size) for size in shape)
        self._views_left -= needed
        if self._views_left < 0:
            raise MalformedError(
                f"a tensor of shape {_shown(shape)} in it takes {needed:,} bytes, but the file has "
                f"{self.nbytes:,}; its tensors may take {_EXPANSION} times the file's size and "
                f"{_ALLOWANCE >> 20} MiB"
            )


class PickledValues:
    """The interpretation of one pickle, and of those within it.

    Attributes:
        limits: shared by all pickles of a file.
        code: the names of Python code that the pickles would have run.
    """

    def __init__(
        self, limits: Limits, storages: StorageSource, code: list[str] | None = None
    ) -> None:
        """Start with what other pickles of the file have found, or with nothing.

        Args:
            limits: what may be asked for.
            storages: where the tensors' data are.
            code: the list of names to add to.
        """
        self.limits = limits
        self.code: list[str] = [] if code is None else code
        self._storages = storages

    # --- the interpretation that `pickles.interpret` asks for

    def refer(self, name: str) -> object:
        """The reference, or a note of code."""
        name = re.sub(r"^__builtin__\.x?", "builtins.", name)
        name = re.sub(r"^(_?copy_?reg)\.", "copyreg.", name)
        name = name.replace("numpy._core.", "numpy.core.")
        if name in _DTYPES or name in _KNOWN:
            return Reference(name)
        return self._foreign(name)

    def call(self, function: object, arguments: object) -> object:
        """The value that a known function would give."""
        if isinstance(function, Opaque):
            return function  # refused at the end, with all the names
        if not isinstance(function, Reference) or not isinstance(arguments, tuple):
            raise MalformedError("its pickle is damaged: it calls what is no function")
        if function.name in _HARMLESS:
            return Opaque(f"a {function.name}")
        maker = _CALLS.get(function.name)
        if maker is None:
            return self._foreign(function.name)
        try:
            return maker(self, *arguments)
        except (TypeError, IndexError, ValueError, RuntimeError) as error:
            if isinstance(error, (MalformedError, NeedsCodeError)):
                raise
            raise MalformedError(f"its pickle gives {function.name} what it cannot take") from error

    def build(self, value: object, state: object) -> object:
        """The value with its state, where that says more than attributes nobody needs."""
        if isinstance(value, ArrayType):
            value.describe(state)
        elif isinstance(value, Array):
            self._fill(value, state)
        elif not isinstance(value, (Opaque, dict, Tensor, Deferred)):
            raise MalformedError("its pickle gives a state to what has none")
        return value

    def persistent(self, identifier: object) -> object:
        """The storage of that name."""
        if isinstance(identifier, tuple) and len(identifier) > 1 and identifier[0] == "module":
            return identifier[1]  # a class, with its source: old files have it for modules
        if (
            not isinstance(identifier, tuple)
            or len(identifier) not in {5, 6}
            or identifier[0] != "storage"
        ):
            raise MalformedError("its pickle refers to data outside that are no tensor's")
        kind, key, _device, count = identifier[1:5]
        if isinstance(kind, Opaque):
            return kind
        known = isinstance(kind, Reference) and kind.name in {*_STORAGE_TYPES, *_UNTYPED}
        _require(known and isinstance(key, (str, int)), "a storage in it is damaged")
        _require(type(count) is int and count >= 0, "a storage in it is damaged")
        dtype = _STORAGE_TYPES.get(kind.name)
        data = self._storages.named(str(key), count, dtype, self)
        view = identifier[5] if len(identifier) == 6 else None
        if view is None or dtype is None:
            return Storage(data, dtype)
        _require(isinstance(view, tuple) and len(view) == 3, "a storage in it is damaged")
        start, size = sizes_of(view[1:])
        _require((start + size) * dtype.itemsize <= data.nbytes(), "a storage in it is damaged")
        return Storage(data, dtype, start * dtype.itemsize)

    def nested_storage(self, content: object) -> object:
        """A storage that was pickled with its bytes: a whole legacy file within the pickle."""
        return self._storages.nested(content, self)

    # --- pieces

    def _foreign(self, name: str) -> Opaque:
        if name not in self.code and len(self.code) < 100:
            self.code.append(name)
        return Opaque("Python code")

    def _fill(self, array: Array, state: object) -> None:
        if not isinstance(state, tuple) or len(state) not in {4, 5}:
            raise MalformedError("a NumPy array in it is damaged")
        shape, kind, fortran, content = state[-4:]
        self.fill_array(array, kind, shape, "F" if fortran else "C", content)

    def fill_array(
        self, array: Array, kind: object, shape: object, order: str, content: object
    ) -> None:
        """Give an array its type and data, as much as the shape says."""
        if isinstance(content, list) or not isinstance(kind, ArrayType):
            raise NeedsCodeError("it holds a NumPy array of Python objects")
        plain, sizes = kind.plain, sizes_of(shape)
        if plain is not None:
            self.limits.claim_data(math.prod(max(1, size) for size in sizes) * plain.itemsize)
        array.describe(plain, sizes, order)
        array.fill(content)


def sizes_of(value: object) -> tuple[int, ...]:
    """A shape or strides: whole numbers that are not negative."""
    if (
        not isinstance(value, (tuple, list))
        or len(value) > _MOST_DIMENSIONS
        or not all(type(size) is int and 0 <= size < 1 << 63 for size in value)
    ):
        raise MalformedError("the shape of a tensor in it is damaged")
    return tuple(value)


def copy_into(content: object, target: memoryview) -> None:
    """Copy data from a pickle to where they belong.

    Raises:
        MalformedError: they are not just as many as there is room for.
    """
    if isinstance(content, Blob) and content.kind != "text":
        try:
            content.read_into(target)
        except UnicodeError as error:
            raise MalformedError("the data of a NumPy array in it are damaged") from error
        return
    if isinstance(content, ByteText):
        content = content.raw
    if not isinstance(content, (bytes, bytearray)) or len(content) != len(target):
        raise MalformedError("a NumPy array in it has other data than its shape says")
    target[:] = content


def _shown(shape: Sequence[int]) -> str:
    return " × ".join(f"{size:,}" for size in shape) or "()"


# --- tensors


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise MalformedError(what)


def _dtype_of(value: object) -> torch.dtype:
    if isinstance(value, Reference) and value.name in _DTYPES:
        return _DTYPES[value.name]
    raise MalformedError("the type of a tensor in it is damaged")


def _view(
    values: PickledValues,
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    dtype: torch.dtype | None,
) -> object:
    """A tensor within a storage, all of whose elements the storage has."""
    if isinstance(storage, Opaque):
        return storage
    _require(isinstance(storage, Storage), "a tensor in it has no storage")
    assert isinstance(storage, Storage)  # noqa: S101 - for the type checker
    sizes, strides = sizes_of(shape), sizes_of(stride)
    dtype = dtype or storage.dtype
    _require(len(sizes) == len(strides), "the strides of a tensor in it are damaged")
    _require(type(offset) is int and offset >= 0, "the offset of a tensor in it is damaged")
    assert isinstance(offset, int)  # noqa: S101 - for the type checker
    _require(dtype is not None, "the type of a tensor in it is not known")
    assert dtype is not None  # noqa: S101 - for the type checker
    if dtype in _QUANTISED:
        return Opaque("a quantised tensor", tensor=True)
    item = dtype.itemsize
    _require(storage.start % item == 0, "the offset of a tensor in it is damaged")
    first = storage.start // item + offset
    last = first + sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    if all(sizes):
        _require(
            (last + 1) * item <= storage.data.nbytes(),
            f"a tensor of shape {_shown(sizes)} in it has less data than its shape says",
        )
    place = (id(storage.data), first, sizes, strides, dtype)
    values.limits.claim_view(sizes, item, place)
    return torch.empty(0, dtype=dtype).set_(storage.data, first, sizes, strides)


_QUANTISED = {torch.qint8, torch.qint32, torch.quint8, torch.quint4x2, torch.quint2x4}


def _tensor(values: PickledValues, storage: Any, offset: Any, shape: Any, stride: Any) -> object:
    return _view(values, storage, offset, shape, stride, None)


def _tensor_v2(
    values: PickledValues,
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    _requires_grad: object = False,
    _hooks: object = None,
    metadata: object = None,
) -> object:
    return _flagged(_view(values, storage, offset, shape, stride, None), metadata)


def _tensor_v3(
    values: PickledValues,
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    _requires_grad: object,
    _hooks: object,
    dtype: object,
    metadata: object = None,
) -> object:
    return _flagged(_view(values, storage, offset, shape, stride, _dtype_of(dtype)), metadata)


def _flagged(tensor: object, metadata: object) -> object:
    """The tensor with what its storage leaves to be done: conjugate, negate."""
    if not isinstance(tensor, Tensor) or not isinstance(metadata, dict):
        return tensor
    if metadata.get("conj") is True:
        tensor = tensor.conj()
    if metadata.get("neg") is True:
        tensor = torch._neg_view(tensor)  # noqa: SLF001 - there is no public way
    return tensor


def _parameter(_values: PickledValues, data: object, *_rest: object) -> object:
    return data


def _from_type(
    values: PickledValues, function: Any, kind: Any, arguments: Any, _state: Any
) -> object:
    """A tensor with attributes of its own; they are left."""
    if isinstance(kind, Opaque):
        return kind
    _require(function != Reference("torch._tensor._rebuild_from_type_v2"), "its pickle is damaged")
    return values.call(function, arguments)


def _sparse(values: PickledValues, layout: object, parts: Any) -> object:
    """A sparse tensor as a dense one."""
    _require(isinstance(layout, str), "the layout of a sparse tensor in it is damaged")
    tensors = [part for part in parts if isinstance(part, Tensor)]
    shape = sizes_of(parts[len(tensors)])
    values.limits.claim_view(shape, tensors[-1].itemsize, None)
    layouts = {"torch.sparse_csr", "torch.sparse_csc", "torch.sparse_bsr", "torch.sparse_bsc"}
    if layout == "torch.sparse_coo" and len(tensors) == 2:
        indices, entries = tensors

        def make() -> Tensor:
            sparse = torch.sparse_coo_tensor(indices, entries, shape, check_invariants=True)
            return sparse.to_dense()

    else:
        _require(layout in layouts and len(tensors) == 3, "a sparse tensor in it is damaged")
        compressed, plain, entries = tensors
        layout_name = str(layout).removeprefix("torch.")

        def make() -> Tensor:
            sparse = torch.sparse_compressed_tensor(
                compressed,
                plain,
                entries,
                shape,
                layout=getattr(torch, layout_name),
                check_invariants=True,
            )
            return sparse.to_dense()

    return Deferred(make, "a sparse tensor with unsound indices")


def _noted(what: str) -> Callable[..., object]:
    """A kind of tensor that is only named."""
    return lambda _values, *_arguments: Opaque(what, tensor=True)


def _copied_from_device(
    _values: PickledValues, tensor: object, dtype: object, *_rest: object
) -> object:
    if isinstance(tensor, Tensor):
        return Deferred(lambda: tensor.to(_dtype_of(dtype)), "a tensor of another device")
    return tensor


def _from_numpy(_values: PickledValues, array: object, dtype: object, *_rest: object) -> object:
    _require(isinstance(array, Array), "a tensor in it has no data")
    assert isinstance(array, Array)  # noqa: S101 - for the type checker
    return Deferred(
        lambda: torch.from_numpy(array.finish()).to(_dtype_of(dtype)), "a tensor without numbers"
    )


def _layout(_values: PickledValues, name: object) -> object:
    return name


# --- NumPy


def _numpy_type(_values: PickledValues, text: object, *_flags: object) -> object:
    if not isinstance(text, str) or not _ARRAY_TYPE.fullmatch(text):
        shown = text if isinstance(text, str) else type(text).__name__
        raise NeedsCodeError(f"it holds a NumPy array of type {shown:.20}, which is no plain one")
    return ArrayType(text)


def _numpy_array(_values: PickledValues, kind: object, *_rest: object) -> object:
    _require(kind == Reference("numpy.ndarray"), "a NumPy array in it is damaged")
    return Array()


def _numpy_buffer(
    values: PickledValues, content: object, kind: object, shape: object, order: object
) -> object:
    array = Array()
    _require(order in {"C", "F"}, "a NumPy array in it is damaged")
    values.fill_array(array, kind, shape, str(order), content)
    return array


def _numpy_scalar(_values: PickledValues, kind: object, content: object = b"") -> object:
    if not isinstance(kind, ArrayType):
        raise NeedsCodeError("it holds a NumPy scalar of a Python object")
    if kind.plain is None:
        return Opaque("a NumPy scalar that is no number")
    value = np.zeros((), kind.plain)
    copy_into(content, value.reshape(1).view(np.uint8).data)
    return value.astype(kind.plain.newbyteorder("="))[()]


# --- plain values


def _encoded(values: PickledValues, text: object, encoding: object) -> object:
    """Bytes, which protocols before 3 write as text."""
    _require(
        isinstance(encoding, str) and encoding.lower() in _LATIN,
        "its pickle encodes text as no bytes are written",
    )
    if isinstance(text, Blob) and text.kind == "text":
        values.limits.claim_copies(text.size)
        return text.as_kind("latin-1")
    _require(isinstance(text, str), "its pickle encodes what is no text")
    values.limits.claim_copies(len(str(text)))
    return str(text).encode("latin-1")


def _bytes(_values: PickledValues, content: object = b"") -> object:
    _require(isinstance(content, bytes), "its pickle makes bytes of what is none")
    return content


def _bytearray(values: PickledValues, content: object = b"", encoding: object = None) -> object:
    values.limits.claim_copies(content.size if isinstance(content, Blob) else len(content))  # type: ignore[arg-type]
    if isinstance(content, Blob):
        return content.as_kind("latin-1" if content.kind != "bytes" else "bytearray")
    if isinstance(content, str) and encoding in _LATIN:
        return bytearray(content.encode("latin-1"))
    if not isinstance(content, bytes):
        raise MalformedError("its pickle makes bytes of what is none")
    return bytearray(content)


def _dictionary(values: PickledValues, content: object = ()) -> object:
    if isinstance(content, (Reference, Opaque)) or content is None:
        return {}  # a defaultdict, and what it would make
    values.limits.claim_copies(len(content))  # type: ignore[arg-type]
    if isinstance(content, dict):
        return dict(content)
    return {as_key(key): value for key, value in content}  # type: ignore[attr-defined]


def _queue(values: PickledValues, content: object = (), _longest: object = None) -> object:
    values.limits.claim_copies(len(content))  # type: ignore[arg-type]
    return list(content)  # type: ignore[call-overload]


def _set(values: PickledValues, content: object = ()) -> object:
    values.limits.claim_copies(len(content))  # type: ignore[arg-type]
    _require(isinstance(content, (list, tuple)), "its pickle is damaged")
    return set(map(as_key, content))  # type: ignore[call-overload]


def _frozen_set(values: PickledValues, content: object = ()) -> object:
    return frozenset(_set(values, content))  # type: ignore[call-overload]


def _complex(_values: PickledValues, real: object, imaginary: object) -> object:
    _require(type(real) is float and type(imaginary) is float, "a complex number in it is damaged")
    return complex(real, imaginary)  # type: ignore[call-overload]


def _size(_values: PickledValues, sizes: object = ()) -> object:
    return sizes_of(sizes)


def _reconstructed(values: PickledValues, kind: object, *_rest: object) -> object:
    """How protocols 0 and 1 make an object, before they give it its attributes."""
    return values.call(kind, ())


_CALLS: dict[str, Callable[..., object]] = {
    "_codecs.encode": _encoded,
    "builtins.bytearray": _bytearray,
    "builtins.bytes": _bytes,
    "builtins.complex": _complex,
    "builtins.dict": _dictionary,
    "builtins.frozenset": _frozen_set,
    "builtins.list": _queue,
    "builtins.set": _set,
    "collections.Counter": _dictionary,
    "collections.OrderedDict": _dictionary,
    "collections.defaultdict": _dictionary,
    "collections.deque": _queue,
    "copyreg._reconstructor": _reconstructed,
    "numpy.core.multiarray._reconstruct": _numpy_array,
    "numpy.core.multiarray.scalar": _numpy_scalar,
    "numpy.core.numeric._frombuffer": _numpy_buffer,
    "numpy.dtype": _numpy_type,
    "torch.Size": _size,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _copied_from_device,
    "torch._utils._rebuild_device_tensor_from_numpy": _from_numpy,
    "torch._utils._rebuild_meta_tensor_no_storage": _noted("a tensor without data (meta device)"),
    "torch._utils._rebuild_nested_tensor": _noted("a nested tensor"),
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._utils._rebuild_qtensor": _noted("a quantised tensor"),
    "torch._utils._rebuild_sparse_tensor": _sparse,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor_v2,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_wrapper_subclass": _noted("a tensor of a class of its own"),
    "torch.nn.parameter.Buffer": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.serialization._get_layout": _layout,
    "torch.storage._load_from_bytes": lambda values, content: values.nested_storage(content),
}

_KNOWN = {*_CALLS, *_HARMLESS, *_ONLY_NAMED, *_STORAGE_TYPES, *_UNTYPED}
