"""What vLLM 0.32 was seen to answer on each path, for the fake engine: shapes and names, not sense."""

import json
from collections.abc import Callable
from email.message import Message
from email.parser import BytesParser
from typing import Any

Answer = dict[str, Any]

WORDS = ("The ", "end", ".")
TEXT = "".join(WORDS)


def error(message: str, *, code: int = 400, kind: str = "Bad Request") -> Answer:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def tool_call(model: str, asked: Answer) -> Answer:
    """A call of the first tool, or, once its result is in the conversation, the end."""
    message: Answer = {"role": "assistant", "content": TEXT, "tool_calls": []}
    reason = "stop"
    if asked["messages"][-1]["role"] != "tool":
        function = {"name": asked["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
        call = {"id": "chatcmpl-tool-1", "type": "function", "function": function}
        message, reason = {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls"
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    usage = {"prompt_tokens": 5, "total_tokens": 8, "completion_tokens": 3}
    head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage}


def structured(asked: Answer) -> str:
    """Something that fits the schema that was asked for, of strings and integers."""
    schema = asked["response_format"].get("json_schema", {}).get("schema", {})
    values: Answer = {"string": "hot", "integer": 7}
    return json.dumps({name: values[field["type"]] for name, field in schema.get("properties", {}).items()})


def _response(model: str, *, status: str = "completed", text: str | None = TEXT) -> Answer:
    content: list[Answer] = [{"annotations": [], "text": text, "type": "output_text", "logprobs": None}]
    message: Answer = {"id": "msg_1", "content": content, "role": "assistant", "status": "completed"}
    done = {
        "input_tokens": 5,
        "input_tokens_details": {"cached_tokens": 2},
        "output_tokens": 3,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 8,
    }
    return {
        "id": "resp_1",
        "created_at": 1,
        "model": model,
        "object": "response",
        "output": [{**message, "type": "message", "phase": None}] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "status": status,
        "usage": done if text else None,
    }


def _response_stream(model: str) -> list[bytes]:
    started = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part: Answer = {"annotations": [], "text": "", "type": "output_text", "logprobs": []}
    item: Answer = {"id": "msg_1", "content": [], "role": "assistant", "status": "in_progress"}
    events: list[Answer] = [
        {"type": "response.created", "response": _response(model, status="in_progress", text=None)},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "type": "message"},
        },
        {"type": "response.content_part.added", **started, "part": part},
        *({"type": "response.output_text.delta", **started, "delta": w, "logprobs": []} for w in WORDS),
        {"type": "response.output_text.done", **started, "text": TEXT, "logprobs": []},
        {"type": "response.completed", "response": _response(model)},
    ]
    numbered = ({**event, "sequence_number": number} for number, event in enumerate(events))
    return [_event(event) for event in numbered]


def _message(model: str, asked: Answer) -> Answer:
    content: list[Answer] = [{"type": "text", "text": TEXT}]
    reason = "end_turn"
    last = asked["messages"][-1]["content"]
    answered = isinstance(last, list) and last[0]["type"] == "tool_result"
    if asked.get("tools") and not answered:
        call = {"type": "tool_use", "id": "toolu_1", "name": asked["tools"][0]["name"]}
        content, reason = [{**call, "input": {"city": "Paris"}}], "tool_use"
    return {
        "id": "chatcmpl-1",
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": model,
        "stop_reason": reason,
        "usage": {
            "input_tokens": 3,
            "output_tokens": 3,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 2,
        },
    }


def _message_stream(model: str) -> list[bytes]:
    message: Answer = {"id": "chatcmpl-1", "type": "message", "role": "assistant", "content": []}
    message |= {
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 5, "output_tokens": 0},
    }
    usage = {"input_tokens": 3, "output_tokens": 3, "cache_read_input_tokens": 2}
    deltas: list[Answer] = [
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": word}, "index": 0}
        for word in WORDS
    ]
    events: list[Answer] = [
        {"type": "message_start", "message": message},
        {"type": "content_block_start", "content_block": {"type": "text", "text": ""}, "index": 0},
        *deltas,
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": usage,
        },
        {"type": "message_stop"},
    ]
    return [_event(event) for event in events]


def _event(event: Answer) -> bytes:
    return f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def transcription_chunk(word: str) -> bytes:
    choice = {"delta": {"content": word}, "finish_reason": None, "stop_reason": None}
    event = {"id": "trsc-1", "object": "transcription.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def form_fields(body: bytes, content_type: str) -> dict[str, str]:
    """The fields of a multipart form; of a file its name."""
    form: Message = BytesParser().parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + body)
    fields = {}
    for part in form.get_payload():
        assert isinstance(part, Message)
        name = str(part.get_param("name", header="content-disposition"))
        fields[name] = part.get_filename() or str(part.get_payload())
    return fields


def _rerank(model: str, asked: Answer) -> Answer:
    texts = list(enumerate(asked["documents"]))
    results = [
        {"index": i, "document": {"text": text, "multi_modal": None}, "relevance_score": 0.9 - i / 10}
        for i, text in texts[: asked.get("top_n") or None]
    ]
    usage = {"prompt_tokens": 9, "total_tokens": 9}
    return {"id": "score-1", "model": model, "usage": usage, "results": results}


def _score(model: str, asked: Answer) -> Answer:
    documents = asked["documents"] if isinstance(asked["documents"], list) else [asked["documents"]]
    data = [{"index": i, "object": "score", "score": 0.5} for i in range(len(documents))]
    usage = {"prompt_tokens": 9, "total_tokens": 9, "completion_tokens": 0, "prompt_tokens_details": None}
    return {"id": "score-1", "object": "list", "created": 1, "model": model, "data": data, "usage": usage}


def _tokenize(_model: str, _asked: Answer) -> Answer:
    return {"count": 2, "max_model_len": 2048, "tokens": [12, 34], "token_strs": None}


WHOLE: dict[str, Callable[[str, Answer], Answer]] = {
    "/v1/responses": lambda model, _: _response(model),
    "/v1/messages": _message,
    "/v1/messages/count_tokens": lambda _model, _: {"input_tokens": 5},
    "/rerank": _rerank,
    "/score": _score,
    "/tokenize": _tokenize,
    "/detokenize": lambda _model, _: {"prompt": TEXT},
}
STREAMS = {"/v1/responses": _response_stream, "/v1/messages": _message_stream}
