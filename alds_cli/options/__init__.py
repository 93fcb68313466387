"""What every verb can be asked, each option defined once.

A verb has one frozen dataclass. Its fields are the keyword arguments of the Python function, and
what `Option` says of them makes the options of the command, the pages of help and `docs/cli.md`.
The engines take the object itself.

This room stands below everything that it speaks of, so that `--help` imports none of it. Types
from above are referred to, for type checkers alone, by their public names in `alds_cli`.
"""
