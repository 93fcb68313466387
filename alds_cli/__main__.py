"""`python -m alds_cli` is the command `alds`."""

from alds_cli.cli.app import main

main()
