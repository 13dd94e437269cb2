"""What requests and answers look like, for the OpenAPI description alone.

Nothing is checked against these: bodies pass to the engines as they are, which take many more parameters.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_MODEL = Field(description="A name or an alias from GET /v1/models.")
_STREAM = Field(False, description="Send the answer as server-sent events while it is written.")


class _Open(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorDetails(BaseModel):
    """What went wrong."""

    message: str = Field(description="For people.")
    type: str = Field(description="`invalid_request_error` or `server_error`.")
    param: str | None = Field(description="The parameter to blame, if one is.")
    code: str | int | None = Field(description="For programs.")


class Error(BaseModel):
    """OpenAI's error shape."""

    error: ErrorDetails


class ChatMessage(_Open):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | list[dict[str, Any]] | None = None


class ChatCompletionRequest(_Open):
    """A conversation to continue. Any other parameter of OpenAI's or vLLM's passes to the engine."""

    model: str = _MODEL
    messages: list[ChatMessage]
    max_tokens: int | None = Field(None, description="At most so many tokens of answer.")
    temperature: float | None = Field(None, ge=0, description="0 always takes the likeliest token.")
    top_p: float | None = Field(None, gt=0, le=1, description="Sample among the likeliest tokens only.")
    stop: str | list[str] | None = Field(None, description="End the answer before this text.")
    seed: int | None = Field(None, description="Make sampling repeatable.")
    stream: bool = _STREAM


class CompletionRequest(_Open):
    """A text to continue. Any other parameter of OpenAI's or vLLM's passes to the engine."""

    model: str = _MODEL
    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, description="At most so many tokens of answer.")
    temperature: float | None = Field(None, ge=0, description="0 always takes the likeliest token.")
    stream: bool = _STREAM


class EmbeddingRequest(_Open):
    """Texts to turn into vectors; wants a model whose task is `embed`."""

    model: str = _MODEL
    input: str | list[str] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] = "float"


class Usage(_Open):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int | None = None
    total_tokens: int


class _Answer(_Open):
    id: str
    created: int = Field(description="In Unix time.")
    model: str = Field(description="The model's real name, also when an alias was asked.")


class ChatChoice(_Open):
    """One answer."""

    index: int
    message: ChatMessage
    finish_reason: str | None


class ChatCompletion(_Answer):
    """The answer to a conversation."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(_Open):
    """One continuation."""

    index: int
    text: str
    finish_reason: str | None


class Completion(_Answer):
    """The continuation of a text."""

    object: Literal["text_completion"]
    choices: list[CompletionChoice]
    usage: Usage


class Embedding(_Open):
    """One text's vector."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingList(_Open):
    """The vectors, in the order of the texts."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
