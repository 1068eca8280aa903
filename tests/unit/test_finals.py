"""Pairwise finals."""

import math
import random
from itertools import combinations
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.finals import Comparison, final_ranking, finalists, next_pairs, pairs, strengths, ties, wins
from shared.types import Candidate, CandidateSpec
from tests.unit.search_support import scored


def field(*potentials: float | None, defaulted: tuple[int, ...] = ()) -> tuple[Candidate, ...]:
    return tuple(
        scored(
            CandidateSpec(id=f"g{i:02d}", phase="global", seed=i, order=(0, i)),
            potential,
            defaulted=("identity",) if i in defaulted else (),
        )
        for i, potential in enumerate(potentials)
    )


def ids(candidates: tuple[Candidate, ...]) -> list[str]:
    return [candidate.spec.id for candidate in candidates]


def both_orders(winner: str, loser: str) -> list[Comparison]:
    return [Comparison(winner, loser, 1), Comparison(loser, winner, -1)]


def test_finalists_are_the_best_real_scores() -> None:
    history = field(3.0, 9.0, None, 7.0, 8.0, defaulted=(1,))
    assert ids(finalists(history, 2)) == ["g04", "g03"]
    assert ids(finalists(history, 9)) == ["g04", "g03", "g00"]
    assert finalists(history[:3], 4) == ()


def test_every_pair_is_asked_in_both_orders_and_once() -> None:
    best = finalists(field(3.0, 2.0, 1.0), 3)
    asked = pairs(best)
    assert sorted(asked) == sorted({(a, b) for a in ids(best) for b in ids(best) if a != b})
    known = [Comparison(*asked[0], 1), Comparison(*asked[3], None)]
    assert set(next_pairs(best, known)) == set(asked) - {asked[0], asked[3]}
    assert next_pairs(best, [Comparison(*pair, 0) for pair in asked]) == ()


@pytest.mark.parametrize(
    ("forth", "back", "expected"),
    [(1, -1, 1.0), (-1, 1, 0.0), (1, 1, 0.5), (-1, -1, 0.5), (0, 0, 0.5), (1, 0, 0.5), (0, 1, 0.5)],
)
def test_only_agreement_in_both_orders_is_a_win(
    forth: Literal[-1, 0, 1], back: Literal[-1, 0, 1], expected: float
) -> None:
    points = wins([Comparison("g00", "g01", forth), Comparison("g01", "g00", back)])
    assert points == {("g00", "g01"): expected, ("g01", "g00"): 1 - expected}


def test_one_order_alone_says_nothing() -> None:
    assert wins([Comparison("g00", "g01", 1)]) == {}
    assert wins([Comparison("g00", "g01", 1), Comparison("g01", "g00", None)]) == {}
    history = field(3.0, 2.0)
    assert ids(final_ranking(history, [Comparison("g01", "g00", 1)], 2)) == ["g00", "g01"]


@given(st.permutations([f"g{i:02d}" for i in range(6)]))
def test_a_consistent_order_is_recovered(truth: list[str]) -> None:
    comparisons = [c for better, worse in combinations(truth, 2) for c in both_orders(better, worse)]
    history = field(*(float(i) for i in range(6)))
    assert ids(final_ranking(history, comparisons, 6)) == truth


def test_strengths_approach_those_that_drew_the_outcomes() -> None:
    truth = {"g00": 0.25, "g01": 0.5, "g02": 1.0, "g03": 2.0, "g04": 4.0}
    chance = random.Random(7)
    points: dict[tuple[str, str], float] = {}
    for one, other in combinations(truth, 2):
        won = sum(chance.random() < truth[one] / (truth[one] + truth[other]) for _ in range(2000))
        points[one, other], points[other, one] = float(won), float(2000 - won)
    found = strengths(list(truth), points)
    offset = sum(math.log(found[i] / truth[i]) for i in truth) / len(truth)
    for i, strength in truth.items():
        assert math.log(found[i] / strength) - offset == pytest.approx(0, abs=0.1)


def test_strengths_of_two_solve_the_stated_equation() -> None:
    """One win: p/(p+q) + (b/2 - b p/(p+1)) balances; by symmetry q = 1/p."""
    prior = 0.5
    found = strengths(["a", "b"], {("a", "b"): 1.0, ("b", "a"): 0.0}, prior=prior)
    p, q = found["a"], found["b"]
    assert p * q == pytest.approx(1)
    assert p / (p + q) + prior * p / (p + 1) == pytest.approx(1 + prior / 2)


def test_equals_keep_the_order_of_their_potentials_and_a_cycle_is_no_order() -> None:
    history = field(1.0, 3.0, 2.0, 0.5)
    cycle = [*both_orders("g00", "g01"), *both_orders("g01", "g02"), *both_orders("g02", "g00")]
    assert ids(final_ranking(history, cycle, 3)) == ["g01", "g02", "g00", "g03"]
    assert ids(final_ranking(history, [], 3)) == ["g01", "g02", "g00", "g03"]


@pytest.mark.parametrize("potential", [1.5, 2.5])
def test_the_middle_of_a_chain_equals_one_never_compared(potential: float) -> None:
    """Both have strength 1, which the iteration reaches for the one and starts from for the other."""
    history = field(1.0, 2.0, 3.0, potential)
    chain = [*both_orders("g00", "g01"), *both_orders("g01", "g02")]
    middle = ["g01", "g03"] if potential < 2 else ["g03", "g01"]
    assert ids(final_ranking(history, chain, 4)) == ["g00", *middle, "g02"]


def test_finals_decide_only_among_the_finalists() -> None:
    history = field(1.0, 3.0, 2.0, None)
    comparisons = [*both_orders("g02", "g01"), *both_orders("g00", "g02"), *both_orders("g00", "g01")]
    assert ids(final_ranking(history, comparisons, 2)) == ["g02", "g01", "g00"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([-1, 0, 1, None])), max_size=30))
def test_strengths_are_finite_whatever_was_said(said: list[tuple[int, int, Literal[-1, 0, 1] | None]]) -> None:
    comparisons = [Comparison(f"g{a:02d}", f"g{b:02d}", preference) for a, b, preference in said]
    found = strengths([f"g{i:02d}" for i in range(4)], wins(comparisons))
    assert all(0 < strength < math.inf for strength in found.values())
    history = field(4.0, 3.0, 2.0, 1.0)
    assert sorted(ids(final_ranking(history, comparisons, 4))) == ids(history)
    assert final_ranking(history, comparisons, 4) == final_ranking(history[::-1], comparisons, 4)


def test_ties_are_those_closer_than_the_margin() -> None:
    ranking = field(9.0, 9.0, 8.75, 8.5, 8.0)
    assert ids(ties(ranking, 0.5)) == ["g01", "g02"]
    assert ids(ties(ranking, 0.0)) == ["g01"]
    assert ties(ranking[3:], 0.25) == ()
    assert ties((), 1.0) == ()


def test_a_default_is_never_tied_with_a_real_score() -> None:
    assert ties(field(9.0, 9.0, defaulted=(1,)), 1.0) == ()


def test_after_finals_ties_look_both_ways() -> None:
    low, high = field(7.9, 8.0)
    assert ids(ties((low, high), 0.5)) == ["g01"]
