"""Reading and writing model files: formats, safe loading, atomic saving, tables, plans."""

from alds_cli.checkpoint.error_tables import (
    cache_path,
    hash_tensors,
    load_cached,
    read_table,
    store_cached,
    write_table,
)
from alds_cli.checkpoint.files import replacing, require_apart, require_writable
from alds_cli.checkpoint.plans import plan_text, read_plan, write_plan
from alds_cli.checkpoint.reading import Checkpoint, read_checkpoint
from alds_cli.checkpoint.unwrapping import Selection, select_entries
from alds_cli.checkpoint.user_cache import cache_folder
from alds_cli.checkpoint.writing import Document, artefact_size, dump_torch, write_artefact

__all__ = [
    "Checkpoint",
    "Document",
    "Selection",
    "artefact_size",
    "cache_folder",
    "cache_path",
    "dump_torch",
    "hash_tensors",
    "load_cached",
    "plan_text",
    "read_checkpoint",
    "read_plan",
    "read_table",
    "replacing",
    "require_apart",
    "require_writable",
    "select_entries",
    "store_cached",
    "write_artefact",
    "write_plan",
    "write_table",
]
