"""A cross-encoder on a real engine (`task: score`)."""

from typing import Any

import pytest

from .node import Node, wait_until

pytestmark = pytest.mark.lab

MODEL = {"name": "rank", "aliases": ["judge"], "task": "score"}

QUERY = "What is the weather in Paris?"
DOCUMENTS = ["The capital of France is Paris.", "weather", "city"]


def test_texts_are_ranked_and_scored(node: Node) -> None:
    key = node.key("test")

    def ask(path: str, **body: Any) -> dict[str, Any]:
        return dict(node.post(path, key, {"model": "judge", **body}).json())

    ranked = ask("/v1/rerank", query=QUERY, documents=DOCUMENTS, top_n=2)
    scores = [each["relevance_score"] for each in ranked["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    scored = ask("/v1/score", queries=QUERY, documents=DOCUMENTS)
    assert max(each["score"] for each in scored["data"]) == pytest.approx(scores[0], abs=1e-4)
    assert ask("/v1/embeddings", input=QUERY)["error"]["code"] == "model_unsuited"
    read = ranked["usage"]["prompt_tokens"] + scored["usage"]["prompt_tokens"]

    def used() -> dict[str, Any]:
        return dict(node.get("/v1/usage", key).json()["total"])

    wait_until(lambda: used()["requests"] == 2)
    assert (used()["tokens_in"], used()["tokens_out"], used()["failed"]) == (read, 0, 0)
