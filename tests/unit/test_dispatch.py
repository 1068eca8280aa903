"""Which pending candidate goes to which device."""

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.dispatch import DeviceRoom, Waiting, plan
from orchestrator.records import Pending, pending_score

MINE, OTHER = "mine", "other"


def waiting(task: str, number: int, urgency: float = 0.0, generator: str = MINE) -> Waiting:
    return Waiting(
        Pending(sequence=0, order=(0, number), run="r", task=task, candidate=f"g{number:02d}"), urgency, generator
    )


def room(
    device: str, free: int = 2, held: int = 0, warm: tuple[str, ...] = (), able: tuple[str, ...] = (MINE,)
) -> DeviceRoom:
    return DeviceRoom(device, free, held, frozenset(able), frozenset(f"r|{task}" for task in warm))


def given_out(found: list[tuple[Waiting, str]]) -> list[tuple[str, str, str]]:
    return [(one.pending.task, one.pending.candidate, device) for one, device in found]


def test_the_emptiest_device_is_served_first_and_none_beyond_its_room() -> None:
    found = plan([waiting("a", number) for number in range(9)], [room("d0", free=1, held=1), room("d1"), room("d2")])
    assert [device for _, _, device in given_out(found)] == ["d1", "d2", "d0", "d1", "d2"]


def test_a_device_gets_what_it_has_encoded_and_leaves_others_what_they_have() -> None:
    queue = [waiting("a", 0), waiting("b", 0), waiting("c", 0)]
    found = plan(queue, [room("d0", free=1, warm=("b",)), room("d1", free=1, warm=("a",)), room("d2", free=1)])
    assert given_out(found) == [("b", "g00", "d0"), ("a", "g00", "d1"), ("c", "g00", "d2")]


def test_affinity_leaves_no_device_idle_and_never_outweighs_urgency() -> None:
    assert given_out(plan([waiting("a", 0)], [room("d0", free=0, warm=("a",)), room("d1")])) == [("a", "g00", "d1")]
    found = plan([waiting("b", 0, urgency=-1), waiting("a", 0)], [room("d0", free=1, warm=("a",))])
    assert given_out(found) == [("b", "g00", "d0")]


def test_a_candidate_goes_only_where_it_can_be_made_and_blocks_nobody() -> None:
    queue = [waiting("a", 0, generator=OTHER), waiting("b", 0)]
    assert given_out(plan(queue, [room("d0")])) == [("b", "g00", "d0")]
    found = plan(queue, [room("d0", held=1), room("d1", able=(MINE, OTHER))])
    assert sorted(given_out(found)) == [("a", "g00", "d1"), ("b", "g00", "d0")]


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-2, 0), st.sampled_from([MINE, OTHER])), max_size=12),
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=4),
)
def test_nothing_is_given_twice_or_beyond_room_and_no_room_is_wasted(
    queue: list[tuple[str, int, str]], devices: list[tuple[int, int, bool]]
) -> None:
    asked = [waiting(task, number, urgency, kind) for number, (task, urgency, kind) in enumerate(queue)]
    asked.sort(key=lambda one: one.urgency)
    rooms = [
        room(f"d{number}", free=free, held=held, able=(MINE, OTHER) if both else (MINE,))
        for number, (free, held, both) in enumerate(devices)
    ]
    found = plan(asked, rooms)
    names = [one.pending.candidate for one, _ in found]
    assert len(names) == len(set(names))
    for each in rooms:
        mine = [one for one, device in found if device == each.device]
        assert len(mine) <= each.free
        assert all(one.generator in each.generators for one in mine)
        left = [one for one in asked if one.pending.candidate not in names and one.generator in each.generators]
        assert len(mine) == each.free or not left


def test_pending_members_sort_as_they_shall_be_served() -> None:
    deep, urgent, again = pending_score(0, 1), pending_score(1, 0), pending_score(0, 0, attempt=2)
    assert urgent < again < deep < pending_score(0, 0)
    assert again < pending_score(0, 5000)
    first = Pending(sequence=2, order=(0, 9), run="r", task="a", candidate="g09")
    later = [
        Pending(sequence=2, order=(0, 10), run="r", task="a", candidate="g10"),
        Pending(sequence=10, order=(0, 0), run="q", task="b", candidate="g00"),
    ]
    members = [one.member for one in (first, *later)]
    assert members == sorted(members)
    assert [Pending.parse(member) for member in members] == [first, *later]
