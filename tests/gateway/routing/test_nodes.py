"""Two nodes: real gateways, of which one has the engines and the other the client."""

import json
from pathlib import Path
from typing import Any

from citadel_llm.gateway.engine_request import PRIORITIES

from ..fake_engine import cut
from ..gateway_site import CHAT, Site, wait_until

ASK = {"model": CHAT, "messages": [{"role": "user", "content": "x"}]}
PATH = "/v1/chat/completions"


def state_of(site: Site, model: str) -> str:
    models = site.http.get("/ready").json()["models"]
    return next(str(each["state"]) for each in models if each["model"] == model)


def in_front_of(there: Site, make_site: Any, folder: Path) -> Site:
    """A node without engines that knows another."""
    _, peer_key = there.keys.create("node-1", scope="peer")
    (folder / "key").write_text(peer_key)
    peer = {"name": "node-2", "url": there.url, "models": [CHAT]}
    here: Site = make_site(start=(), peers=[peer], peer_key={"file": str(folder / "key")})
    wait_until(lambda: state_of(here, CHAT) == "up")
    return here


def test_a_request_reaches_the_engine_of_another_node_and_goes_no_further(
    make_site: Any, tmp_path: Path
) -> None:
    there: Site = make_site()
    here = in_front_of(there, make_site, tmp_path)
    peer_key = (tmp_path / "key").read_text()
    answer = here.openai().chat.completions.create(**ASK)
    assert answer.choices[0].message.content == "The end."
    [seen] = there.chat.seen
    # What it says of itself is for its peers alone.
    assert there.http.get("/internal/engines", headers=there.auth).status_code == 403
    assert there.http.get("/internal/engines").status_code == 401
    told = there.http.get("/internal/engines", headers={"authorization": f"Bearer {peer_key}"}).json()
    assert {each["id"]: each["state"] for each in told["engines"]}[CHAT] == "up"
    assert "/internal/engines" not in there.http.get("/openapi.json").json()["paths"]

    # With an engine here too, one that breaks off costs no request its answer.
    here.run(here.chat.start())
    wait_until(lambda: all(each["state"] == "up" for each in _engines(here, CHAT)))

    async def break_off(request: Any, body: bytes) -> Any:
        cut(request)

    there.chat.answer = break_off
    statuses = [
        here.http.post(PATH, json=ASK, headers={**here.auth, "x-session-id": str(number)}).status_code
        for number in range(20)
    ]
    assert statuses == [200] * 20
    assert seen.path == PATH
    # One of them at least: it failed there, and was answered here.
    assert len(there.chat.seen) > 1


def test_session_and_priority_go_along_to_the_other_node(make_site: Any, tmp_path: Path) -> None:
    there: Site = make_site(start=(CHAT, f"{CHAT}.2"), replicas=2)
    here = in_front_of(there, make_site, tmp_path)
    _, key = here.keys.create("patient", priority="low")
    headers = {"authorization": f"Bearer {key}", "x-session-id": "one"}
    for number in range(6):
        ask = {**ASK, "messages": [{"role": "user", "content": str(number)}]}
        assert here.http.post(PATH, json=ask, headers=headers).status_code == 200
    seen = [there.engines[name].seen for name in (CHAT, f"{CHAT}.2")]
    assert sorted(len(each) for each in seen) == [0, 6]
    bodies = [json.loads(each.body) for each in max(seen, key=len)]
    assert {body["priority"] for body in bodies} == {PRIORITIES["low"]}
    assert len({body["cache_salt"] for body in bodies}) == 1


def _engines(site: Site, model: str) -> list[dict[str, Any]]:
    models = site.http.get("/ready").json()["models"]
    return next(list(each["engines"]) for each in models if each["model"] == model)
