"""The containers themselves: built, started, and run to the end of a batch. Takes minutes, root, and disk space."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NEEDED = ("podman", "runc", "debootstrap", "podman-compose")
MISSING = [name for name in NEEDED if shutil.which(name) is None]


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.skipif(
    not os.environ.get("INPAINT_EACPS_CONTAINERS"), reason="set INPAINT_EACPS_CONTAINERS=1 to build images"
)
@pytest.mark.skipif(bool(MISSING), reason=f"without {', '.join(MISSING)}")
def test_the_cpu_profile_is_built_and_runs_a_batch_to_its_end(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(ROOT / "deploy/try_with_podman.sh")],
        cwd=ROOT,
        env={**os.environ, "WORK": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "result.png: 7" in done.stdout
    assert "uid=10001(eacps)" in done.stdout
    assert "Read-only file system" in done.stderr
    for service in ("broker", "flower", "metrics"):
        assert f"{service} is healthy" in done.stdout
    settled = re.findall(r"candidates_total\{.*\} ([\d.]+)", done.stdout)
    assert sum(map(float, settled)) == 7 * 8
    found = re.search(r"Flower finds (\d+) jobs of task 71651080", done.stdout)
    assert found
    assert int(found[1]) >= 16
