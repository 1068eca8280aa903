"""Scorers: from an image to judgements."""
