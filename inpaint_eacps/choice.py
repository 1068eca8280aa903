"""What `auto` means here: which generator makes and which judges judge, as resolved names."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.client import Client, Submitted, generator_of
from shared.settings import Settings
from shared.types import Task
from workers.generation import registry as generators
from workers.scoring import registry as judges


@dataclass(frozen=True)
class Choice:
    """Resolved names; nothing pretends to be what it is not."""

    generator: str
    #: Judge to what it judges, in order of preference.
    judges: Mapping[str, frozenset[str]]

    def line(self) -> str:
        """For people."""
        return f"Generator: {self.generator}. Judges: {', '.join(self.judges)}."


def choose_here(settings: Settings, env: Mapping[str, str]) -> Choice:
    """For workers on this machine. Raises ConfigurationError for unknown names."""
    return Choice(generators.resolve_auto(settings), _judges(settings, env))


def choose_for_cluster(client: Client, settings: Settings, env: Mapping[str, str]) -> Choice:
    """For a cluster: its devices say what they run. Raises ConfigurationError when none is up to say it."""
    wanted = settings.generation.generator
    if wanted != generators.AUTO:
        wanted = generators.resolve_auto(settings)
    return Choice(generator_of(client.devices(), wanted), _judges(settings, env))


@dataclass(frozen=True)
class Order:
    """How a submission is treated."""

    priority: int = 0
    force: bool = False


def submit(client: Client, tasks: tuple[Task, ...], settings: Settings, choice: Choice, order: Order) -> Submitted:
    """Submit, and say on stderr which tasks were refused."""
    submitted = client.submit(
        tasks,
        settings,
        generator=choice.generator,
        judges=choice.judges,
        priority=order.priority,
        force=order.force,
    )
    for reason in submitted.refused.values():
        sys.stderr.write(f"Left out: {reason}\n")
    return submitted


def _judges(settings: Settings, env: Mapping[str, str]) -> Mapping[str, frozenset[str]]:
    return {name: judges.criteria_of(name, settings) for name in judges.resolve_auto(settings, env)}
