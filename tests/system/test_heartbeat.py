"""Who counts as lost, with a clock of our own."""

from sprec.system.heartbeat import SILENCE, Hearing


def test_a_host_is_lost_after_silence_unless_it_has_finished() -> None:
    now = 100.0
    hearing = Hearing(hosts=4, own=0, clock=lambda: now)
    hearing.hear([b"0", b"0", b"0", b"0"])
    now += SILENCE
    assert hearing.lost() == [], "not longer than that"
    hearing.hear([b"0", b"1", b"0", b"done"])
    now += 1
    assert hearing.lost() == [2], "the same word again is silence"
    assert hearing.cut_off(), "its own word came back as it was"
    hearing.hear([b"1", b"1", b"0", b"done"])
    assert not hearing.cut_off()
    now += SILENCE
    assert hearing.lost() == [1, 2], "what has finished may be silent"
    hearing.hear([b"0", b"1", b"1", b"done"])
    assert hearing.lost() == [1]


def test_a_host_that_was_never_heard_of_is_lost() -> None:
    now = 0.0
    hearing = Hearing(hosts=2, own=1, clock=lambda: now)
    now = SILENCE + 0.5
    assert hearing.lost() == [0]
