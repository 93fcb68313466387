"""Data specs to datasets and transforms."""
