"""The forms of all JSON documents that are read, written or printed, each defined once.

A document's text is checked against its form as a whole before it is used, and the JSON
Schemas that `alds schema` prints come from the same definitions.
"""

from alds_cli.forms import (
    Form,
    MalformedError,
    UnknownSchemaError,
    held,
    parsed,
)

__all__ = ["Form", "MalformedError", "UnknownSchemaError", "held", "parsed"]
