"""Cutting a stream so that an error can follow at any time."""

from hypothesis import given
from hypothesis import strategies as st

from citadel_llm.gateway.answer import WholeEvents

CHUNKS = st.lists(
    st.binary(max_size=8) | st.sampled_from([b"\n", b"\n\n", b"\r\n", b"\r\n\r\n", b"data: x\n\n"])
)


@given(CHUNKS)
def test_nothing_is_lost_or_moved(chunks: list[bytes]) -> None:
    events = WholeEvents()
    passed = [events.feed(chunk) for chunk in chunks]
    assert b"".join([*passed, events.rest()]) == b"".join(chunks)


@given(CHUNKS)
def test_what_is_passed_on_ends_with_an_event(chunks: list[bytes]) -> None:
    events = WholeEvents()
    for chunk in chunks:
        passed = events.feed(chunk)
        assert not passed or passed.endswith((b"\n\n", b"\r\n\r\n"))


def test_whole_events_pass_at_once() -> None:
    events = WholeEvents()
    assert events.feed(b"data: 1\n\n") == b"data: 1\n\n"
    assert events.feed(b"data: 2\n\ndata:") == b"data: 2\n\n"
    assert events.feed(b" 3\n\n") == b"data: 3\n\n"


def test_an_endless_event_is_not_held_for_ever() -> None:
    events, size = WholeEvents(), 0
    for _ in range(40):
        size += len(events.feed(b"x" * 65536))
    assert size > 0
