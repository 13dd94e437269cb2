"""How many tokens an answer took, read from what vLLM was seen to write."""

import json

import pytest

from citadel_llm.gateway.usage_reader import UsageReader

WORD = b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"a \\"usage\\": {}"}}]}\n\n'
USAGE = (
    b'data: {"id":"c","choices":[],"usage":{"prompt_tokens":12,"total_tokens":19,"completion_tokens":7,'
    b'"prompt_tokens_details":{"cached_tokens":8}}}\n\n'
)
DONE = b"data: [DONE]\n\n"


def counts(reader: UsageReader) -> tuple[int, int, int, bool]:
    return reader.tokens_in, reader.tokens_cached, reader.tokens_out, reader.found


@pytest.mark.parametrize("pieces", [[WORD, WORD, USAGE, DONE], [WORD + WORD + USAGE + DONE]])
def test_the_usage_nobody_asked_for_is_taken_out(pieces: list[bytes]) -> None:
    reader = UsageReader()
    assert b"".join(reader.events(piece, strip=True) for piece in pieces) == WORD + WORD + DONE
    assert counts(reader) == (12, 8, 7, True)
    asked = UsageReader()
    assert b"".join(asked.events(piece, strip=False) for piece in pieces) == WORD + WORD + USAGE + DONE
    assert counts(asked) == (12, 8, 7, True)


def test_text_that_speaks_of_usage_is_text() -> None:
    reader = UsageReader()
    assert reader.events(WORD, strip=True) == WORD
    assert counts(reader) == (0, 0, 0, False)
    assert reader.pieces == 1


def test_continuous_usage_stays_and_the_last_one_counts() -> None:
    reader = UsageReader()
    for tokens in (1, 2, 3):
        usage = {"prompt_tokens": 5, "completion_tokens": tokens, "total_tokens": 5 + tokens}
        event = f"data: {json.dumps({'choices': [{}], 'usage': usage})}\n\n".encode()
        assert reader.events(event, strip=True) == event
    assert counts(reader) == (5, 0, 3, True)


def test_responses_and_messages() -> None:
    reader = UsageReader()
    reader.events(b'event: response.created\ndata: {"response":{"usage":null}}\n\n', strip=False)
    assert not reader.found
    usage = b'{"input_tokens":5,"input_tokens_details":{"cached_tokens":2},"output_tokens":3}'
    done = b'{"response":{"usage":%b}}' % usage
    reader.events(b"event: response.completed\ndata: " + done + b"\n\n", strip=False)
    assert counts(reader) == (5, 2, 3, True)
    anthropic = UsageReader()
    start = b'{"type":"message_start","message":{"usage":{"input_tokens":5,"output_tokens":0}}}'
    anthropic.events(b"event: message_start\ndata: " + start + b"\n\n", strip=False)
    delta = (
        b'{"type":"message_delta","usage":{"input_tokens":5,"cache_read_input_tokens":4,"output_tokens":9}}'
    )
    anthropic.events(b"event: message_delta\ndata: " + delta + b"\n\n", strip=False)
    assert counts(anthropic) == (9, 4, 9, True), "what came from the cache is not among those read"


def test_an_answer_in_one_piece_however_it_is_cut() -> None:
    usage = {"prompt_tokens": 100, "total_tokens": 120, "completion_tokens": 20}
    body = json.dumps({"choices": [{"text": "x" * 20_000}], "usage": usage, "prompt_logprobs": None}).encode()
    for size in (1, 7, 4096, len(body)):
        reader = UsageReader()
        for start in range(0, len(body), size):
            reader.part(body[start : start + size])
        reader.end()
        assert counts(reader) == (100, 0, 20, True)
    rerank = UsageReader()
    rerank.part(b'{"results":[],"usage":{"total_tokens":56}}')
    rerank.end()
    assert counts(rerank) == (56, 0, 0, True)


def test_what_follows_the_usage_does_not_hide_it() -> None:
    """vLLM writes a ranking's documents, and what it is asked to tell of the prompt, after the usage."""
    usage = {"prompt_tokens": 100, "total_tokens": 120, "completion_tokens": 20}
    after = [{"9": {"logprob": -1.5, "rank": 3, "decoded_token": '"usage":{"prompt_tokens":1}'}}] * 400
    body = json.dumps({"choices": [], "usage": usage, "prompt_logprobs": after}).encode()
    assert len(body) > 20_000
    for size in (5, 100, 65_536):
        reader = UsageReader()
        for start in range(0, len(body), size):
            reader.part(body[start : start + size])
        reader.end()
        assert counts(reader) == (100, 0, 20, True), size
