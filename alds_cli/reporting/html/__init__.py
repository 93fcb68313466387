"""Reports as single HTML files, which need nothing else: no script, no font, no network."""

from alds_cli.reporting.html.compression_page import compression_page
from alds_cli.reporting.html.sweep_page import sweep_page

__all__ = ["compression_page", "sweep_page"]
