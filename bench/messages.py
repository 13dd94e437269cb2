"""What clients send and engines answer in the benchmark, in vLLM's form, made once and sent many times."""

import json
import random
from typing import Any

MODEL = "bench-model"
CHAT = "/v1/chat/completions"
DONE = b"data: [DONE]\n\n"

_WORDS = [
    "the",
    "of",
    "and",
    "a",
    "to",
    "in",
    "is",
    "you",
    "that",
    "it",
    "he",
    "was",
    "for",
    "on",
    "are",
    "as",
    "with",
    "his",
    "they",
    "at",
    "be",
    "this",
    "have",
    "from",
    "or",
    "one",
    "had",
    "by",
    "word",
    "but",
    "not",
    "what",
    "all",
    "were",
    "we",
    "when",
    "your",
    "can",
    "said",
    "there",
    "use",
    "an",
    "each",
    "which",
    "she",
    "do",
    "how",
    "their",
    "if",
    "will",
    "up",
    "other",
    "about",
    "out",
    "many",
    "then",
    "them",
    "these",
    "so",
    "some",
    "her",
    "would",
    "make",
    "like",
    "him",
    "into",
    "time",
    "has",
    "look",
    "two",
    "more",
]
_ANSWER_WORDS = 60


def prose(letters: int) -> str:
    """A text of so many letters, always the same: words, quotes and line ends as prompts have them."""
    source = random.Random(1)  # noqa: S311 - nothing secret
    words: list[str] = []
    length = 0
    while length < letters:
        word = source.choice(_WORDS)
        if len(words) % 23 == 22:  # noqa: PLR2004 - now and then
            word = f'"{word}".\n'
        words.append(word)
        length += len(word) + 1
    return " ".join(words)[:letters]


def chat_body(size: int, *, events: int = 0, rate: int = 0) -> bytes:
    """A chat's request of `size` bytes.

    Args:
        size: Of the whole body, in bytes.
        events: How many events the stub streams; 0: a plain answer.
        rate: Events a second (the stub reads it from `seed`); 0: as quickly as they are taken.
    """
    content = ""
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": content},
        ],
        "temperature": 0.7,
        "max_completion_tokens": events or _ANSWER_WORDS,
    }
    if events:
        asked |= {"seed": rate, "stream": True}
    text = prose(size)
    # Letters that JSON escapes count twice: take away what is too much.
    while (over := len(_json(asked, content=text)) - size) > 0:
        text = text[: -max(1, over // 2)]
    return _json(asked, content=text + "." * -over)


def _json(asked: dict[str, Any], *, content: str) -> bytes:
    asked["messages"][1]["content"] = content
    return json.dumps(asked, separators=(",", ":")).encode()


def request(body: bytes, key: str = "", path: str = CHAT) -> bytes:
    """A whole HTTP request."""
    authorization = f"authorization: Bearer {key}\r\n" if key else ""
    head = (
        f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nuser-agent: bench\r\naccept: application/json\r\n"
        f"{authorization}content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def completion() -> bytes:
    """A plain answer's JSON."""
    message = {"role": "assistant", "content": " ".join(_WORDS[:_ANSWER_WORDS]), "tool_calls": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return json.dumps(
        {
            "id": "chatcmpl-3f1c9a7e5b2d4c60a8e9d1f0b7c6a594",
            "object": "chat.completion",
            "created": 1760000000,
            "model": MODEL,
            "choices": [choice],
            "usage": usage(_ANSWER_WORDS),
        },
        separators=(",", ":"),
    ).encode()


def usage(written: int) -> dict[str, Any]:
    """The tokens that an answer tells."""
    return {"prompt_tokens": 128, "total_tokens": 128 + written, "completion_tokens": written}


def event(text: str, finish: str | None = None) -> bytes:
    """An event with a token of an answer."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": finish}
    return _event([choice])


def usage_event(written: int) -> bytes:
    """The event that tells the usage, for those who asked for it."""
    return _event([], usage=usage(written))


def stream_text(events: int, *, with_usage: bool = False) -> bytes:
    """All that a stream of so many events says."""
    last = usage_event(events) if with_usage else b""
    return FIRST + MIDDLE * (events - 2) + LAST + last + DONE


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    told = {
        "id": "chatcmpl-3f1c9a7e5b2d4c60a8e9d1f0b7c6a594",
        "object": "chat.completion.chunk",
        "created": 1760000000,
        "model": MODEL,
        "choices": choices,
    }
    return b"data: " + json.dumps(told | more, separators=(",", ":")).encode() + b"\n\n"


FIRST, MIDDLE, LAST = event(""), event(" word"), event(".", "stop")
