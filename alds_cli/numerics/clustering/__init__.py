"""Projective clustering of a matrix's columns, and its factors."""
