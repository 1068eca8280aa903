"""Which processes a machine runs: one plan per device worker or score worker."""

import socket
from collections.abc import Sequence

from inpaint_eacps.child import ChildPlan
from inpaint_eacps.devices import CPU, graphics_cards
from shared.errors import ConfigurationError
from shared.queues import PREPARE, SCORE, device_name
from shared.settings import Settings
from shared.settings.search import RAW_SWAP
from workers.scoring.registry import judge_names


def device_plans(settings: Settings, generator: str, devices: Sequence[str], cpu_workers: int) -> tuple[ChildPlan, ...]:
    """One plan per GPU, and `cpu_workers` for `cpu`; `devices` as `inpaint_eacps.devices.choose_devices` gives them.

    A GPU keeps its number in its queue's name; workers on the CPU are numbered after the GPUs.
    """
    host = socket.gethostname()
    generators: tuple[str, ...] = (generator,)
    if settings.search.swaps and generator != RAW_SWAP:
        generators += (RAW_SWAP,)
    on_gpu = [name for name in devices if name != CPU]
    cards = {f"cuda:{card.index}": card for card in graphics_cards()} if on_gpu else {}
    if gone := [name for name in on_gpu if name not in cards]:
        raise ConfigurationError(f"--device {gone[0]}: there is no such GPU here.")
    plans = [
        ChildPlan(
            role="device",
            settings=settings,
            device=device_name(host, cards[name].index),
            torch_device="cuda",
            visible_devices=cards[name].visible_as,
            generators=generators,
            hardware=cards[name].name,
        )
        for name in on_gpu
    ]
    first = max((cards[name].index for name in on_gpu), default=-1) + 1
    plans += [
        ChildPlan(
            role="device",
            settings=settings,
            device=device_name(host, first + number),
            visible_devices="",
            generators=generators,
        )
        for number in range(cpu_workers if CPU in devices else 0)
    ]
    return tuple(plans)


def score_plan(settings: Settings, queue: str, threads: int) -> ChildPlan:
    """A score worker. On the common queue it fetches and checks inputs too.

    Raises ConfigurationError for a queue on which nobody asks anything.
    """
    queues = tuple(part.strip() for part in queue.split(","))
    known = (SCORE, PREPARE, *(f"{SCORE}.{judge}" for judge in judge_names()))
    for name in queues:
        if name not in known:
            raise ConfigurationError(f"--queue {name}: there is no such queue; choose among {', '.join(known)}.")
    if queues == (SCORE,):
        queues = (SCORE, PREPARE)
    return ChildPlan(role="score", settings=settings, queues=queues, concurrency=threads)
