"""Faults at random, for a short time; `python -m benchmarks.soak` (or `make soak`) does it for ten minutes."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.soak import soak


@pytest.mark.valkey
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_faults_at_random_lose_nothing(tmp_path: Path, recovered: Callable[[str, float], None]) -> None:
    seed = secrets.randbelow(2**32)
    recovered(f"soak with seed {seed}: all {len(soak(tmp_path, 25, seed).tasks)} tasks whole after", 25)
