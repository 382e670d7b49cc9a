"""Growing waiting times."""

from datetime import timedelta

from localdev.host.backoff import Backoff


def seconds(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next().total_seconds() for _ in range(count)]


def test_waiting_times_grow_up_to_the_maximum() -> None:
    """They are 1, 2, 3, 5, 9 … times the minimum. The part above the minimum varies by 20 %."""
    waited = seconds(Backoff(timedelta(seconds=10), timedelta(seconds=125)), 9)
    assert waited[0] == 10
    for got, factor in zip(waited[1:5], (1, 2, 4, 8), strict=True):
        assert 10 + 0.8 * 10 * factor <= got <= 10 + 1.2 * 10 * factor
    assert waited[5:] == [125, 125, 125, 125]


def test_a_reset_starts_with_the_minimum_again() -> None:
    """A success does this, for example a message in the queue."""
    backoff = Backoff(timedelta(seconds=1), timedelta(seconds=2))
    before = seconds(backoff, 4)
    backoff.reset()
    after = seconds(backoff, 4)
    assert before[0] == after[0] == 1
    assert before[3] == after[3] == 2


def test_waiting_times_without_room_to_grow_are_the_same() -> None:
    """This is a fixed delay, also without any delay."""
    assert seconds(Backoff(timedelta(seconds=5), timedelta(seconds=5)), 3) == [5, 5, 5]
    assert seconds(Backoff(timedelta(), timedelta()), 3) == [0, 0, 0]
