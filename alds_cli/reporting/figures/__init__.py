"""The pictures of a report, drawn with matplotlib, which the extra `plots` installs."""

from alds_cli.reporting.figures.drawing import Picture, draw

__all__ = ["Picture", "draw"]
