"""Turning model files into networks that run, and verifying what is written."""
