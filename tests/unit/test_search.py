"""What every search promises, and what each does on its own."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.search import make_search
from orchestrator.search.ranking import best, promising, ranked
from shared.settings.search import SearchSettings
from shared.types import Candidate, CandidateSpec, CandidateState, Start
from tests.unit.search_support import World, play, scored

ALL_FINE = World(seed=1)

settings_strategy = st.builds(
    SearchSettings,
    name=st.sampled_from(["eacps", "best-of-n", "zero-order"]),
    k_global=st.integers(1, 6),
    m_global=st.integers(0, 4),
    k_local=st.integers(0, 3),
    n=st.none() | st.integers(1, 8),
    rounds=st.integers(0, 3),
    neighbours=st.integers(1, 3),
    prune_at=st.none() | st.just(0.3),
    prune_keep=st.integers(1, 4),
    include_raw_swap=st.booleans(),
    base_seed=st.integers(1, 2**31 - 1),
    seed_stride=st.sampled_from([1, 31, 99_999]),
)
world_strategy = st.builds(
    World,
    seed=st.integers(0, 10_000),
    p_failed=st.sampled_from([0.0, 0.3, 1.0]),
    p_unscored=st.sampled_from([0.0, 0.3]),
    p_default=st.sampled_from([0.0, 0.3, 1.0]),
)


def by_id(history: Sequence[Candidate]) -> dict[str, Candidate]:
    return {candidate.spec.id: candidate for candidate in history}


@given(settings_strategy, world_strategy, st.integers(0, 10_000))
def test_any_order_of_arrival_gives_the_same_candidates_and_winner(
    settings: SearchSettings, world: World, shuffle: int
) -> None:
    search = make_search(settings)
    expected = play(search, world.settle)
    actual = play(search, world.settle, order=random.Random(shuffle))
    assert by_id(actual) == by_id(expected)
    assert best(actual) == best(expected)
    assert ranked(actual) == ranked(expected)


@given(settings_strategy, world_strategy, st.integers(0, 10_000))
def test_the_same_history_gives_the_same_step_and_never_a_known_spec(
    settings: SearchSettings, world: World, shuffle: int
) -> None:
    chance = random.Random(shuffle)

    def watch(history: Sequence[Candidate]) -> None:
        step = make_search(settings).ask(history)
        assert step == make_search(settings).ask(chance.sample(list(history), len(history)))
        assert not {spec.id for spec in step.specs} & by_id(history).keys()

    play(make_search(settings), world.settle, order=chance, watch=watch)


@given(settings_strategy, world_strategy, st.integers(0, 10_000))
def test_what_was_asked_for_is_never_withdrawn(settings: SearchSettings, world: World, shuffle: int) -> None:
    """Every part of a history, lost candidates included, asks only for candidates of the whole."""
    search = make_search(settings)
    whole = play(search, world.settle)
    chance = random.Random(shuffle)
    some = chance.sample(list(whole), chance.randint(0, len(whole)))
    step = search.ask(some)
    specs = {candidate.spec.id: candidate.spec for candidate in whole}
    assert all(specs.get(spec.id) == spec for spec in step.specs)
    assert not {spec.id for spec in step.specs} & by_id(some).keys()
    assert step.done == (len(some) == len(whole))
    assert step.done or step.specs


@given(settings_strategy, world_strategy)
def test_ids_seeds_and_orders_are_unique_and_never_more_than_the_stated_size(
    settings: SearchSettings, world: World
) -> None:
    search = make_search(settings)
    specs = [candidate.spec for candidate in play(search, world.settle)]
    assert len({spec.id for spec in specs}) == len(specs) <= search.size()
    assert len({spec.order for spec in specs}) == len(specs)
    drawn = [spec.seed for spec in specs if spec.start is not Start.RESUME]
    assert len(set(drawn)) == len(drawn)


@given(settings_strategy, world_strategy)
def test_only_scored_candidates_parent_and_defaults_only_when_nothing_is_real(
    settings: SearchSettings, world: World
) -> None:
    whole = play(make_search(settings), world.settle)
    known = by_id(whole)
    for child in whole:
        if child.spec.parent is None:
            continue
        parent = known[child.spec.parent]
        assert parent.potential is not None
        assert parent.combined is not None
        if parent.combined.defaulted:
            rivals = [
                c for c in whole if c.spec.depth < child.spec.depth and c.spec.is_preview == parent.spec.is_preview
            ]
            assert all(rival.combined.defaulted for rival in rivals if rival.combined and rival.potential is not None)


@given(settings_strategy, world_strategy)
def test_failed_unscored_and_preview_candidates_never_win(settings: SearchSettings, world: World) -> None:
    whole = play(make_search(settings), world.settle)
    winner = best(whole)
    able = [c for c in whole if c.potential is not None and not c.spec.is_preview]
    assert (winner is None) == (not able)
    if winner is not None:
        assert winner in able
        assert winner.combined is not None
        real = [c for c in able if c.combined is not None and not c.combined.defaulted]
        assert bool(winner.combined.defaulted) == (not real)
        assert winner.potential == max(c.potential for c in (real or able) if c.potential is not None)


@given(st.integers(1, 8), st.data(), st.integers(0, 4), st.integers(0, 10_000))
def test_eacps_comes_to_k_global_plus_m_global_times_k_local(
    k: int, data: st.DataObject, local: int, seed: int
) -> None:
    m = data.draw(st.integers(0, k))
    settings = SearchSettings(k_global=k, m_global=m, k_local=local)
    whole = play(make_search(settings), World(seed=seed).settle)
    assert len(whole) == k + m * local == make_search(settings).size() == settings.budget
    assert len(play(make_search(settings.model_copy(update={"name": "best-of-n"})), ALL_FINE.settle)) == len(whole)


def test_ties_go_to_the_candidate_asked_for_first() -> None:
    search = make_search(SearchSettings())
    whole = play(search, lambda spec: scored(spec, 5.0), order=random.Random(3))
    assert [candidate.spec.id for candidate in ranked(whole)] == [
        *("g00", "g01", "g02", "g03"),
        *("l00.0", "l00.1", "l01.0", "l01.1"),
    ]


def test_eacps_refines_the_best_with_unrelated_seeds_and_the_set_strength() -> None:
    potentials = {"g00": 1.0, "g01": 9.0, "g02": 3.0, "g03": 7.0}
    whole = play(make_search(SearchSettings()), lambda spec: scored(spec, potentials.get(spec.id, 0.0)))
    specs = {candidate.spec.id: candidate.spec for candidate in whole}
    assert [specs[f"g0{i}"].seed for i in range(4)] == [5000, 5031, 5062, 5093]
    assert [spec.id for spec in specs.values() if spec.phase == "local"] == ["l01.0", "l01.1", "l03.0", "l03.1"]
    child = specs["l03.1"]
    assert (child.parent, child.start, child.strength, child.order) == ("g03", Start.REFINE, 0.55, (1, 3, 1))


def test_locals_wait_for_the_last_global() -> None:
    search = make_search(SearchSettings())
    globals_ = [scored(spec, 5.0) for spec in search.ask(()).specs]
    waiting = [*globals_[:3], globals_[3].model_copy(update={"state": CandidateState.GENERATED})]
    assert search.ask(waiting) == type(search.ask(()))(specs=(), done=False)
    assert len(search.ask(globals_).specs) == 4


@pytest.mark.parametrize("name", ["eacps", "best-of-n", "zero-order"])
def test_a_search_of_failures_ends_without_a_winner(name: str) -> None:
    search = make_search(SearchSettings.model_validate({"name": name}))
    whole = play(search, World(seed=0, p_failed=1.0).settle)
    assert best(whole) is None
    assert all(candidate.spec.phase == "global" for candidate in whole)


def test_pruning_finishes_the_best_previews_from_where_they_stopped() -> None:
    settings = SearchSettings(prune_at=0.3, prune_keep=2, m_global=1)
    potentials = {"p00": 1.0, "p01": 9.0, "p02": 3.0, "p03": 7.0, "g01": 2.0, "g03": 4.0}
    whole = play(make_search(settings), lambda spec: scored(spec, potentials.get(spec.id, 0.5)))
    specs = {candidate.spec.id: candidate.spec for candidate in whole}
    assert list(specs) == ["p00", "p01", "p02", "p03", "g01", "g03", "l03.0", "l03.1"]
    assert {specs[f"p0{i}"].stop_at for i in range(4)} == {0.3}
    assert specs["p01"].is_preview
    resumed = specs["g01"]
    assert (resumed.start, resumed.parent, resumed.seed, resumed.stop_at) == (Start.RESUME, "p01", 5031, None)
    assert specs["p00"].depth < resumed.depth < specs["l03.0"].depth
    winner = best(whole)
    assert winner is not None
    assert winner.spec.id == "g03"


def test_a_raw_swap_competes_and_is_refined() -> None:
    settings = SearchSettings(k_global=2, m_global=1, k_local=2, include_raw_swap=True)
    whole = play(make_search(settings), lambda spec: scored(spec, 9.0 if spec.id == "r00" else 1.0))
    specs = {candidate.spec.id: candidate.spec for candidate in whole}
    assert list(specs) == ["g00", "g01", "r00", "r00.0", "r00.1"]
    raw, child = specs["r00"], specs["r00.0"]
    assert (raw.phase, raw.seed, raw.generator, raw.start) == ("raw", 0, "insightface-swap", Start.FRESH)
    assert (child.parent, child.generator, child.start, child.phase) == ("r00", None, Start.REFINE, "local")


def test_zero_order_moves_to_a_better_neighbour_and_else_stays() -> None:
    settings = SearchSettings(name="zero-order", rounds=3, neighbours=2)
    potentials = {"g00": 5.0, "n00.0": 5.0, "n00.1": 4.0, "n01.1": 6.0}
    whole = play(make_search(settings), lambda spec: scored(spec, potentials.get(spec.id, 1.0)))
    parents = {candidate.spec.id: candidate.spec.parent for candidate in whole}
    assert parents == {
        "g00": None,
        "n00.0": "g00",
        "n00.1": "g00",
        "n01.0": "g00",
        "n01.1": "g00",
        "n02.0": "n01.1",
        "n02.1": "n01.1",
    }


def test_zero_order_replaces_a_pivot_that_failed() -> None:
    settings = SearchSettings(name="zero-order", rounds=1, neighbours=1)

    def settle(spec: CandidateSpec) -> Candidate:
        return Candidate(spec=spec, state=CandidateState.FAILED) if spec.id == "g00" else scored(spec, 1.0)

    assert [c.spec.id for c in play(make_search(settings), settle)] == ["g00", "g01", "n00.0"]


def test_a_default_goes_on_only_when_nothing_is_real() -> None:
    first, second, *_ = make_search(SearchSettings()).ask(()).specs
    default, real = scored(first, 9.0, defaulted=("quality",)), scored(second, 1.0)
    assert promising((default, real), 2) == (real,)
    assert promising((default,), 2) == (default,)
    assert ranked((default, real)) == (real, default)
