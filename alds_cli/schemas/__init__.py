"""The form of every JSON document that is read, written or printed, each defined once.

A document's text is held to its form as a whole before anything is made of it, and the JSON
Schemas that `alds schema` prints come from the same definitions.
"""

from alds_cli.schemas.form import (
    Form,
    MalformedError,
    UnknownSchemaError,
    held,
    parsed,
)

__all__ = ["Form", "MalformedError", "UnknownSchemaError", "held", "parsed"]
