"""The exporter as a process, beside a real cluster: its numbers are those of the run, also after a restart."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.exporter import LedgerCollector
from shared.ledger import Ledger
from tests.fleet import GENERATOR, SCORER, Fleet, make_tasks

pytestmark = pytest.mark.valkey

Samples = Mapping[tuple[str, frozenset[tuple[str, str]]], float]


@contextmanager
def exporter(url: str, folder: Path) -> Iterator[str]:
    """`inpaint-eacps metrics` on a free port; yields where it is, and sees it end well."""
    env = {**os.environ, "INPAINT_EACPS_BROKER__URL": url, "INPAINT_EACPS_LOG": "text"}
    process = subprocess.Popen(
        [sys.executable, "-m", "inpaint_eacps", "metrics", "--port", "0"],
        cwd=folder,
        env={**env, "PYTHONPATH": str(Path(__file__).parents[2])},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        found = re.search(r"http://\S+/metrics", line)
        assert found, line + process.stderr.read()
        yield found.group()
    finally:
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1]
    assert process.returncode == 0, rest


def samples(address: str) -> Samples:
    text = httpx.get(address, timeout=20).raise_for_status().text
    return {
        (sample.name.removeprefix("inpaint_eacps_"), frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def one(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_a_run_can_be_read_off_the_metrics_and_a_restart_loses_nothing(tmp_path: Path) -> None:
    tasks = make_tasks(tmp_path / "in", 3)
    poison = {"SIMULATED_POISON": "g01", "SIMULATED_JUDGE_FAILURES": "0"}
    with Fleet(tmp_path, env=poison, dispatch={"max_attempts": 2}) as fleet:
        with exporter(fleet.cluster.url, tmp_path) as address:
            before = samples(address)
            assert one(before, "broker_up") == 1
            # There from the start, so that the first failure is an increase.
            assert one(before, "candidates_total", phase="global", outcome="failed") == 0
            assert one(before, "retries_total", reason="lost") == 0
            fleet.outcomes(fleet.submit(tasks[:1]).run)
            # The process that was killed loads again, and a heartbeat may still be on its way.
            fleet.wait_until_ready(2)
            time.sleep(1)
            during = samples(address)
        assert one(during, "tasks_total", outcome="done") == 1
        assert one(during, "candidates_total", phase="global", outcome="failed") == 1
        assert one(during, "candidates_total", phase="global", outcome="scored") == 3
        assert one(during, "candidates_total", phase="local", outcome="scored") == 4
        assert one(during, "retries_total", reason="lost") == 1
        assert one(during, "judgements_total", judge=SCORER, outcome="scored") == 7
        # What its device had written, and not yet told of when it died, is taken from disk.
        made = 7 - sum(each["reused"] for each in fleet.metrics(tasks[0].id)["candidates"])
        assert made >= 5
        assert one(during, "generation_seconds_count", generator=GENERATOR) == made
        total = one(during, "generation_seconds_sum", generator=GENERATOR)
        assert made * 0.1 <= total < made * 5
        buckets = [
            (float(dict(labels)["le"]), value)
            for (name, labels), value in during.items()
            if name == "generation_seconds_bucket"
        ]
        assert sorted(value for _, value in buckets) == [value for _, value in sorted(buckets)]
        assert max(buckets) == (float("inf"), made)
        for device in ("sim.0", "sim.1"):
            assert one(during, "queue_depth", queue=f"gpu.{device}") == 0
            assert one(during, "device_up", device=device, state="ready") == 1
            assert one(during, "device_busy", device=device) == 0
            busy = one(during, "device_busy_seconds_total", device=device)
            assert 0 <= busy <= one(during, "device_ready_seconds_total", device=device)
        with exporter(fleet.cluster.url, tmp_path) as address:
            after = samples(address)
        lasting = [key for key in during if not key[0].startswith(("device_", "helpers_"))]
        assert {key: after[key] for key in lasting} == {key: during[key] for key in lasting}
        url = fleet.cluster.url
    (gone,) = LedgerCollector(Ledger(url)).collect()
    assert [(sample.name, sample.value) for sample in gone.samples] == [("inpaint_eacps_broker_up", 0.0)]
