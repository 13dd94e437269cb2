"""Reads a run's spool, pairs begins with ends, and makes batches of what is over.

A batch is read once and stays the same until it is delivered, however often that has to be tried. What
restarts, whoever takes over, begins at the first segment that is left: ends before the delivered position are
known to the database, begins before it may still be open.
"""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from citadel_llm.gateway.accounting.folders import segments_of
from citadel_llm.gateway.accounting.frames import MOST_FRAME_BYTES, read_frames
from citadel_llm.gateway.accounting.records import Begun, Ended
from citadel_llm.store.usage_delivery import Batch, Position, UsageRecord

# Read at once. Small enough that the thread which serves requests never waits long for the interpreter.
_CHUNK_BYTES = 128 << 10
_FEW_RECORDS = 500


class RunReader:
    """One run's spool, from its position in the database on.

    Args:
        folder: The run's folder.
        position: Up to where it has been delivered.
        tail: Tells up to where it is written, while its writer lives; None for the spool of a dead one, in
            which every request that has no end has been cut off.
        damaged: Called for each place that cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        position: Position,
        tail: Callable[[], Position] | None,
        damaged: Callable[[], None],
    ) -> None:
        self.delivered = position
        self._folder, self._tail, self._damaged = folder, tail, damaged
        self._open: dict[int, tuple[int, Begun]] = {}  # a request's number: its segment, its begin
        self._opened: Counter[int] = Counter()  # open begins in each segment
        first = next((number for number, _ in segments_of(folder)), 1)
        self._at = Position(first, 0)
        self._broken = False  # what was last read is no record
        self._pending: Batch | None = None

    def batch(self) -> Batch | None:
        """What is to be delivered next; None when that is nothing, for now or (of a dead run) for ever."""
        if self._pending is None:
            self._pending = self._read_batch()
        return self._pending

    def took(self) -> None:
        """The batch has been delivered: go on behind it, and remove the segments that nobody needs now."""
        if self._pending is not None:
            self.delivered, self._pending = self._pending.after, None
            self._remove_segments()

    def behind(self) -> int:
        """Bytes that are written and not delivered, roughly: whole segments count by their place."""
        tail = self._tail() if self._tail else self._at
        if tail.segment == self.delivered.segment:
            return tail.offset - self.delivered.offset
        known = {number: path.stat().st_size for number, path in segments_of(self._folder)}
        between = sum(known[number] for number in known if self.delivered.segment < number < tail.segment)
        rest = max(known.get(self.delivered.segment, 0) - self.delivered.offset, 0)
        return rest + between + tail.offset

    def _read_batch(self) -> Batch | None:
        records: list[UsageRecord] = []
        while len(records) < _FEW_RECORDS:
            end, is_last = self._end()
            if self._at.offset < end:
                self._read_chunk(end, records)
            elif is_last:
                break
            else:
                self._at = Position(self._next_segment(), 0)
        else:
            return Batch(self.delivered, max(self._at, self.delivered), records)
        if self._tail is None:
            records += [_cut_off(number, begun) for number, (_, begun) in self._open.items()]
            self._open.clear()
            return Batch(self.delivered, max(self._at, self.delivered), records, finished=True)
        return Batch(self.delivered, self._at, records) if records else None

    def _end(self) -> tuple[int, bool]:
        """Up to where the present segment can be read, and whether it is the last one."""
        if self._tail is not None:
            tail = self._tail()
            if self._at.segment >= tail.segment:
                return tail.offset, True
            return self._size(), False
        return self._size(), self._at.segment >= self._last_segment()

    def _size(self) -> int:
        path = self._path(self._at.segment)
        return path.stat().st_size if path.exists() else 0

    def _last_segment(self) -> int:
        return max((number for number, _ in segments_of(self._folder)), default=0)

    def _next_segment(self) -> int:
        """The next segment that is there: between them, some may have been delivered and removed."""
        later = (number for number, _ in segments_of(self._folder) if number > self._at.segment)
        return next(later, self._at.segment + 1)

    def _path(self, segment: int) -> Path:
        return self._folder / f"{segment:08}.seg"

    def _read_chunk(self, end: int, records: list[UsageRecord]) -> None:
        segment, start = self._at
        # Ends up to here are in the database.
        known = self.delivered
        known_to = known.offset if segment == known.segment else -1 if segment > known.segment else end
        with self._path(segment).open("rb") as file:
            file.seek(start)
            data = file.read(min(end - start, _CHUNK_BYTES))
        at = 0
        for begins, ends, number, record in read_frames(data):
            if begins > at:
                self._gap(data[at:begins])
            if self._broken:
                self._damaged()
                self._broken = False
            at = ends
            if isinstance(record, Begun):
                self._open[number] = segment, record
                self._opened[segment] += 1
            else:
                self._take_end(number, record, start + ends > known_to, records)
        if start + len(data) < end and data:
            # What is cut in two is read again, whole.
            self._at = Position(segment, start + (at or len(data) - MOST_FRAME_BYTES))
            return
        self._gap(data[at:])
        self._at = Position(segment, end)

    def _gap(self, data: bytes) -> None:
        # At a dead run's end it is the record that its writer was at: only what follows shows a damage.
        self._broken = self._broken or bool(data.strip(b"\0"))

    def _take_end(self, number: int, ended: Ended, is_new: bool, records: list[UsageRecord]) -> None:
        known = self._open.pop(number, None)
        if known is not None:
            self._opened[known[0]] -= 1
            if is_new:
                records.append(_ended(number, known[1], ended))
        elif is_new:
            # Were it delivered, its begin might be in a segment that is removed; so the begin is damaged.
            self._damaged()

    def _remove_segments(self) -> None:
        for number, path in segments_of(self._folder):
            if number >= self.delivered.segment:
                break
            if not self._opened[number]:
                path.unlink(missing_ok=True)
                del self._opened[number]


def _ended(number: int, begun: Begun, ended: Ended) -> UsageRecord:
    # By place, not by name: this runs for every request.
    return UsageRecord(
        number,
        begun.id,
        begun.began,
        begun.key_id,
        begun.team,
        ended.model or begun.model,
        begun.route,
        ended.engine or begun.engine,
        ended.status,
        ended.tokens_in,
        ended.tokens_cached,
        ended.tokens_out,
        ended.first_byte,
        ended.duration,
        ended.estimated,
    )


def _cut_off(number: int, begun: Begun) -> UsageRecord:
    """A request that nobody saw the end of: what was estimated of its prompt, and no answer."""
    return _ended(number, begun, Ended(0, begun.prompt_estimate, 0, 0, None, 0.0, estimated=True))
