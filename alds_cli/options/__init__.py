"""The options of every verb, each of them defined once.

A verb has one frozen dataclass. Its fields are the keyword arguments of the Python function, and
their `Option` annotations make the options of the command, its help and `docs/cli.md`. The
engines take the object itself.

This room stands below everything that its texts mention, so that `--help` imports none of it.
Types from higher rooms are named by their public names in `alds_cli`, for type checkers only.
"""
