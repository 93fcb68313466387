"""One forward pass of a network, and what it shows: layers, costs, reads."""
