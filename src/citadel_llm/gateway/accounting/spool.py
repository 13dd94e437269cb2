"""The spool on disk, as it is written: a folder for each gateway process, in it numbered segments.

```
spool/<run>/lock          held (flock) by the process for as long as it lives
spool/<run>/00000001.seg  preallocated, written from the beginning, zeros after that
```

A segment is mapped into memory, so that noting a request is a copy of bytes: no system call, which would cost
more, and would give the interpreter's lock away to whichever thread wants it. The copy belongs to the kernel
at once and outlives the process. A segment's blocks are allocated beforehand: a full disk shows when the next
segment is made, and never as SIGBUS in the middle of a record.
"""

import mmap
import os
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from uuid import uuid4

from citadel_llm.gateway.accounting.folders import make_run, spool_bytes
from citadel_llm.gateway.accounting.frames import BEGIN, END, HEAD, encode, frame
from citadel_llm.gateway.accounting.metrics import AccountingMetrics
from citadel_llm.gateway.accounting.records import Begun, Ended
from citadel_llm.store.usage_delivery import Position

SEGMENT_BYTES = 4 << 20
# At least so many segments go into the space allowed.
_MIN_SEGMENTS = 8
# What may wait in memory while the disk has no room; the last quarter is for ends, which say more.
_HELD_BYTES = 16 << 20
_HELD_BYTES_BEGINS = _HELD_BYTES * 3 // 4
_SUM_BITS = 0xFFFFFFFF


def _nobody() -> None:
    """Wake nobody."""


class SpoolFullError(OSError):
    """The spool has reached the size that it may have."""


class Segment:
    """One file of the spool, in memory.

    Args:
        path: The file, which must not be there yet.
        number: Its place among the run's segments, from 1.
        size: Bytes.

    Raises:
        OSError: There is no room for it, or no right to make it.
    """

    def __init__(self, path: Path, number: int, size: int) -> None:
        self.number = number
        self.size = size
        self.at = 0  # up to here it is written
        self.descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(self.descriptor, 0, size)
            self.map = mmap.mmap(self.descriptor, size)
        except OSError:
            os.close(self.descriptor)
            path.unlink()
            raise

    def close(self) -> None:
        """Let go of the file; what is in it stays."""
        self.map.close()
        os.close(self.descriptor)


class SpoolWriter:
    """Writes one process's records. `begin` and `end` belong to one thread, `prepare` to any other.

    Args:
        root: The folder of all spools.
        max_bytes: What all of them together may take.
        metrics: Told what is held back and lost.
        wake: Called when `prepare` should be.
    """

    def __init__(
        self, root: Path, max_bytes: int, metrics: AccountingMetrics, wake: Callable[[], None] = _nobody
    ) -> None:
        self.run = uuid4().hex
        self.folder = root / self.run
        self.segment: Segment | None = None
        self.problem = ""  # why there is no room, if there is none
        self._root, self._max_bytes, self._metrics = root, max_bytes, metrics
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // _MIN_SEGMENTS)
        self._spare: Segment | None = None
        self._preparing = Lock()
        self._wake = wake
        self._lock: int | None = None
        self._made = 0
        self._number = 0
        self._limit = 0  # of the segment; 0 also while records are held back: they come first
        self._held: deque[bytes] = deque()
        self._held_bytes = 0
        self._closed = False

    def begin(self, begun: Begun) -> int:
        """Note that a request begins. When this returns, its record outlives the process.

        Returns:
            The number by which its end is noted; 0 when there was no room anywhere.
        """
        payload = encode(begun)
        self._number = number = self._number + 1
        size = len(payload)
        segment = self.segment
        if segment is not None and (end := (at := segment.at) + HEAD.size + size) <= self._limit:
            checksum = zlib.crc32(payload, (number ^ number >> 32) & _SUM_BITS)
            segment.map[at:end] = HEAD.pack(BEGIN, size, checksum, number) + payload
            segment.at = end
            return number
        if self._write_slowly(frame(BEGIN, number, begun), _HELD_BYTES_BEGINS):
            return number
        self._metrics.lost.inc()
        return 0

    def end(self, number: int, ended: Ended) -> None:
        """Note how the request of a number ended. Once for each; nothing happens for 0."""
        if not number:
            return
        payload = encode(ended)
        size = len(payload)
        segment = self.segment
        if segment is not None and (end := (at := segment.at) + HEAD.size + size) <= self._limit:
            checksum = zlib.crc32(payload, (number ^ number >> 32) & _SUM_BITS)
            segment.map[at:end] = HEAD.pack(END, size, checksum, number) + payload
            segment.at = end
            return
        # Not kept, the request counts as one that nobody saw the end of.
        self._write_slowly(frame(END, number, ended), _HELD_BYTES)

    def write_held(self) -> None:
        """Write what is held back, as far as there is room. For the thread of `begin` and `end`."""
        while self._held and self._write(self._held[0]):
            self._held_bytes -= len(self._held.popleft())
        if self.segment is not None and not self._closed:
            self._limit = 0 if self._held else self.segment.size
        self._metrics.held.set(self._held_bytes)

    @property
    def holding(self) -> bool:
        """Whether records wait in memory."""
        return bool(self._held)

    def prepare(self) -> None:
        """Have the next segment ready before it is needed. `problem` says why there is none."""
        with self._preparing:
            self._prepare()

    def tail(self) -> Position:
        """Up to where the spool is written."""
        segment = self.segment
        return Position(1, 0) if segment is None else Position(segment.number, segment.at)

    def close(self) -> None:
        """Write no more. The lock stays: the folder is still this process's to deliver."""
        self.write_held()
        self._closed, self._limit = True, 0
        # Nobody will read the memory of a process that ends.
        self._metrics.lost.inc(sum(record.startswith(BEGIN) for record in self._held))

    def release(self) -> None:
        """Let go of the files and the lock: whoever wants may deliver the folder now."""
        for segment in (self.segment, self._spare):
            if segment is not None:
                segment.close()
        self.segment = self._spare = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _write_slowly(self, record: bytes, most: int) -> bool:
        """Write a record behind those held back, into the next segment if need be; or hold it back too."""
        if self._held:
            self.write_held()
        if not self._held and self._write(record):
            return True
        if self._closed or self._held_bytes + len(record) > most:
            return False
        self._held.append(record)
        self._held_bytes += len(record)
        self._limit = 0
        self._metrics.held.set(self._held_bytes)
        return True

    def _write(self, record: bytes) -> bool:
        if self._closed:
            return False
        segment = self.segment
        if segment is None or segment.at + len(record) > segment.size:
            segment = self._next_segment()
            if segment is None:
                return False
        end = segment.at + len(record)
        segment.map[segment.at : end] = record
        segment.at = end
        return True

    def _next_segment(self) -> Segment | None:
        with self._preparing:
            if not self.problem:
                # Usually it is there. Waiting for the disk once is better than a record in memory alone.
                self._prepare()
            spare, self._spare = self._spare, None
        self._wake()
        if spare is None:
            return None
        if self.segment is not None:
            self.segment.close()
        self.segment, self._limit = spare, spare.size
        return spare

    def _prepare(self) -> None:
        if self._spare is not None or self._closed:
            return
        try:
            self._spare = self._make_segment()
        except OSError as error:
            self.problem = error.strerror or str(error)
        else:
            self.problem = ""

    def _make_segment(self) -> Segment:
        if self._lock is None:
            self._lock = make_run(self._root, self.run)
        if spool_bytes(self._root) + self._segment_bytes > self._max_bytes:
            raise SpoolFullError(0, "it may not grow beyond gateway.accounting.spool_max_bytes")
        number = self._made + 1
        segment = Segment(self.folder / f"{number:08}.seg", number, self._segment_bytes)
        self._made = number
        return segment
