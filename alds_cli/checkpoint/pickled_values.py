"""The meaning of the names in a checkpoint's pickle: tensors, NumPy arrays, harmless values.

The full list is here, and for functions in `pickled_calls`. A name that is not on it is Python
code, and is refused; nothing is ever imported or looked up by a name from a file.
"""

from __future__ import annotations

import re
from typing import Protocol

import torch
from torch import Tensor, UntypedStorage

from alds_cli.checkpoint.files import MalformedError, NeedsCodeError
from alds_cli.checkpoint.pickle_items import (
    Opaque,
    Reference,
)
from alds_cli.checkpoint.pickled_arrays import (
    Array,
    ArrayType,
    Deferred,
    Limits,
    Storage,
    fill_array,
    require,
    sizes_of,
)
from alds_cli.checkpoint.pickled_calls import CALLS, DTYPES

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
"""Plain objects of the standard library and of torch, which are noted but not made."""

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
"""Names that values may refer to, such as a defaultdict's `int`."""


class StorageSource(Protocol):
    """A provider of the data of the tensors in a pickle."""

    def named(
        self, key: str, count: int, dtype: torch.dtype | None, values: PickledValues
    ) -> UntypedStorage:
        """Return the storage of a key, yet to be filled; `count` is in bytes without a dtype."""

    def nested(self, content: object, values: PickledValues) -> object:
        """Return the storage that bytes within the pickle hold."""


class PickledValues:
    """The interpretation of one pickle, and of those within it.

    Attributes:
        limits: the limits shared by all pickles of a file.
        code: the names of Python code that the pickles would have run.
    """

    def __init__(
        self, limits: Limits, storages: StorageSource, code: list[str] | None = None
    ) -> None:
        """Start with the code found in other pickles of the file, or with none.

        Args:
            limits: the limits on what may be claimed.
            storages: the provider of the tensors' data.
            code: the list of names to add to.
        """
        self.limits = limits
        self.code: list[str] = [] if code is None else code
        self._storages = storages

    # --- the interpretation that `pickles.interpret` asks for

    def refer(self, name: str) -> object:
        """Return the reference of a known name, or an opaque value for code."""
        name = re.sub(r"^__builtin__\.x?", "builtins.", name)
        name = re.sub(r"^(_?copy_?reg)\.", "copyreg.", name)
        name = name.replace("numpy._core.", "numpy.core.")
        if name in DTYPES or name in _KNOWN:
            return Reference(name)
        return self._foreign(name)

    def call(self, function: object, arguments: object) -> object:
        """Return the value that a known function would give."""
        if isinstance(function, Opaque):
            return function  # refused at the end, with all the names
        if not isinstance(function, Reference) or not isinstance(arguments, tuple):
            raise MalformedError("its pickle is damaged: it calls a value that is not a function")
        if function.name in _HARMLESS:
            return Opaque(f"a {function.name}")
        maker = CALLS.get(function.name)
        if maker is None:
            return self._foreign(function.name)
        try:
            return maker(self, *arguments)
        except (TypeError, IndexError, ValueError, RuntimeError) as error:
            if isinstance(error, (MalformedError, NeedsCodeError)):
                raise
            message = f"its pickle gives {function.name} arguments that it cannot take"
            raise MalformedError(message) from error

    def build(self, value: object, state: object) -> object:
        """Return the value with its state, unless the state is attributes that are not needed."""
        if isinstance(value, ArrayType):
            value.describe(state)
        elif isinstance(value, Array):
            self._fill(value, state)
        elif not isinstance(value, (Opaque, dict, Tensor, Deferred)):
            raise MalformedError("its pickle gives a state to a value without one")
        return value

    def persistent(self, identifier: object) -> object:
        """Return the storage that an identifier names."""
        if isinstance(identifier, tuple) and len(identifier) > 1 and identifier[0] == "module":
            return identifier[1]  # a class with its source, which old files store for modules
        if (
            not isinstance(identifier, tuple)
            or len(identifier) not in {5, 6}
            or identifier[0] != "storage"
        ):
            raise MalformedError("its pickle refers to outside data that do not belong to a tensor")
        kind, key, _device, count = identifier[1:5]
        if isinstance(kind, Opaque):
            return kind
        known = isinstance(kind, Reference) and kind.name in {*_STORAGE_TYPES, *_UNTYPED}
        require(known and isinstance(key, (str, int)), "a storage in it is damaged")
        require(type(count) is int and count >= 0, "a storage in it is damaged")
        dtype = _STORAGE_TYPES.get(kind.name)
        data = self._storages.named(str(key), count, dtype, self)
        view = identifier[5] if len(identifier) == 6 else None
        if view is None or dtype is None:
            return Storage(data, dtype)
        require(isinstance(view, tuple) and len(view) == 3, "a storage in it is damaged")
        start, size = sizes_of(view[1:])
        require((start + size) * dtype.itemsize <= data.nbytes(), "a storage in it is damaged")
        return Storage(data, dtype, start * dtype.itemsize)

    def nested_storage(self, content: object) -> object:
        """Return a storage pickled with its bytes, which are a whole legacy file in the pickle."""
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
        fill_array(self.limits, array, kind, shape, "F" if fortran else "C", content)


_KNOWN = {*CALLS, *_HARMLESS, *_ONLY_NAMED, *_STORAGE_TYPES, *_UNTYPED}
