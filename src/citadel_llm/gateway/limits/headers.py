"""OpenAI's rate-limit headers, in the answer and in its refusal."""

from math import ceil

from citadel_llm.gateway.limits.minute import MinuteWindow
from citadel_llm.gateway.limits.windows import MINUTE


def spell(seconds: float) -> str:
    """A time as OpenAI writes it, rounded up: `0s`, `120ms`, `7s`, `6m0s`, `1h0m0s`."""
    if seconds <= 0:
        return "0s"
    milliseconds = ceil(seconds * 1000)
    if milliseconds < 1000:  # noqa: PLR2004 - of a second
        return f"{milliseconds}ms"
    minutes, rest = divmod(ceil(seconds), 60)
    if not minutes:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes}m{rest}s" if hours else f"{minutes}m{rest}s"


def template(window: MinuteWindow) -> bytes:
    """The three lines of a limit, for `lines`; made once for each limit."""
    unit = window.kind.unit
    return (
        f"x-ratelimit-limit-{unit}: {window.limit}\r\n"
        f"x-ratelimit-remaining-{unit}: %d\r\n"
        f"x-ratelimit-reset-{unit}: %s\r\n"
    ).encode()


def lines(template_of: bytes, window: MinuteWindow, now: float) -> bytes:
    """What is left of a limit, and when all of it will be there again."""
    if now >= window.stale_at:
        window.advance(now)
    left = window.limit - window.own - window.others
    seconds = window.reset(now)
    # Nearly always a whole number of the last minute's seconds, for it is asked just after a request.
    spelled = _SPELLED[ceil(seconds)] if 1 <= seconds <= MINUTE else spell(seconds).encode()
    return template_of % (max(0, left), spelled)


def fields(window: MinuteWindow, now: float) -> dict[str, str]:
    """The same as a mapping."""
    text = lines(template(window), window, now).decode()
    return dict(line.split(": ", 1) for line in text.splitlines())


_SPELLED = tuple(spell(seconds).encode() for seconds in range(int(MINUTE) + 1))
