"""Pure search strategies: no I/O, no Celery, no Redis."""
