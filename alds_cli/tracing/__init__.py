"""One forward pass of a network, and all that is learnt from it: layers, costs, reads."""
