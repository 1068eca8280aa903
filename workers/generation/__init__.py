"""Generators: from a candidate's spec to an image."""
