"""Folding, spectra, low-rank factors, norms and costs: tensors in, tensors out."""
