"""What each path that engines answer is for, in words and by an example, for the OpenAPI description."""

from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from citadel_llm.gateway import schemas

_CHAT_MODEL = "smollm2-135m-instruct"
_EMBEDDING_MODEL = "all-minilm-l6-v2"
_QUESTION = [{"role": "user", "content": "What is the opposite of hot?"}]


@dataclass(frozen=True)
class Operation:
    """One path, for people.

    Attributes:
        name: Its id in the description.
        summary: What it does, in a few words.
        description: What it does, in a sentence.
        request: What its body looks like.
        answer: What its answer looks like.
        example: A body that works; of a form none.
        stream_example: The beginning and end of a stream, where it streams.
    """

    name: str
    summary: str
    description: str
    request: type[BaseModel]
    answer: type[BaseModel]
    example: dict[str, Any]
    stream_example: str = ""


OPERATIONS = {
    "/v1/chat/completions": Operation(
        "createChatCompletion",
        "Continue a conversation",
        "The model's answer to the messages, whole or as a stream of events.",
        schemas.ChatCompletionRequest,
        schemas.ChatCompletion,
        {"model": _CHAT_MODEL, "messages": _QUESTION, "max_tokens": 32, "temperature": 0},
        'data: {"choices": [{"delta": {"content": "The"}}]}\n\ndata: [DONE]\n\n',
    ),
    "/v1/responses": Operation(
        "createResponse",
        "Answer (OpenAI's newer form)",
        "The model's answer to the input, whole or as a stream of events. Nothing is kept on the server.",
        schemas.ResponsesRequest,
        schemas.Response,
        {"model": _CHAT_MODEL, "input": "What is the opposite of hot?", "max_output_tokens": 32},
        'event: response.output_text.delta\ndata: {"type": "response.output_text.delta", "delta": "The"}\n\n',
    ),
    "/v1/messages": Operation(
        "createMessage",
        "Continue a conversation (Anthropic)",
        "The model's answer to the messages, in Anthropic's words, whole or as a stream of events.",
        schemas.MessagesRequest,
        schemas.Message,
        {"model": _CHAT_MODEL, "messages": _QUESTION, "max_tokens": 32},
        'event: content_block_delta\ndata: {"type": "content_block_delta", "index": 0, '
        '"delta": {"type": "text_delta", "text": "The"}}\n\n',
    ),
    "/v1/messages/count_tokens": Operation(
        "countMessageTokens",
        "Count a conversation's tokens (Anthropic)",
        "How many tokens the model would read.",
        schemas.CountTokensRequest,
        schemas.TokenCount,
        {"model": _CHAT_MODEL, "messages": _QUESTION},
    ),
    "/v1/completions": Operation(
        "createCompletion",
        "Continue a text",
        "The text that follows the prompt, whole or as a stream of events.",
        schemas.CompletionRequest,
        schemas.Completion,
        {"model": _CHAT_MODEL, "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0},
        'data: {"choices": [{"text": " Paris"}]}\n\ndata: [DONE]\n\n',
    ),
    "/v1/embeddings": Operation(
        "createEmbedding",
        "Turn texts into vectors",
        "One vector for each text, for search and comparison.",
        schemas.EmbeddingRequest,
        schemas.EmbeddingList,
        {"model": _EMBEDDING_MODEL, "input": ["hot", "cold"]},
    ),
    "/v1/rerank": Operation(
        "createRanking",
        "Put texts in order",
        "The documents by how well they answer the query, as Jina and Cohere have it.",
        schemas.RerankRequest,
        schemas.Ranking,
        {"model": _EMBEDDING_MODEL, "query": "hot", "documents": ["a warm day", "a cold night"]},
    ),
    "/v1/score": Operation(
        "createScore",
        "Score pairs of texts",
        "How close each document is to its query.",
        schemas.ScoreRequest,
        schemas.ScoreList,
        {"model": _EMBEDDING_MODEL, "queries": "hot", "documents": ["a warm day", "a cold night"]},
    ),
    "/v1/tokenize": Operation(
        "tokenize",
        "Cut a text into tokens",
        "The tokens that the model reads of a text or a conversation.",
        schemas.TokenizeRequest,
        schemas.Tokens,
        {"model": _CHAT_MODEL, "prompt": "What is the opposite of hot?"},
    ),
    "/v1/detokenize": Operation(
        "detokenize",
        "Join tokens to a text",
        "The text that the model reads in the tokens.",
        schemas.DetokenizeRequest,
        schemas.Text,
        {"model": _CHAT_MODEL, "tokens": [504, 3575, 282, 4649, 314]},
    ),
    "/v1/audio/transcriptions": Operation(
        "createTranscription",
        "Write down speech",
        "What is said in a sound file, sent as a form.",
        schemas.TranscriptionRequest,
        schemas.Transcription,
        {},
        'data: {"object": "transcription.chunk", "choices": [{"delta": {"content": "The"}}]}\n\n'
        "data: [DONE]\n\n",
    ),
}
"""By the path, in the order of the page."""
