"""Who is cut: whoever takes nothing of what waits, and no one who reads slowly."""

import pytest

from labkit.net.tcp import Observer, Sight
from labkit.web.patience import LARGEST_READ, LONGEST_S, SHORTEST_S, Patience, Peer


def seconds_until_cut(peer: Peer, taken: int, waiting: int = 1, exact: bool = True) -> int | None:
    """Look every second at a peer that takes no more; None if it is not cut within ten minutes."""
    for second in range(1, 600):
        if peer.has_left(taken, exact, waiting, 1.0):
            return second
    return None


def test_who_takes_nothing_is_cut_after_ten_seconds() -> None:
    assert seconds_until_cut(Peer(), 0) == 11


@pytest.mark.parametrize("pace", [50, 500, 4_000, 10**7])
def test_steady_reader_is_not_cut_and_is_when_it_stops(pace: int) -> None:
    peer = Peer()
    assert not any(peer.has_left(pace * second, True, 10**5, 1.0) for second in range(600))
    left = seconds_until_cut(peer, pace * 599)
    assert left == 11


@pytest.mark.parametrize(("bite", "patience_s"), [(20_000, 40), (65_536, LONGEST_S), (LARGEST_READ + 1, 10)])
def test_bite_earns_the_time_in_which_a_person_reads_it(bite: int, patience_s: float) -> None:
    peer = Peer()
    assert not peer.has_left(bite, True, 1, 1.0)
    assert seconds_until_cut(peer, bite) == patience_s + 1


def test_peer_for_which_nothing_waits_is_not_cut() -> None:
    assert seconds_until_cut(Peer(), 0, waiting=0) is None


def test_peer_whose_reading_is_hidden_has_longer() -> None:
    assert seconds_until_cut(Peer(), 0, exact=False) == LONGEST_S + 1


class Transport:
    """A transport; what the kernel says of its connection, the test says."""

    def __init__(self, closing: bool = False) -> None:
        self.transport = self  # it is its own connection
        self.aborted = False
        self.buffered = 0
        self._closing = closing

    def get_extra_info(self, name: str) -> "Transport":
        return self

    def fileno(self) -> int:
        return 0

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self._closing

    def abort(self) -> None:
        self.aborted = True


@pytest.mark.parametrize(
    ("sight", "closing", "cut"),
    [
        (Sight(), False, False),
        (Sight(unheard_s=SHORTEST_S - 1), False, False),
        (Sight(unheard_s=SHORTEST_S + 1), False, True),
        (Sight(closed=True), False, True),
        (Sight(closed=True), True, False),
        (OSError("reset"), False, True),
    ],
    ids=["there", "late", "unheard", "closed", "closed and flushing", "reset"],
)
async def test_peer_that_has_gone_is_cut(
    monkeypatch: pytest.MonkeyPatch, sight: Sight | OSError, closing: bool, cut: bool
) -> None:
    def look(_observer: Observer, _sock: object) -> Sight:
        if isinstance(sight, OSError):
            raise sight
        return sight

    monkeypatch.setattr(Observer, "waiting", lambda _observer, _sock: 0)
    monkeypatch.setattr(Observer, "look", look)
    transport = Transport(closing)
    await Patience([transport])._look_at_all(1.0)  # type: ignore[list-item]
    assert transport.aborted == cut


@pytest.mark.parametrize("moves", [False, True])
async def test_where_the_kernel_says_nothing_the_own_buffer_must_do(
    monkeypatch: pytest.MonkeyPatch, moves: bool
) -> None:
    monkeypatch.setattr(Observer, "waiting", lambda _observer, _sock: 0)
    monkeypatch.setattr(Observer, "look", lambda _observer, _sock: None)
    transport = Transport()
    patience = Patience([transport])  # type: ignore[list-item]
    for second in range(int(LONGEST_S) + 5):
        transport.buffered = 70_000 + (second % 50 if moves else 0)
        await patience._look_at_all(1.0)
    assert transport.aborted != moves
