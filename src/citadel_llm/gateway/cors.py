"""Which web pages may call the API from a browser (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol).

None, unless `gateway.cors.origins` names them. Keys travel in a header that the page's own script sets, never
in a cookie, so that no answer allows credentials.
"""

from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from citadel_llm.config.gateway import Cors

_EXPOSED = (
    "x-request-id, retry-after, x-should-retry, "
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens"
)
_METHODS = "GET, POST, PATCH, DELETE"
_MAX_AGE_SECONDS = 600


class CrossOrigin:
    """Answers the question whether a page may read an answer.

    Args:
        settings: `gateway.cors`.
    """

    def __init__(self, settings: Cors) -> None:
        self.every = "*" in settings.origins
        self._lines = {
            origin: tuple(_allowing(origin)) for origin in map(_normal, settings.origins) if origin != "*"
        }
        self._for_every = tuple(_allowing("*"))

    def __bool__(self) -> bool:
        return self.every or bool(self._lines)

    def headers(self, origin: str | None) -> Sequence[tuple[str, str]]:
        """The headers that an answer needs for the page at `origin`; none for one that is not allowed."""
        if not origin:
            return ()
        if self.every:
            return self._for_every
        return self._lines.get(_normal(origin), ())

    def lines(self, origin: bytes) -> bytes:
        """The same as header lines, ready to be written into an answer's head."""
        pairs = self.headers(origin.decode("latin-1"))
        return b"".join(f"{name}: {value}\r\n".encode("latin-1") for name, value in pairs)


def _normal(origin: str) -> str:
    return origin.rstrip("/").lower()


def _allowing(origin: str) -> list[tuple[str, str]]:
    headers = [("access-control-allow-origin", origin), ("access-control-expose-headers", _EXPOSED)]
    # What a cache keeps for one page is not for another.
    return headers if origin == "*" else [*headers, ("vary", "Origin")]


class CrossOriginAnswers:
    """ASGI middleware: answers a browser's question beforehand, and marks answers for the pages allowed."""

    def __init__(self, app: ASGIApp, cors: CrossOrigin) -> None:
        self._app = app
        self._cors = cors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        allowing = self._cors.headers(headers.get("origin"))
        if scope["method"] == "OPTIONS" and allowing and "access-control-request-method" in headers:
            await self.preflight(headers)(scope, receive, send)
            return

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                marked = MutableHeaders(scope=message)
                for name, value in allowing:
                    if name == "vary":
                        marked.add_vary_header(value)
                    else:
                        marked[name] = value
            await send(message)

        await self._app(scope, receive, send_marked)

    def preflight(self, headers: Headers) -> Response:
        """The answer to the question that a browser asks before the request itself.

        Args:
            headers: Those of the question, of an origin that is allowed.
        """
        answer = dict(self._cors.headers(headers.get("origin")))
        answer["access-control-allow-methods"] = _METHODS
        # SDKs bring a dozen headers of their own (x-stainless-…): any may be sent, and few are read.
        asked = headers.get("access-control-request-headers", "")
        if asked:
            answer["access-control-allow-headers"] = asked
        answer["access-control-max-age"] = str(_MAX_AGE_SECONDS)
        answer["vary"] = "Origin, Access-Control-Request-Headers"
        return Response(status_code=204, headers=answer)
