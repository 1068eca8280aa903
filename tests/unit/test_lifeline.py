"""Nobody outlives the process that started it, not even one whose parent died before it could ask for that."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

#: A parent that ends at once (early), or when its child is tied to it (late); the child would live on.
PARENT = """
import os, pathlib, sys, time
from shared.lifeline import die_with_parent
parent, folder, early = os.getpid(), pathlib.Path(sys.argv[1]), sys.argv[2] == "early"
child = os.fork()
if child:
    (folder / "child").write_text(str(child))
    while not (early or (folder / "tied").exists()):
        time.sleep(0.01)
    os._exit(0)
while early and os.getppid() == parent:
    time.sleep(0.01)
die_with_parent(parent)
(folder / "tied").touch()
time.sleep(30)
"""


@pytest.mark.parametrize("when", ["early", "late"])
def test_a_child_ends_with_its_parent(tmp_path: Path, when: str) -> None:
    subprocess.run([sys.executable, "-c", PARENT, str(tmp_path), when], cwd=ROOT, check=True, timeout=20)
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "it lives on"
        time.sleep(0.02)
    assert (tmp_path / "tied").exists() == (when == "late")
