"""Tables and pictures of a sweep's results, compared with those of the paper."""

from alds_cli.reporting.csv_json import (
    cells,
    cells_csv,
    points,
    points_csv,
)
from alds_cli.reporting.delta_tables import (
    Cell,
    Column,
    Row,
    Table,
    largest_within,
)
from alds_cli.reporting.figures import Picture, draw
from alds_cli.reporting.latex import to_latex
from alds_cli.reporting.markdown import to_markdown
from alds_cli.reporting.paper import Published, published, published_names
from alds_cli.reporting.points import Point, Results
from alds_cli.reporting.summary import Report, make_report

__all__ = [
    "Cell",
    "Column",
    "Picture",
    "Point",
    "Published",
    "Report",
    "Results",
    "Row",
    "Table",
    "cells",
    "cells_csv",
    "draw",
    "largest_within",
    "make_report",
    "points",
    "points_csv",
    "published",
    "published_names",
    "to_latex",
    "to_markdown",
]
