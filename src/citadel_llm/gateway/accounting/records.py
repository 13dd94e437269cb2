"""What is noted of a request: once when an engine gets it, once when it is over. Never its text."""

import msgspec


class Begun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A request that is about to be given to an engine.

    New fields are added at the end, with a default: a spool may be read by a newer or an older gateway than
    the one that wrote it.

    Attributes:
        id: The request's id, made here and unique; not the client's.
        began: When it arrived, in Unix time (seconds).
        key_id: The key it came with.
        team: The key's team; may be empty.
        model: The model's own name, aliases resolved.
        route: The API's path, such as `/v1/chat/completions`.
        engine: The engine that gets it.
        prompt_estimate: Tokens of its prompt, as estimated; what is noted when nobody lives to say better.
    """

    id: str
    began: float
    key_id: str
    team: str
    model: str
    route: str
    engine: str
    prompt_estimate: int


class Ended(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How it ended.

    Attributes:
        status: HTTP status of the answer; 499 for a client that hung up.
        tokens_in: Tokens of the prompt.
        tokens_cached: How many of them the engine had in its cache.
        tokens_out: Tokens produced.
        first_byte: Seconds from the arrival to the answer's first byte; None when there was none.
        duration: Seconds from the arrival to the end.
        estimated: Whether the counts of tokens are the gateway's estimate, not the engine's word.
        engine: The engine that answered, when it is not the one of the begin (the request was sent again).
        model: Its model, when it is not the one of the begin (a fallback stood in).
    """

    status: int
    tokens_in: int
    tokens_cached: int
    tokens_out: int
    first_byte: float | None
    duration: float
    estimated: bool
    engine: str = ""
    model: str = ""
