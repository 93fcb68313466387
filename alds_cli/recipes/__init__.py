"""Hyperparameters of whole trainings by name: those of the paper's networks, as TOML files."""

from __future__ import annotations

from alds_cli.recipes.recipe_files import (
    Purpose,
    Recipe,
    known_recipes,
    read_recipe,
    require_recipe,
)

__all__ = ["Purpose", "Recipe", "known_recipes", "read_recipe", "require_recipe"]
