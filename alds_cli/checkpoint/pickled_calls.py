"""The results of functions that a checkpoint's pickle calls, made without calling them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from alds_cli.checkpoint.files import MalformedError, NeedsCodeError
from alds_cli.checkpoint.pickle_items import (
    Blob,
    Opaque,
    Reference,
    as_key,
)
from alds_cli.checkpoint.pickled_arrays import (
    Array,
    ArrayType,
    Deferred,
    Storage,
    Values,
    copy_into,
    fill_array,
    require,
    shown,
    sizes_of,
)

_LATIN = {"latin1", "latin-1", "iso-8859-1"}

DTYPES = {str(value): value for value in vars(torch).values() if isinstance(value, torch.dtype)}

_ARRAY_TYPE = re.compile(r"[<>|=]?(?:b1|[iu][1248]|f(?:2|4|8|12|16)|c(?:8|16|24|32)|[SUMm]\d{0,9})")


# --- tensors


def _dtype_of(value: object) -> torch.dtype:
    if isinstance(value, Reference) and value.name in DTYPES:
        return DTYPES[value.name]
    raise MalformedError("the type of a tensor in it is damaged")


def _view(
    values: Values,
    storage: object,
    offset: object,
    shape: object,
    stride: object,
    dtype: torch.dtype | None,
) -> object:
    """Make a tensor within a storage, after checking that the storage has all its elements."""
    if isinstance(storage, Opaque):
        return storage
    require(isinstance(storage, Storage), "a tensor in it has no storage")
    assert isinstance(storage, Storage)  # noqa: S101 - for the type checker
    sizes, strides = sizes_of(shape), sizes_of(stride)
    dtype = dtype or storage.dtype
    require(len(sizes) == len(strides), "the strides of a tensor in it are damaged")
    require(type(offset) is int and offset >= 0, "the offset of a tensor in it is damaged")
    assert isinstance(offset, int)  # noqa: S101 - for the type checker
    require(dtype is not None, "the type of a tensor in it is not known")
    assert dtype is not None  # noqa: S101 - for the type checker
    if dtype in _QUANTISED:
        return Opaque("a quantised tensor", tensor=True)
    item = dtype.itemsize
    require(storage.start % item == 0, "the offset of a tensor in it is damaged")
    first = storage.start // item + offset
    last = first + sum((size - 1) * step for size, step in zip(sizes, strides, strict=True))
    if all(sizes):
        require(
            (last + 1) * item <= storage.data.nbytes(),
            f"a tensor of shape {shown(sizes)} in it has less data than its shape says",
        )
    place = (id(storage.data), first, sizes, strides, dtype)
    values.limits.claim_view(sizes, item, place)
    return torch.empty(0, dtype=dtype).set_(storage.data, first, sizes, strides)


_QUANTISED = {torch.qint8, torch.qint32, torch.quint8, torch.quint4x2, torch.quint2x4}


def _tensor(values: Values, storage: Any, offset: Any, shape: Any, stride: Any) -> object:
    return _view(values, storage, offset, shape, stride, None)


def _tensor_v2(
    values: Values,
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
    values: Values,
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
    """Apply a tensor's pending operations: conjugation and negation."""
    if not isinstance(tensor, Tensor) or not isinstance(metadata, dict):
        return tensor
    if metadata.get("conj") is True:
        tensor = tensor.conj()
    if metadata.get("neg") is True:
        tensor = torch._neg_view(tensor)  # noqa: SLF001 - there is no public way
    return tensor


def _parameter(_values: Values, data: object, *_rest: object) -> object:
    return data


def _from_type(values: Values, function: Any, kind: Any, arguments: Any, _state: Any) -> object:
    """Make a tensor of a subclass or with further attributes, which are dropped."""
    if isinstance(kind, Opaque):
        return kind
    require(function != Reference("torch._tensor._rebuild_from_type_v2"), "its pickle is damaged")
    return values.call(function, arguments)


def _sparse(values: Values, layout: object, parts: Any) -> object:
    """Make a dense tensor from a sparse one."""
    require(isinstance(layout, str), "the layout of a sparse tensor in it is damaged")
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
        require(layout in layouts and len(tensors) == 3, "a sparse tensor in it is damaged")
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
    """Return a function that represents a kind of tensor by its name only."""
    return lambda _values, *_arguments: Opaque(what, tensor=True)


def _copied_from_device(_values: Values, tensor: object, dtype: object, *_rest: object) -> object:
    if isinstance(tensor, Tensor):
        return Deferred(lambda: tensor.to(_dtype_of(dtype)), "a tensor of another device")
    return tensor


def _from_numpy(_values: Values, array: object, dtype: object, *_rest: object) -> object:
    require(isinstance(array, Array), "a tensor in it has no data")
    assert isinstance(array, Array)  # noqa: S101 - for the type checker
    return Deferred(
        lambda: torch.from_numpy(array.finish()).to(_dtype_of(dtype)), "a tensor without numbers"
    )


def _layout(_values: Values, name: object) -> object:
    return name


# --- NumPy


def _numpy_type(_values: Values, text: object, *_flags: object) -> object:
    if not isinstance(text, str) or not _ARRAY_TYPE.fullmatch(text):
        shown = text if isinstance(text, str) else type(text).__name__
        raise NeedsCodeError(f"it holds a NumPy array of type {shown:.20}, not a plain one")
    return ArrayType(text)


def _numpy_array(_values: Values, kind: object, *_rest: object) -> object:
    require(kind == Reference("numpy.ndarray"), "a NumPy array in it is damaged")
    return Array()


def _numpy_buffer(
    values: Values, content: object, kind: object, shape: object, order: object
) -> object:
    array = Array()
    require(order in {"C", "F"}, "a NumPy array in it is damaged")
    fill_array(values.limits, array, kind, shape, str(order), content)
    return array


def _numpy_scalar(_values: Values, kind: object, content: object = b"") -> object:
    if not isinstance(kind, ArrayType):
        raise NeedsCodeError("it holds a NumPy scalar of a Python object")
    if kind.plain is None:
        return Opaque("a NumPy scalar that is not a number")
    value = np.zeros((), kind.plain)
    copy_into(content, value.reshape(1).view(np.uint8).data)
    return value.astype(kind.plain.newbyteorder("="))[()]


# --- plain values


def _encoded(values: Values, text: object, encoding: object) -> object:
    """Make bytes, which protocols before 3 write as text."""
    require(
        isinstance(encoding, str) and encoding.lower() in _LATIN,
        "its pickle encodes text in a way that bytes are never written",
    )
    if isinstance(text, Blob) and text.kind == "text":
        values.limits.claim_copies(text.size)
        return text.as_kind("latin-1")
    require(isinstance(text, str), "its pickle encodes a value that is not text")
    values.limits.claim_copies(len(str(text)))
    return str(text).encode("latin-1")


def _bytes(_values: Values, content: object = b"") -> object:
    require(isinstance(content, bytes), "its pickle makes bytes of another value")
    return content


def _bytearray(values: Values, content: object = b"", encoding: object = None) -> object:
    values.limits.claim_copies(content.size if isinstance(content, Blob) else len(content))  # type: ignore[arg-type]
    if isinstance(content, Blob):
        return content.as_kind("latin-1" if content.kind != "bytes" else "bytearray")
    if isinstance(content, str) and encoding in _LATIN:
        return bytearray(content.encode("latin-1"))
    if not isinstance(content, bytes):
        raise MalformedError("its pickle makes bytes of another value")
    return bytearray(content)


def _dictionary(values: Values, content: object = ()) -> object:
    if isinstance(content, (Reference, Opaque)) or content is None:
        return {}  # the argument is a defaultdict's factory
    values.limits.claim_copies(len(content))  # type: ignore[arg-type]
    if isinstance(content, dict):
        return dict(content)
    return {as_key(key): value for key, value in content}  # type: ignore[attr-defined]


def _queue(values: Values, content: object = (), _longest: object = None) -> object:
    values.limits.claim_copies(len(content))  # type: ignore[arg-type]
    return list(content)  # type: ignore[call-overload]


def _set(values: Values, content: object = ()) -> object:
    values.limits.claim_copies(len(content))  # type: ignore[arg-type]
    require(isinstance(content, (list, tuple)), "its pickle is damaged")
    return set(map(as_key, content))  # type: ignore[call-overload]


def _frozen_set(values: Values, content: object = ()) -> object:
    return frozenset(_set(values, content))  # type: ignore[call-overload]


def _complex(_values: Values, real: object, imaginary: object) -> object:
    require(type(real) is float and type(imaginary) is float, "a complex number in it is damaged")
    return complex(real, imaginary)  # type: ignore[call-overload]


def _size(_values: Values, sizes: object = ()) -> object:
    return sizes_of(sizes)


def _reconstructed(values: Values, kind: object, *_rest: object) -> object:
    """Make an object as protocols 0 and 1 do, before they set its attributes."""
    return values.call(kind, ())


CALLS: dict[str, Callable[..., object]] = {
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
