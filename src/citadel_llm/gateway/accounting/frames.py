"""How a record stands in the spool: a head of 20 bytes, then the record in MessagePack.

```
mark (4 bytes)  length (u32)  CRC-32 (u32)  number (u64)  record (length bytes)      little-endian
```

The mark says begin or end, and the format's version. The number joins the two records of a request. The sum
covers the record and the number. Where a frame is damaged, or was cut off by a crash, the next whole one is
looked for by its mark: one bad byte costs one record, not the rest of the file.
"""

from collections.abc import Callable, Iterator
from struct import Struct
from zlib import crc32

import msgspec

from citadel_llm.gateway.accounting.records import Begun, Ended

HEAD = Struct("<4sIIQ")
BEGIN = b"\xc1\x7ab1"
END = b"\xc1\x7ae1"
# Longer than any record; what claims more is damaged.
MOST_FRAME_BYTES = 1 << 16

_MARK = BEGIN[:2]
_SUM_BITS = 0xFFFFFFFF

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_decode: dict[bytes, Callable[[bytes], Begun | Ended]] = {
    BEGIN: msgspec.msgpack.Decoder(Begun).decode,
    END: msgspec.msgpack.Decoder(Ended).decode,
}


def frame(mark: bytes, number: int, record: Begun | Ended) -> bytes:
    """A record as it stands in the spool."""
    payload = encode(record)
    return HEAD.pack(mark, len(payload), crc32(payload, _seed(number)), number) + payload


def _seed(number: int) -> int:
    """All bits of the number in 32, so that the sum covers them."""
    return (number ^ number >> 32) & _SUM_BITS


def read_frames(data: bytes) -> Iterator[tuple[int, int, int, Begun | Ended]]:
    """The whole frames in some bytes: where each begins and ends, its request's number, its record.

    What is no whole frame is passed over in silence; the gaps between ends and begins show it.
    """
    at, head, last = 0, HEAD.size, len(data)
    while (at := data.find(_MARK, at)) >= 0 and at + head <= last:
        mark, length, checksum, number = HEAD.unpack_from(data, at)
        end = at + head + length
        decode = _decode.get(mark)
        if decode is not None and end <= last and length <= MOST_FRAME_BYTES - head:
            payload = data[at + head : end]
            if crc32(payload, _seed(number)) == checksum:
                try:
                    record = decode(payload)
                except msgspec.MsgspecError:  # whole, but of a version that nobody here knows
                    pass
                else:
                    yield at, end, number, record
                    at = end
                    continue
        at += 1
