"""Records as they stand in the spool: whatever bit of one is turned, it is not taken for another."""

import pytest

from citadel_llm.gateway.accounting import frames

from .spools import begun


@pytest.mark.parametrize("number", [1, 10**6, 1 << 40])
def test_no_turned_bit_goes_unseen(number: int) -> None:
    record = begun("request-1")
    whole = frames.frame(frames.BEGIN, number, record)
    assert [found for *_, found in frames.read_frames(whole)] == [record]
    for place in range(len(whole) * 8):
        turned = bytearray(whole)
        turned[place // 8] ^= 1 << place % 8
        assert not list(frames.read_frames(bytes(turned))), f"bit {place}"
