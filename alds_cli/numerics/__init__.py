"""Folding, spectra, low-rank factors, norms and costs of weights, on tensors alone."""
