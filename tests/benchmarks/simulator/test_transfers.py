"""Threads in virtual time."""

from benchmarks.simulator.transfers import Transfers


def test_reads_share_the_threads_and_copies_have_their_own() -> None:
    transfers = Transfers(num_readers=2)
    for digest, took_s in (("a", 5.0), ("b", 2.0), ("c", 2.0)):
        transfers.begin("read", digest, 1.0, took_s)
    transfers.begin("copy", "d", 1.0, 1.0)
    transfers.begin("copy", "e", 1.0, 1.0)
    assert transfers.next_end_s == 2.0
    ended = transfers.take_ended(10.0)
    assert [(each.digest, each.ended_s) for each in ended] == [
        ("d", 2.0),
        ("b", 3.0),
        ("e", 3.0),
        ("c", 5.0),  # after b, on its thread
        ("a", 6.0),
    ]
    assert transfers.next_end_s is None


def test_nothing_ends_early_or_twice() -> None:
    transfers = Transfers(num_readers=1)
    transfers.begin("read", "a", 0.0, 5.0)
    assert transfers.take_ended(4.9) == []
    assert [each.digest for each in transfers.take_ended(5.0)] == ["a"]
    assert transfers.take_ended(5.0) == []
