"""Fetching a task's images and making them ready: guarded, cached, and said aloud where anything was changed."""
