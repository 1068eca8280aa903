"""A device whose generator cannot be loaded says so and goes, instead of beating for ever without working."""

import time
from pathlib import Path

import pytest

from inpaint_eacps.child import ChildPlan
from inpaint_eacps.embedded import EmbeddedCluster
from shared.errors import DeviceError, ExitCode
from shared.settings import Settings

pytestmark = pytest.mark.valkey


def test_a_generator_with_a_bug_ends_its_device_with_the_reason(tmp_path: Path) -> None:
    plan = ChildPlan(role="device", settings=Settings(), device="sim.0", generators=("tests.broken:BrokenGenerator",))
    with EmbeddedCluster(Settings(), tmp_path, [plan]) as cluster:
        deadline = time.monotonic() + 60
        while "device.sim.0" in cluster.pids:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        time.sleep(1)
        with pytest.raises(DeviceError, match=r"tests\.broken:BrokenGenerator could not be loaded .*a bug") as caught:
            cluster.check()
    assert caught.value.exit_code is ExitCode.DEVICE
    log = (tmp_path / "logs" / "device.sim.0.log").read_text()
    assert '"action": "device_refused"' in log
    assert "raise ZeroDivisionError" in log
