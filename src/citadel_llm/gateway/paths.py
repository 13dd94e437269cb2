"""The paths that engines answer: the gateway's allow-list, and how each of them behaves.

What an engine's requests may hold, where its answers tell their tokens, and how its streams tell an error was
read in the protocols of vLLM 0.32 and 0.33 (`vllm/entrypoints/**/protocol.py`, `serving.py`). Nothing else of
an engine can be reached.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

Task = Literal["generate", "embed", "score", "transcribe"]
Dialect = Literal["openai", "anthropic"]
BodyKind = Literal["json", "multipart"]
StreamErrors = Literal["data", "event", "anthropic"]


@dataclass(frozen=True)
class Usage:
    """Where an answer tells how many tokens it took.

    Attributes:
        tokens_in: Field of the tokens read.
        tokens_out: Field of the tokens written; absent from answers that write none.
        details: Object beside them that holds `cached`; empty: it stands beside them.
        cached: Field of the tokens found in the engine's cache.
        apart: Fields beside `tokens_in` that it leaves out: all that was read is the sum of them.
        told: In a stream, where: `last` in a chunk of its own before `[DONE]`, only if asked for
            (`stream_options`); `event` in the events themselves, always.
    """

    tokens_in: str
    tokens_out: str
    details: str
    cached: str
    apart: tuple[str, ...] = ()
    told: Literal["last", "event"] = "last"


_OPENAI = Usage("prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens")
# `response.completed`, `response.incomplete` and `response.failed` hold the whole answer in `response`.
_RESPONSES = Usage("input_tokens", "output_tokens", "input_tokens_details", "cached_tokens", told="event")
# `message_start` has what was read, `message_delta` both.
_ANTHROPIC = Usage(
    "input_tokens",
    "output_tokens",
    "",
    "cache_read_input_tokens",
    apart=("cache_read_input_tokens", "cache_creation_input_tokens"),
    told="event",
)


@dataclass(frozen=True)
class InferencePath:
    """One path of the API that engines answer, by POST.

    Attributes:
        path: What clients ask for, and its name in metrics, logs and accounts.
        engine_path: Where the engine has it.
        tasks: What a model must be there for.
        does: What it does with a model, for messages: "the model … does not …".
        also: Other paths under which clients know it.
        dialect: Whose errors, and whose header for the key.
        body: What a request's body is.
        usage: Where answers tell their tokens; None where they do not.
        cache_salt: Whether the body may hold `cache_salt`: at most 128 characters, none of them `@`, `/`, a
            backslash or NUL, or vLLM refuses it.
        priority: Whether the body may hold `priority`. Other than 0 it wants an engine that is started with
            `--scheduling-policy priority`; the least comes first.
        streams: Whether the answer may be a stream of events.
        stream_errors: How a stream tells that it failed: `data` as `data: {"error": …}`; `event` the same
            as an event named `error`; `anthropic` as Anthropic's SDK reads it.

    An answer that has not begun may be asked for again of another engine on every path: none of them changes
    anything in an engine, whose store of responses is off (`VLLM_ENABLE_RESPONSES_API_STORE`).
    """

    path: str
    engine_path: str
    tasks: frozenset[Task]
    does: str
    also: tuple[str, ...] = ()
    dialect: Dialect = "openai"
    body: BodyKind = "json"
    usage: Usage | None = _OPENAI
    cache_salt: bool = True
    priority: bool = True
    streams: bool = False
    stream_errors: StreamErrors = "data"

    @cached_property
    def asks_for_usage(self) -> bool:
        """Whether a stream tells its usage only if the request asks for it."""
        return self.streams and self.usage is not None and self.usage.told == "last"


_GENERATE: frozenset[Task] = frozenset({"generate"})
_EMBED: frozenset[Task] = frozenset({"embed"})
# An embedding model compares texts by its vectors.
_COMPARE: frozenset[Task] = frozenset({"score", "embed"})
_TEXT: frozenset[Task] = frozenset({"generate", "embed", "score"})
_TRANSCRIBE: frozenset[Task] = frozenset({"transcribe"})

INFERENCE_PATHS = (
    InferencePath(
        "/v1/chat/completions", "/v1/chat/completions", _GENERATE, "continue conversations", streams=True
    ),
    InferencePath("/v1/completions", "/v1/completions", _GENERATE, "continue texts", streams=True),
    InferencePath(
        "/v1/responses",
        "/v1/responses",
        _GENERATE,
        "continue conversations",
        usage=_RESPONSES,
        streams=True,
        stream_errors="event",
    ),
    InferencePath(
        "/v1/messages",
        "/v1/messages",
        _GENERATE,
        "continue conversations",
        dialect="anthropic",
        usage=_ANTHROPIC,
        priority=False,
        streams=True,
        stream_errors="anthropic",
    ),
    InferencePath(
        "/v1/messages/count_tokens",
        "/v1/messages/count_tokens",
        _GENERATE,
        "continue conversations",
        dialect="anthropic",
        usage=None,
        cache_salt=False,
        priority=False,
    ),
    InferencePath("/v1/embeddings", "/v1/embeddings", _EMBED, "give embeddings"),
    InferencePath("/v1/rerank", "/rerank", _COMPARE, "rank texts", also=("/rerank", "/v2/rerank")),
    InferencePath("/v1/score", "/score", _COMPARE, "score texts", also=("/score",)),
    InferencePath(
        "/v1/tokenize",
        "/tokenize",
        _TEXT,
        "cut texts into tokens",
        also=("/tokenize",),
        usage=None,
        cache_salt=False,
        priority=False,
    ),
    InferencePath(
        "/v1/detokenize",
        "/detokenize",
        _TEXT,
        "join tokens to texts",
        also=("/detokenize",),
        usage=None,
        cache_salt=False,
        priority=False,
    ),
    # vLLM tells the seconds of sound, not tokens, and its form has neither salt nor priority.
    InferencePath(
        "/v1/audio/transcriptions",
        "/v1/audio/transcriptions",
        _TRANSCRIBE,
        "write down speech",
        body="multipart",
        usage=None,
        cache_salt=False,
        priority=False,
        streams=True,
    ),
)

BY_PATH: dict[str, InferencePath] = {
    name: inference for inference in INFERENCE_PATHS for name in (inference.path, *inference.also)
}
"""The same by every path under which clients know it."""


def dialect_of(path: str) -> Dialect:
    """Whose errors a path answers with, also one that does not exist."""
    return "anthropic" if path == "/v1/messages" or path.startswith("/v1/messages/") else "openai"
