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
    type: str = Field(description="`invalid_request_error`, `rate_limit_error` or `server_error`.")
    param: str | None = Field(description="The parameter to blame, if one is.")
    code: str | int | None = Field(description="For programs.")


class Error(BaseModel):
    """OpenAI's error shape."""

    error: ErrorDetails


class AnthropicErrorDetails(BaseModel):
    """What went wrong."""

    type: str = Field(description="`not_found_error`, for instance.")
    message: str = Field(description="For people.")


class AnthropicError(BaseModel):
    """Anthropic's error shape."""

    type: Literal["error"]
    error: AnthropicErrorDetails
    request_id: str | None = None


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


class ResponsesRequest(_Open):
    """What to answer. Any other parameter of OpenAI's or vLLM's passes to the engine.

    Nothing is kept: there is no `previous_response_id`, and no answering in the background.
    """

    model: str = _MODEL
    input: str | list[dict[str, Any]] = Field(description="A question, or the conversation so far.")
    instructions: str | None = Field(None, description="What the model is to keep to.")
    max_output_tokens: int | None = Field(None, description="At most so many tokens of answer.")
    temperature: float | None = Field(None, ge=0, description="0 always takes the likeliest token.")
    stream: bool = _STREAM


class AnthropicMessage(_Open):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str | list[dict[str, Any]]


class CountTokensRequest(_Open):
    """A conversation whose tokens are counted."""

    model: str = _MODEL
    messages: list[AnthropicMessage]
    system: str | list[dict[str, Any]] | None = Field(None, description="What the model is to keep to.")
    tools: list[dict[str, Any]] | None = Field(None, description="What the model may call.")


class MessagesRequest(CountTokensRequest):
    """A conversation to continue, in Anthropic's words."""

    max_tokens: int = Field(ge=1, description="At most so many tokens of answer.")
    temperature: float | None = Field(None, ge=0, description="0 always takes the likeliest token.")
    stream: bool = _STREAM


class RerankRequest(_Open):
    """Texts to put in order; wants a model whose task is `score` or `embed`."""

    model: str = _MODEL
    query: str
    documents: list[str]
    top_n: int = Field(0, ge=0, description="How many to give back; 0: all.")


class ScoreRequest(_Open):
    """Pairs of texts to score; wants a model whose task is `score` or `embed`."""

    model: str = _MODEL
    queries: str | list[str]
    documents: str | list[str] = Field(description="As many as queries, or any number for one query.")


class TokenizeRequest(_Open):
    """A text or a conversation to cut into tokens; one of the two is needed."""

    model: str = _MODEL
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    return_token_strs: bool = Field(False, description="Give the tokens' texts, too.")


class DetokenizeRequest(_Open):
    """Tokens to join to a text."""

    model: str = _MODEL
    tokens: list[int]


class TranscriptionRequest(_Open):
    """Sound to write down; wants a model whose task is `transcribe`."""

    model: str = Field(description="The model's real name: in a form, an alias is not replaced.")
    file: Any = Field(description="The sound file.", json_schema_extra={"type": "string", "format": "binary"})
    language: str | None = Field(None, description="The language that is spoken, such as `en`.")
    response_format: Literal["json", "text", "srt", "verbose_json", "vtt"] = "json"
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


class Response(_Open):
    """The answer."""

    id: str
    object: Literal["response"]
    model: str
    status: str = Field(description="`completed`, or `incomplete` when it was cut at its limit.")
    output: list[dict[str, Any]] = Field(description="Messages, reasoning and calls of tools.")
    usage: dict[str, Any] | None = None


class Message(_Open):
    """The answer to a conversation, in Anthropic's words."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[dict[str, Any]]
    stop_reason: str | None = None
    usage: dict[str, Any] | None = None


class TokenCount(_Open):
    """How many tokens a conversation has."""

    input_tokens: int


class RankedText(_Open):
    """One text's place."""

    index: int = Field(description="Which of the documents it is.")
    relevance_score: float


class Ranking(_Open):
    """The texts, the most relevant first."""

    id: str
    model: str
    results: list[RankedText]


class Score(_Open):
    """One pair's score."""

    index: int
    score: float


class ScoreList(_Open):
    """The scores, in the order of the pairs."""

    object: Literal["list"]
    model: str
    data: list[Score]


class Tokens(_Open):
    """The tokens of a text."""

    count: int
    max_model_len: int
    tokens: list[int]


class Text(_Open):
    """The text of tokens."""

    prompt: str


class Transcription(_Open):
    """What was said."""

    text: str
