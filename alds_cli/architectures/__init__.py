"""A state dict's runnable network."""
