"""What only a real engine shows of conversations: tools and structured answers, traces, and another node."""

import json
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from tests.certificates import Authority

from .collector import Collector
from .node import Node, wait_until

pytestmark = pytest.mark.lab

MODEL = {
    "name": "chat",
    "aliases": ["assistant"],
    "engine": {"extra_args": ["--enable-auto-tool-choice", "--tool-call-parser=hermes"]},
}

QUESTION = [{"role": "user", "content": "What is the weather in Paris?"}]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
    "required": ["city"],
    "additionalProperties": False,
}
# `strict` holds the arguments to the schema: the model, whose weights are random, would not.
TOOL = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA, "strict": True}}
NAMED = {"type": "function", "function": {"name": "weather"}}
ONE_CALL = {"model": "assistant", "messages": QUESTION, "tools": [TOOL], "parallel_tool_calls": False}
# What a model that has learnt it would say by itself.
SAID = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
CITIES = {"Paris", "Rome"}


class Client:
    """The official clients with a key of their own, and what the key has used."""

    def __init__(self, node: Node, name: str) -> None:
        self._node = node
        self._key = key = node.key(name)
        self.openai: Any = openai.OpenAI(base_url=f"{node.url}/v1", api_key=key, max_retries=0)
        self.anthropic: Any = anthropic.Anthropic(base_url=node.url, api_key=key, max_retries=0)

    def accounted(self, requests: int) -> tuple[int, int]:
        """Tokens read and written by so many requests, once they are accounted."""

        def total() -> dict[str, Any]:
            return dict(self._node.get("/v1/usage", self._key).json()["total"])

        wait_until(lambda: total()["requests"] == requests)
        used = total()
        return used["tokens_in"], used["tokens_out"]

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.openai.close()
        self.anthropic.close()


@pytest.fixture
def client(node: Node) -> Iterator[Client]:
    with Client(node, uuid.uuid4().hex) as made:
        yield made


def pieces(stream: Any) -> tuple[str, str, str, Any]:
    """Of a stream: the tool's name, its arguments, the text, and the usage."""
    chunks = list(stream)
    deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls = [call.function for delta in deltas for call in delta.tool_calls or []]
    return (
        "".join(call.name or "" for call in calls),
        "".join(call.arguments or "" for call in calls),
        "".join(delta.content or "" for delta in deltas),
        chunks[-1].usage,
    )


@pytest.mark.parametrize("choice", [NAMED, "required"], ids=["named", "required"])
def test_a_tool_is_called(client: Client, choice: Any) -> None:
    ask = {**ONE_CALL, "tool_choice": choice, "max_tokens": 300}
    answer = client.openai.chat.completions.create(**ask)
    [call] = answer.choices[0].message.tool_calls
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in CITIES
    name, arguments, _, usage = pieces(
        client.openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    assert (name, json.loads(arguments)["city"] in CITIES) == ("weather", True)
    told = [answer.usage, usage]
    assert client.accounted(2) == (
        sum(each.prompt_tokens for each in told),
        sum(each.completion_tokens for each in told),
    )


def test_a_tool_that_the_model_chooses_is_found_in_what_it_says(client: Client) -> None:
    # Not strict: vLLM would hold it to the tool's grammar instead.
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    ask = {**ONE_CALL, "tools": [tool], "max_tokens": 300}
    ask["extra_body"] = {"structured_outputs": {"choice": [SAID]}}
    answer = client.openai.chat.completions.create(**ask)
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris"}
    assert answer.choices[0].finish_reason == "tool_calls"
    name, arguments, text, _ = pieces(client.openai.chat.completions.create(**ask, stream=True))
    assert (name, json.loads(arguments), text.strip()) == ("weather", {"city": "Paris"}, "")
    # The call goes back with its result.
    turn = [*QUESTION, answer.choices[0].message.to_dict()]
    turn += [{"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    after = client.openai.chat.completions.create(**{**ONE_CALL, "messages": turn}, max_tokens=2)
    assert after.usage.prompt_tokens > answer.usage.prompt_tokens


def test_an_answer_keeps_to_its_schema(client: Client) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "r", "schema": SCHEMA, "strict": True}}
    ask = {"model": "chat", "messages": QUESTION, "response_format": form, "max_tokens": 300}
    answer = client.openai.chat.completions.create(**ask)
    assert json.loads(answer.choices[0].message.content)["city"] in CITIES
    _, _, text, _ = pieces(client.openai.chat.completions.create(**ask, stream=True))
    assert json.loads(text)["city"] in CITIES
    response = client.openai.responses.create(
        model="chat",
        input="x",
        text={"format": {"type": "json_schema", "name": "r", "schema": SCHEMA, "strict": True}},
    )
    assert json.loads(response.output_text)["city"] in CITIES


def test_responses_call_a_tool(client: Client) -> None:
    tool = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
    choice = {"type": "function", "name": "weather"}
    ask = {"model": "chat", "input": "x", "tools": [tool], "tool_choice": choice}
    answer = client.openai.responses.create(**ask)
    [call] = [each for each in answer.output if each.type == "function_call"]
    assert json.loads(call.arguments)["city"] in CITIES
    *_, last = client.openai.responses.create(**ask, stream=True)
    assert last.type == "response.completed"
    told = [answer.usage, last.response.usage]
    assert client.accounted(2) == (
        sum(each.input_tokens for each in told),
        sum(each.output_tokens for each in told),
    )


def test_anthropics_client_gets_a_tool_called(client: Client) -> None:
    tool = {"name": "weather", "description": "-", "input_schema": SCHEMA, "strict": True}
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    ask: Any = {"model": "assistant", "messages": QUESTION, "max_tokens": 300}
    ask |= {"tools": [tool], "tool_choice": choice}
    answer = client.anthropic.messages.create(**ask)
    with client.anthropic.messages.stream(**ask) as stream:
        streamed = stream.get_final_message()
    for each in (answer, streamed):
        assert each.stop_reason == "tool_use"
        assert [(block.type, block.name) for block in each.content] == [("tool_use", "weather")]
        assert each.content[0].input["city"] in CITIES
    call = answer.content[0]
    turn = [*QUESTION, {"role": "assistant", "content": [call.to_dict()]}]
    turn += [
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "rain"}]}
    ]
    after = client.anthropic.messages.create(model="chat", messages=turn, tools=[tool], max_tokens=2)
    told = [each.usage for each in (answer, streamed, after)]
    read = [u.input_tokens + u.cache_read_input_tokens + u.cache_creation_input_tokens for u in told]
    assert client.accounted(3) == (sum(read), sum(each.output_tokens for each in told))


def test_the_engines_span_goes_on_below_the_gateways(client: Client, collector: Collector) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    client.openai.chat.completions.create(
        model="chat",
        messages=QUESTION,
        max_tokens=2,
        extra_headers={"traceparent": f"00-{trace}-b7ad6b7169203331-01"},
    )

    def of_this_trace() -> dict[str, Any]:
        return {each.service: each.span for each in collector.received if each.span.trace_id.hex() == trace}

    wait_until(lambda: len(of_this_trace()) == 2, within=30)
    spans = of_this_trace()
    assert spans["citadel-engine"].parent_span_id == spans["citadel-gateway"].span_id
    assert spans["citadel-gateway"].parent_span_id.hex() == "b7ad6b7169203331"
    assert "weather" not in str([each.span for each in collector.received]), "no span holds what was said"


class Pair:
    """A node whose gateway speaks TLS to its peers, and one without engines that a client comes to."""

    def __init__(self, engines: Node, folder: Path) -> None:
        self.folder = folder
        self.authority = self._authority("authority")
        own = {name: engines.tree[name] for name in ("models_root", "engine", "models")}
        own |= {"run_dir": str(engines.folder / "run"), "gateway": {"tls": self.authority.sign()}}
        self.there = self._start("there", own)
        self.there.trust = ssl.create_default_context(cafile=str(self.authority.file))
        self.peer_key = folder / "peer-key"
        self.peer_key.write_text(self.there.key("here", scope="peer"))
        self.nodes = [self.there]

    def here(self, name: str, authority: Authority) -> Node:
        """Start a gateway that believes an authority, and knows the other node."""
        peer = {"name": "there", "url": self.there.url, "ca_file": str(authority.file), "models": ["chat"]}
        made = self._start(name, {"gateway": {"peers": [peer], "peer_key": {"file": str(self.peer_key)}}})
        self.nodes.append(made)
        return made

    def _authority(self, name: str) -> Authority:
        (self.folder / name).mkdir()
        return Authority(self.folder / name)

    def _start(self, name: str, tree: dict[str, Any]) -> Node:
        (self.folder / name).mkdir()
        made = Node(self.folder / name, tree)
        made.run("gateway")
        return made

    def close(self) -> None:
        for node in self.nodes:
            node.close()


@pytest.fixture
def pair(node: Node, tmp_path: Path) -> Any:
    made = Pair(node, tmp_path)
    yield made
    made.close()


def test_another_nodes_engine_answers_over_tls(pair: Pair) -> None:
    here = pair.here("here", pair.authority)
    here.wait_for("up")
    with Client(here, "test") as client:
        ask = {
            "model": "assistant",
            "messages": QUESTION,
            "max_tokens": 8,
            "extra_body": {"ignore_eos": True},
        }
        _, _, text, usage = pieces(
            client.openai.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
        )
        assert text
        assert usage.completion_tokens == 8
        assert client.accounted(1) == (usage.prompt_tokens, 8)

        # Who hangs up here is noticed there, and the engine stops.
        ask |= {"max_tokens": 1900}
        stream = client.openai.chat.completions.create(**ask, stream=True)
        next(stream)
        assert running(pair.there) == 1
        stream.close()
        wait_until(lambda: running(pair.there) == 0, within=5)
        assert client.accounted(2)[1] < 1000

    # What the other node noted is the hanging-up alone: the use is accounted here.
    asked = [line for line in pair.there.log("gateway") if line["event"] == "request"]
    chats = [line["status"] for line in asked if line["route"] == "/v1/chat/completions"]
    assert chats == [200, 499]
    used = pair.there.get("/v1/admin/usage", pair.there.key("admin", scope="admin")).json()
    assert used["total"]["requests"] == 0


def running(node: Node) -> int:
    """Requests that the engine computes."""
    page = node.get("/metrics").text.splitlines()
    [line] = [line for line in page if line.startswith("vllm:num_requests_running{")]
    return int(float(line.split()[-1]))


def test_a_peer_whom_no_known_authority_vouches_for_is_down_and_says_why(pair: Pair) -> None:
    here = pair.here("stranger", pair._authority("another"))
    here.wait_for("down")
    wait_until(lambda: "its certificate is not trusted" in here.ready()[0]["engines"][0]["reason"])
    [model] = here.ready()
    assert "ca_file" in model["engines"][0]["reason"]
    changes = [line for line in here.log("gateway") if line["event"] == "engine changed state"]
    assert changes[-1]["reason"] == model["engines"][0]["reason"]
    with Client(here, "test") as client, pytest.raises(openai.InternalServerError) as refused:
        client.openai.chat.completions.create(model="chat", messages=QUESTION)
    assert refused.value.code == "engine_unavailable"
