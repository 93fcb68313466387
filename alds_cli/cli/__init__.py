"""The command line: the only room that prints, exits, seeds and sets threads."""
