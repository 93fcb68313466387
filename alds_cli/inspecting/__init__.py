"""What a model file holds: its layers, and where parameters, MACs and time went."""
