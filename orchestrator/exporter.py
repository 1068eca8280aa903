"""Prometheus' view of a cluster: everything is read from the ledger at the moment of asking, and nothing is kept here.

So an exporter may be restarted, or run twice, without a number being lost or wrong.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from redis.exceptions import RedisError

from orchestrator.observations import BUCKETS, COUNTERS, HISTOGRAMS, KNOWN
from shared.heartbeat import DeviceState, Heartbeat, live_devices, live_helpers
from shared.ledger import Keys, Ledger
from shared.queues import ORCHESTRATOR, PREPARE, PUBLISH, SCORE, device_queue

logger = logging.getLogger(__name__)

_PREFIX = "inpaint_eacps_"
_HELP = {
    "tasks": "Tasks that are over, by how they ended.",
    "candidates": "Candidates that are settled; unscored: a criterion could not be judged.",
    "retries": "Further attempts at a candidate, by the reason; given_back: it was never started.",
    "judgements": "Answers of judges; cached ones cost nothing, missing ones lack a criterion.",
    "judge_calls": "Calls to a judge's service that are in judgements.",
    "judge_tokens": "Tokens that a judge's service counted.",
    "judge_cost_usd": "US dollars that judgements cost.",
    "generation_seconds": "Time to generate a candidate, by generator.",
    "judgement_seconds": "Time of a judgement that was not cached, by judge.",
    "candidate_wait_seconds": "Time from a candidate being asked for to its going to a device.",
}


class LedgerCollector(Collector):
    """Reads a ledger whenever Prometheus asks."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def collect(self) -> Iterable[Metric]:
        """All metrics; only `broker_up 0` while the broker does not answer, since then nothing is known."""
        try:
            metrics = [*self._queues(), *self._devices(), *self._counted()]
        except RedisError as error:
            logger.warning("metrics not read: %s", error, extra={"action": "metrics_failed"})
            metrics = []
        return [_gauge("broker_up", "Whether the broker answered.", float(bool(metrics))), *metrics]

    def _queues(self) -> Iterator[Metric]:
        ledger, redis = self._ledger, self._ledger.redis
        devices = sorted(str(name) for name in redis.smembers(Keys.devices))
        runs = [str(run) for run in redis.zrange(Keys.waiting_runs, 0, -1)]
        queues = [ORCHESTRATOR, PREPARE, SCORE, PUBLISH, *map(device_queue, devices)]
        asked = [("LLEN", queue) for queue in queues] + [("LLEN", Keys.waiting(run)) for run in runs]
        pending, jobs, in_flight, *lengths = ledger.do(
            [("ZCARD", Keys.pending), ("HLEN", Keys.jobs), ("SCARD", Keys.in_flight), *asked]
        )
        depth = GaugeMetricFamily(
            _PREFIX + "queue_depth", "Messages that nobody has taken up, by queue.", labels=["queue"]
        )
        for queue, length in zip(queues, lengths, strict=False):
            depth.add_metric([queue], length)
        yield depth
        yield _gauge("pending_candidates", "Candidates that wait for a device with room.", pending)
        yield _gauge("outstanding_jobs", "Judgements, preparations and publications not yet answered.", jobs)
        yield _gauge("tasks_in_flight", "Tasks taken up and not over.", in_flight)
        yield _gauge("tasks_waiting", "Tasks submitted and not taken up.", sum(lengths[len(queues) :]))

    def _devices(self) -> Iterator[Metric]:
        devices = live_devices(self._ledger)
        helpers = live_helpers(self._ledger)
        up = GaugeMetricFamily(_PREFIX + "device_up", "Whether a device's heart beats.", labels=["device", "state"])
        busy = GaugeMetricFamily(_PREFIX + "device_busy", "Whether a candidate is in hand.", labels=["device"])
        spent = CounterMetricFamily(
            _PREFIX + "device_busy_seconds",
            "Time with a candidate in hand since the worker started.",
            labels=["device"],
        )
        ready = CounterMetricFamily(
            _PREFIX + "device_ready_seconds", "Time since the worker's model was loaded.", labels=["device"]
        )
        for device, beat in devices.items():
            up.add_metric([device, beat.state if beat else "silent"], float(beat is not None))
            if beat is not None:
                busy.add_metric([device], float(_works(beat)))
                spent.add_metric([device], beat.busy_seconds)
                ready.add_metric([device], beat.ready_seconds)
        yield from (up, busy, spent, ready)
        alive = sum(beat is not None for beat in helpers.values())
        yield _gauge("helpers_up", "Orchestrators and score workers whose heart beats.", alive)

    def _counted(self) -> Iterator[Metric]:
        numbers = {
            tuple(json.loads(name)): float(number) for name, number in self._ledger.hgetall(Keys.observations).items()
        }
        for name, labels in COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + name, _HELP[name], labels=labels)
            found = {key[1:]: number for key, number in numbers.items() if key[0] == name}
            for values, number in {**dict.fromkeys(KNOWN.get(name, ()), 0.0), **found}.items():
                counter.add_metric(values, number)
            yield counter
        for name, labels in HISTOGRAMS.items():
            yield _histogram(name, labels, {key[1:]: number for key, number in numbers.items() if key[0] == name})


def _works(beat: Heartbeat) -> bool:
    return beat.current is not None and beat.state is not DeviceState.LOADING


def _gauge(name: str, meaning: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, meaning, value=value)


def _histogram(name: str, labels: tuple[str, ...], numbers: Mapping[tuple[str, ...], float]) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, _HELP[name], labels=labels)
    bounds = (*map(str, BUCKETS), "+Inf")
    for values in sorted({key[:-1] for key in numbers}):
        total, buckets = 0.0, list[tuple[str, float]]()
        for bound in bounds:
            total += numbers.get((*values, bound), 0.0)
            buckets.append((bound, total))
        family.add_metric(values, buckets, sum_value=numbers.get((*values, "sum"), 0.0))
    return family
