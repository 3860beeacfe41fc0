"""Which connection goes when there are too many."""

from labkit.web.crowd import Crowd


class Somebody:
    def __init__(self, crowd: Crowd, waits: bool = True) -> None:
        self.evicted = False
        self._crowd = crowd
        if waits:
            crowd.wait(self)
        crowd.enter(self)

    def evict(self) -> None:
        self.evicted = True
        self._crowd.leave(self)


def evicted(*somebodies: Somebody) -> list[bool]:
    return [somebody.evicted for somebody in somebodies]


def test_the_one_that_has_waited_longest_goes() -> None:
    crowd = Crowd(limit=2)
    first, second, third, fourth = (Somebody(crowd) for _ in range(4))
    assert evicted(first, second, third, fourth) == [True, True, False, False]


def test_one_at_work_stays_and_waits_anew_after_it() -> None:
    crowd = Crowd(limit=2)
    first, second = Somebody(crowd), Somebody(crowd)
    crowd.work(first)
    third = Somebody(crowd)
    assert evicted(first, second, third) == [False, True, False]
    crowd.wait(first)
    fourth = Somebody(crowd)
    assert evicted(first, third, fourth) == [False, True, False]


def test_if_all_are_at_work_the_new_one_goes() -> None:
    crowd = Crowd(limit=2)
    workers = [Somebody(crowd, waits=False) for _ in range(2)]
    late = Somebody(crowd)
    assert late.evicted and evicted(*workers) == [False, False]


def test_a_place_that_was_left_is_free_again() -> None:
    crowd = Crowd(limit=1)
    crowd.leave(Somebody(crowd))
    assert not Somebody(crowd).evicted


def test_sockets_take_half_of_the_places() -> None:
    crowd = Crowd(limit=4)
    Somebody(crowd)
    workers = [Somebody(crowd, waits=False) for _ in range(2)]
    assert crowd.takes_sockets, "who waits is not at work"
    workers.append(Somebody(crowd, waits=False))
    assert not crowd.takes_sockets
    crowd.leave(workers[0])
    assert crowd.takes_sockets
