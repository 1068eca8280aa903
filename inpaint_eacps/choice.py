"""What `auto` means here: which generator makes and which judges judge, as resolved names."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace

from orchestrator.client import Client, Submitted, generator_of
from orchestrator.search import make_search
from shared.settings import Settings
from shared.settings.search import RAW_SWAP
from shared.types import Task
from workers.generation import registry as generators
from workers.scoring import registry as judges


@dataclass(frozen=True)
class Choice:
    """Resolved names; nothing pretends to be what it is not."""

    generator: str
    #: Judge to what it judges, in order of preference.
    judges: Mapping[str, frozenset[str]]
    #: Judges asked on a queue of their own: their packages agree with nobody else's.
    own_queue: tuple[str, ...] = ()
    #: The judge of the finals, if there are any.
    comparer: str | None = None
    #: Generators that no device of the cluster has yet: their candidates wait for one that has.
    awaited: tuple[str, ...] = ()

    def line(self) -> str:
        """For people."""
        return f"Generator: {self.generator}. Judges: {', '.join(self.judges)}."


def choose_here(settings: Settings, env: Mapping[str, str]) -> Choice:
    """For workers on this machine. Raises ConfigurationError for unknown names, or a licence that was not accepted."""
    return _choice(generators.resolve_auto(settings), settings, env)


def choose_for_cluster(client: Client, settings: Settings, env: Mapping[str, str]) -> Choice:
    """For a cluster: its devices say what they run. Raises ConfigurationError when none is up to say it."""
    wanted = settings.generation.generator
    if wanted != generators.AUTO:
        wanted = generators.resolve_auto(settings)
    devices = client.devices()
    choice = _choice(generator_of(devices, wanted), settings, env)
    offered = {name for beat in devices.values() if beat is not None for name in beat.generators}
    needed = (choice.generator, *((RAW_SWAP,) if settings.search.swaps else ()))
    return replace(choice, awaited=tuple(name for name in needed if name not in offered))


@dataclass(frozen=True)
class Order:
    """How a submission is treated."""

    priority: int = 0
    force: bool = False


def submit(client: Client, tasks: tuple[Task, ...], settings: Settings, choice: Choice, order: Order) -> Submitted:
    """Submit, and say on stderr which tasks were refused, and what is made more often than it is worth."""
    size = make_search(settings.search).size()
    if choice.generator == RAW_SWAP and size > 1:
        sys.stderr.write(
            f"{RAW_SWAP} makes the same picture from every seed, and this search asks for up to {size} candidates of a "
            "task: --k-global 1 --m-global 0 makes one.\n"
        )
    for name in choice.awaited:
        flag = f"--generator {name}" if name == choice.generator else "--set search.include_raw_swap=true"
        sys.stderr.write(
            f"No device that is up runs {name}, so its candidates wait for one: start `inpaint-eacps worker {flag}`.\n"
        )
    submitted = client.submit(
        tasks,
        settings,
        generator=choice.generator,
        judges=choice.judges,
        own_queue=choice.own_queue,
        comparer=choice.comparer,
        priority=order.priority,
        force=order.force,
    )
    for reason in submitted.refused.values():
        sys.stderr.write(f"Left out: {reason}\n")
    return submitted


def _choice(generator: str, settings: Settings, env: Mapping[str, str]) -> Choice:
    if generator == RAW_SWAP or settings.search.swaps:
        settings.generation.insightface.require_acceptance()
    names = judges.resolve_auto(settings, env)
    listed = {judge for rule in settings.scoring.criteria.values() for judge in rule.judges}
    everyone = {name: judges.criteria_of(name, settings) for name in dict.fromkeys((*names, *sorted(listed)))}
    own_queue = ("moondream",) if "moondream" in everyone and settings.scoring.moondream.mode == "local" else ()
    return Choice(generator, everyone, own_queue, judges.comparer_of(everyone, settings))
