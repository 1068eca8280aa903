"""The example dashboard asks for metrics and labels that the exporter has."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from orchestrator.exporter import LedgerCollector
from orchestrator.observations import COUNTERS, HISTOGRAMS, field
from shared.ledger import Keys, Ledger

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD: dict[str, Any] = json.loads((DEPLOY / "grafana-dashboard.json").read_text(encoding="utf-8"))
EXPRESSIONS = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


class StubRedis:
    """A ledger's Redis that holds one observation of each kind, and one silent device."""

    def smembers(self, key: str) -> set[str]:
        return {"sim.0"} if key == Keys.devices else set()

    def zrange(self, key: str, first: int, last: int) -> list[str]:
        return []

    def mget(self, names: list[str]) -> list[None]:
        return [None for _ in names]


class StubLedger(Ledger):
    def __init__(self) -> None:
        self.redis = StubRedis()  # type: ignore[assignment]

    def do(self, commands: object) -> list[int]:
        return [0 for _ in list(commands)]  # type: ignore[call-overload]

    def hgetall(self, key: str) -> dict[str, str]:
        assert key == Keys.observations
        counters = {field(name, labels): "1" for name, labels in COUNTERS.items()}
        bounds = {field(name, (*labels, "5")): "1" for name, labels in HISTOGRAMS.items()}
        return counters | bounds | {field(name, (*labels, "sum")): "4.5" for name, labels in HISTOGRAMS.items()}


def exported() -> dict[str, set[str]]:
    """Names of samples, each with the labels it can have."""
    found: dict[str, set[str]] = {}
    for metric in LedgerCollector(StubLedger()).collect():
        labels = set(getattr(metric, "_labelnames", ()))
        suffixes = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
        for suffix in suffixes:
            found[metric.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def test_every_panel_asks_for_metrics_that_are_exported() -> None:
    known = exported()
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"inpaint_eacps_\w+", expression)}
    assert asked - set(known) == set()
    used_families = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    missed = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in known} - used_families
    assert missed == {
        "inpaint_eacps_device_busy",
        "inpaint_eacps_helpers_up",
        "inpaint_eacps_judge_calls",
        "inpaint_eacps_judge_tokens",
    }, "a metric that no panel shows is named here on purpose"


def test_every_label_asked_for_is_one_of_its_metric() -> None:
    known = exported()
    for expression in EXPRESSIONS:
        for name, chosen in re.findall(r"(inpaint_eacps_\w+)\{([^}]*)\}", expression):
            assert set(re.findall(r"(\w+)=", chosen)) <= known[name], expression
        for grouped in re.findall(r"by \(([^)]*)\)", expression):
            (name,) = re.findall(r"inpaint_eacps_\w+", expression)
            assert set(grouped.split(", ")) <= known[name], expression


def test_panels_do_not_cover_each_other_and_have_units() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                assert x < 24
                taken[x, y] = panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_prometheus_asks_where_the_exporter_listens() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text(encoding="utf-8"))
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == ["127.0.0.1:9808"]
