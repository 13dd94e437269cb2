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
from citadel_llm.gateway.headers import is_request_id
from citadel_llm.gateway.paths import InferencePath
from citadel_llm.gateway.traffic import Traffic
from citadel_llm.gateway.unexpected import log_unexpected
from citadel_llm.gateway.wire.heads import Header
from citadel_llm.store import KeyRecord

if TYPE_CHECKING:
    from citadel_llm.gateway.wire.server import GatewayProtocol


class Arrival(ABC):
    """The half of an exchange that faces its client; see `exchange.Exchange`.

    Args:
        traffic: What all requests share.
        client: The connection that it came by.
        path: What was asked for.
        headers: The request's, names in lower case.
        keep_alive: Whether the connection is to live on afterwards.
        chunked: Whether the client understands a chunked answer (HTTP/1.1).

    Attributes:
        response_complete: Whether it is over; uvicorn's protocol looks at this, too.
        request_id: The client's own, or made here.
        number: Its name in the accounts, always made here.
        address: The client's, as far as it is to be believed.
        began: When it arrived, by the monotonic clock.
        key: Whose it is, once that is known.
    """

    # Each begins as this; that it stands here and not in __init__ is a matter of microseconds.
    response_complete = False
    key: KeyRecord | None = None
    _body_bytes = 0
    _body_complete = False
    _started = False

    def __init__(
        self,
        traffic: Traffic,
        client: "GatewayProtocol",
        path: InferencePath,
        headers: list[Header],
        *,
        keep_alive: bool,
        chunked: bool,
    ) -> None:
        self.traffic = traffic
        self.client = client
        self.path = path
        self.keep_alive = keep_alive
        self.chunked = chunked
        self.began = monotonic()
        self.began_unix = time()
        self.headers = dict(headers)
        self.address = client.address
        given = self.headers.get(b"x-request-id", b"").decode("latin-1")
        self.number = traffic.new_id()
        self.request_id = given if given and is_request_id(given) else self.number
        self._body: list[bytes] = []

    # The request, as it comes in.

    def start(self) -> None:
        """Begin: it is this request's turn on its connection, and its head is complete."""
        self._started = True
        self._guarded(self._authenticate)

    def feed(self, data: bytes) -> None:
        """Take some of the body."""
        if self.response_complete:
            return
        traffic, settings = self.traffic, self.traffic.settings
        self._body_bytes += len(data)
        traffic.body_bytes += len(data)
        self._body.append(data)
        if not self._started:
            # Pipelined: it can be refused when its turn comes, and reading is paused meanwhile.
            return
        if self._body_bytes > settings.max_body_bytes:
            self.refuse(self._too_large())
        elif traffic.body_bytes > settings.body_memory_bytes:
            message = "Too many large requests are on their way just now; try again soon."
            self.refuse(BodyMemoryError(message, retry_after=1))

    def feed_end(self) -> None:
        """The body is complete."""
        self._body_complete = True
        if self._started and self.key is not None and not self.response_complete:
            self._guarded(self._admit)

    def _authenticate(self) -> None:
        announced = self.headers.get(b"content-length", b"")
        limit = self.traffic.settings.max_body_bytes
        if (announced.isdigit() and int(announced) > limit) or self._body_bytes > limit:
            raise self._too_large()
        credentials = self._credentials()
        record = self.traffic.keys.find_now(credentials)
        if record is None:
            self.traffic.spawn(self._find_key(credentials))
        else:
            self._let_in(record)

    def _credentials(self) -> str:
        """The key that was sent.

        Raises:
            InvalidKeyError: None was.
        """
        scheme, _, credentials = self.headers.get(b"authorization", b"").partition(b" ")
        credentials = credentials.strip() if scheme.lower() == b"bearer" else b""
        credentials = credentials or self.headers.get(b"x-api-key", b"").strip()
        if not credentials:
            raise InvalidKeyError("No API key was sent. Send it in the header 'Authorization: Bearer ck-…'.")
        return credentials.decode("latin-1")

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

    def _take_body(self) -> bytes:
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
