"""Expand, collect, select, refine, publish."""
