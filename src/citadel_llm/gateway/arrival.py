"""A request for a model as it comes in: its head, its key, its body, and no more than may be."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from time import monotonic, time
from typing import TYPE_CHECKING

from citadel_llm.gateway.auth import check_scope
from citadel_llm.gateway.errors import (
    BodyMemoryError,
    BodyTooLargeError,
    GatewayError,
    InvalidKeyError,
    RequestTimeoutError,
    ServerError,
)
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.unexpected import log_unexpected
from citadel_llm.gateway.wire.heads import RequestHead
from citadel_llm.store import KeyRecord

if TYPE_CHECKING:
    from citadel_llm.gateway.wire.server import GatewayProtocol


class Arrival(ABC):
    """The half of an exchange that faces its client; see `exchange.Exchange`.

    Args:
        traffic: What all requests share.
        client: The connection that it came by.
        head: The request's.

    Attributes:
        keep_alive: Whether the connection is to live on afterwards.
        response_complete: Whether it is over; uvicorn's protocol looks at this, too.
        request_id: The client's own, or made here.
        number: Its name in the accounts, always made here.
        began: When it arrived, by the monotonic clock.
        began_unix: The same in Unix time.
        key: Whose it is, once that is known.
    """

    __slots__ = (
        "_body",
        "_body_bytes",
        "_body_complete",
        "_started",
        "began",
        "began_unix",
        "client",
        "head",
        "keep_alive",
        "key",
        "number",
        "path",
        "request_id",
        "response_complete",
        "traffic",
    )

    def __init__(self, traffic: Traffic, client: "GatewayProtocol", head: RequestHead) -> None:
        self.traffic = traffic
        self.client = client
        self.head = head
        self.path = head.path
        self.keep_alive = head.keep_alive
        self.began = monotonic()
        self.began_unix = time()
        self.number = traffic.new_id()
        self.request_id = head.request_id or self.number
        self._body: list[bytes] = []
        self.response_complete = False
        self.key: KeyRecord | None = None
        self._body_bytes = 0
        self._body_complete = False
        self._started = False

    # The request, as it comes in.

    def start(self) -> None:
        """Begin: it is this request's turn on its connection, and its head is complete."""
        self._started = True
        self._guarded(self._authenticate)

    def take_whole(self, body: bytes) -> None:
        """Begin, with the whole body."""
        self._body.append(body)
        self._body_bytes = len(body)
        self._body_complete = True
        self.traffic.body_bytes += len(body)
        self.start()

    def feed(self, data: bytes) -> None:
        """Take some of the body."""
        if self.response_complete:
            return
        self._body_bytes += len(data)
        self.traffic.body_bytes += len(data)
        self._body.append(data)
        if self._started:
            # One that waits in a pipeline is looked at when its turn comes; meanwhile no more of it is read.
            self._guarded(self._check_size)

    def feed_end(self) -> None:
        """The body is complete."""
        self._body_complete = True
        if self._started and self.key is not None and not self.response_complete:
            self._guarded(self._admit)

    def _check_size(self) -> None:
        """Whether the body, as far as it is there or announced, may be as large as it is.

        Raises:
            BodyTooLargeError: It may not.
            BodyMemoryError: It might, if there were not so many others just now.
        """
        settings, size = self.traffic.settings, max(self.head.length or 0, self._body_bytes)
        if size > settings.max_body_bytes:
            raise self._too_large()
        if self.traffic.body_bytes > settings.body_memory_bytes:
            message = "Too many large requests are on their way just now; try again soon."
            raise BodyMemoryError(message, retry_after=1)

    def _authenticate(self) -> None:
        self._check_size()
        head, keys = self.head, self.traffic.keys
        record = keys.find_hash(head.key_hash)
        if record is not None:
            self._let_in(record)
        elif head.credentials:
            self.traffic.spawn(self._find_key(head.credentials))
        else:
            raise InvalidKeyError("No API key was sent. Send it in the header 'Authorization: Bearer ck-…'.")

    async def _find_key(self, credentials: str) -> None:
        """Look a key up that memory does not know: it may have been made a moment ago."""
        try:
            record = await self.traffic.keys.find(credentials)
        except GatewayError as error:
            self.refuse(error)
            return
        if self.response_complete:
            return
        if record is None:
            self.refuse(self.traffic.keys.refusal(credentials))
        else:
            self._guarded(lambda: self._let_in(record))

    def _let_in(self, record: KeyRecord) -> None:
        check_scope(record)
        self.key = record
        if self._body_complete:
            self._admit()
        else:
            self.client.invite_body()

    def abandon(self) -> None:
        """Forget it: its connection was lost before its turn came."""
        self.response_complete = True
        self._free_body()

    def take_body(self) -> bytes:
        """The whole body, in one piece."""
        if len(self._body) != 1:
            self._body = [b"".join(self._body)]
        return self._body[0]

    def _free_body(self) -> None:
        """It is needed no more."""
        self.traffic.body_bytes -= self._body_bytes
        self._body_bytes = 0
        self._body = []

    def late(self) -> None:
        """The client sends nothing more of its request."""
        self.keep_alive = False
        self.refuse(RequestTimeoutError("The request's body did not come in time."))

    def _guarded(self, step: Callable[[], None]) -> None:
        """Do a step; whatever goes wrong becomes an answer."""
        try:
            step()
        except GatewayError as error:
            self.refuse(error)
        except Exception as error:
            log_unexpected(self.request_id, error)
            message = f"The gateway failed. Quote the request id {self.request_id} when reporting this."
            self.refuse(ServerError(message))

    def _too_large(self) -> BodyTooLargeError:
        limit = self.traffic.settings.max_body_bytes
        return BodyTooLargeError(f"The request's body is too large: at most {limit} bytes are accepted.")

    @abstractmethod
    def refuse(self, error: GatewayError) -> None:
        """Answer with an error, the answer not having begun."""

    @abstractmethod
    def _admit(self) -> None:
        """Go on: key and body are complete."""
