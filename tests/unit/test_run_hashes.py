"""When two runs count as the same: only what changes an image or its score makes them differ."""

from collections.abc import Mapping

import pytest

from orchestrator import client
from orchestrator.client import config_hash, generation_hash
from shared.settings.load import Override, load_settings
from workers.generation import registry


def hashes(
    values: Mapping[str, object] | None = None, generator: str = "composite", judges: tuple[str, ...] = ("local",)
) -> tuple[str, str]:
    overrides = [Override(name, value, "--set") for name, value in (values or {}).items()]
    settings = load_settings([], {}, overrides).settings
    return generation_hash(settings, generator), config_hash(settings, generator, judges)


def test_settings_of_generators_that_are_not_used_change_nothing() -> None:
    assert hashes({"generation.qwen.steps": 7, "generation.openai_http.base_url": "http://localhost:1"}) == hashes()


def test_auto_and_the_name_it_stands_for_are_the_same() -> None:
    assert hashes({"generation.generator": "composite", "scoring.judges": "local"}) == hashes()


@pytest.mark.parametrize(
    ("generator", "setting", "value"),
    [
        ("composite", "generation.composite.rotation", 1.0),
        ("qwen-image-edit", "generation.qwen.steps", 7),
        ("openai-http", "generation.openai_http.base_url", "http://localhost:1"),
        ("insightface-swap", "generation.insightface.accept_noncommercial", True),
        ("package.module:Class", "generation.composite.rotation", 1.0),
    ],
)
def test_a_generators_own_settings_change_both(generator: str, setting: str, value: object) -> None:
    before, after = hashes({}, generator), hashes({setting: value}, generator)
    assert before[0] != after[0]
    assert before[1] != after[1]


def test_the_raw_swap_is_drawn_by_its_own_settings() -> None:
    with_swap: dict[str, object] = {"search.include_raw_swap": True}
    changed = hashes({**with_swap, "generation.insightface.accept_noncommercial": True})
    assert changed[0] != hashes(with_swap)[0]


def test_search_and_judges_change_the_result_and_no_image() -> None:
    for changed in (hashes({"search.k_global": 5}), hashes(judges=("gemini",)), hashes({"scoring.gates": False})):
        assert changed[0] == hashes()[0]
        assert changed[1] != hashes()[1]


def test_orchestrator_and_workers_agree_on_the_sections() -> None:
    """They cannot import each other; a generator missing here would be taken for one that reads every section."""
    assert {name: entry.section for name, entry in registry._GENERATORS.items()} == client._SECTIONS
