"""Networks as files that run without this package, and without the code that built them.

A file is written beside the one that it replaces, and takes its name only when what is in it has
been run beside the network on random inputs, and agrees.
"""
