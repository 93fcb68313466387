"""Every read and write of model files."""
