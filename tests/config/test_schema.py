import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from citadel_llm.config import ConfigError, Settings, load
from citadel_llm.config.gateway import Gateway
from citadel_llm.config.parts import SecretReference
from citadel_llm.config.reference import markdown
from citadel_llm.config.schema import EngineOptions

from .layer_files import WriteLayers

DOCS = Path(__file__).parents[2] / "docs"
SOURCE = "source: {kind: folder, path: /x}"
BASE = "environment: staging\nengine: {build: cpu}\n"
MODEL = "models: [{name: a, source: {kind: folder, path: /x}, %s}]"


@pytest.mark.parametrize(
    ("text", "key", "message"),
    [
        ("gatway: {}", "gatway", "there is no such setting; did you mean 'gateway'?"),
        ("gateway: {prot: 1}", "gateway.prot", "there is no such setting; did you mean 'port'?"),
        ("gateway: {zzz: 1}", "gateway.zzz", "there is no such setting; there are: accounting, address"),
        ("gateway: {port: 70000}", "gateway.port", "must be less than or equal to 65535, not 70000"),
        ("gateway: {port: http}", "gateway.port", "must be a valid integer"),
        ("gateway: {address: localhost}", "gateway.address", "must be an IP address such as 0.0.0.0"),
        ("gateway: {metrics_allow: [10.0.0.1/8]}", "gateway.metrics_allow[0]", "has host bits set"),
        ("gateway: {database: citadel.db}", "gateway.database", "must be a URL such as sqlite:"),
        (
            "gateway: {database_password: {credential: database-password}}",
            "gateway.database_password",
            "a SQLite file has no password: take it out",
        ),
        (
            "gateway: {limits: {store_password: {credential: limits-password}}}",
            "gateway.limits.store_password",
            "name the store in limits.store",
        ),
        (
            "gateway: {limits: {store: 'redis://10.0.0.1/0?password=hunter2'}}",
            "gateway.limits.store",
            "must hold no password",
        ),
        (
            "gateway: {tracing: {endpoint: 'http://u:p@10.0.0.1/v1'}}",
            "gateway.tracing.endpoint",
            "must match",
        ),
        (
            "gateway: {drain_timeout_seconds: .inf}",
            "gateway.drain_timeout_seconds",
            "must be a finite number",
        ),
        ("models_root: models", "models_root", "must be an absolute path such as /srv/models, not 'models'"),
        (
            "models: [{name: a, source: {kind: hub, repository: a/b, revision: ''}}]",
            "models[0].source.revision",
            "must have at least 1 character",
        ),
        (
            MODEL % "engine: {extra_args: [--hf-token, x]}",
            "models[0].engine.extra_args",
            "must not hold --hf-token",
        ),
        ("gateway: {workers: 0}", "gateway.workers", "must be greater than or equal to 1"),
        ("gateway: {workers: 2}", "gateway.workers", "valkey_state: present sets one up"),
        (
            "logging: {level: loud}",
            "logging.level",
            "must be 'debug', 'info', 'warning' or 'error', not 'loud'",
        ),
        (
            MODEL % "engine: {max_modellen: 1}",
            "models[0].engine.max_modellen",
            "did you mean 'max_model_len'?",
        ),
        (MODEL % "engine: {gpus: [0]}", "models[0].engine.gpus", "must be [] where engine.build is cpu"),
        (MODEL % "engine: {gpus: [1, 1]}", "models[0].engine.gpus", "must name each GPU once"),
        (
            MODEL % "engine: {extra_args: [--api-key=x]}",
            "models[0].engine.extra_args",
            "must not hold --api-key",
        ),
        (MODEL % "aliases: [a]", "models[0].aliases", "'a' is already a name of a"),
        (
            "models: [{name: a/b, source: {kind: folder, path: /x}}]",
            "models[0].name",
            "must match ^[A-Za-z0-9]",
        ),
        (
            "models: [{name: a, source: {kind: disk}}]",
            "models[0].source.kind",
            "must be one of 'package', 'fold",
        ),
        ("models: [{name: a, source: {path: /x}}]", "models[0].source.kind", "must be set"),
        ("models: [{name: a, source: {kind: folder}}]", "models[0].source.path", "must be set"),
        (
            "models: [{name: a, source: {kind: package, package: p, version: '1', path: x, sha256: 1f}}]",
            "models[0].source.sha256",
            "must match",
        ),
        (
            "run_dir: /%s\n" % ("r" * 100) + MODEL % "aliases: []",
            "models[0].name",
            "is longer than 107 bytes",
        ),
        (
            f"models: [{{name: a, {SOURCE}, engine: {{replicas: 2}}}}, {{name: a.2, {SOURCE}}}]",
            "models[1].name",
            "'a.2' is what an engine of a is called",
        ),
        (
            MODEL % "residency: cold, engine: {replicas: 2}",
            "models[0].residency",
            "several engines are awake always",
        ),
    ],
)
def test_mistakes_are_named_with_what_would_do(
    write_layers: WriteLayers, text: str, key: str, message: str
) -> None:
    folder = write_layers(**{"global/a": BASE, "services/b": text})
    with pytest.raises(ConfigError) as caught:
        load(folder)
    (problem,) = caught.value.problems
    assert problem.key == key
    assert problem.where.startswith(f"{folder}/services/b.yml:")
    assert message in str(problem)


@pytest.mark.parametrize(
    ("argument", "passes"),
    [
        ("--max-num-seqs=8", True),
        ("--config-format", True),
        ("auto", True),
        ("-1", True),
        ("--enable-log-requests", False),
        ("--enable_log_requests", False),
        ("--enable-log-req", False),  # vLLM takes abbreviations
        ("--port=1", False),
        ("-tp", False),
        ("-tp=2", False),
        ("--disable-log-stats", False),
    ],
)
def test_arguments_that_would_undo_what_citadel_promises(argument: str, passes: bool) -> None:
    if passes:
        assert EngineOptions(extra_args=(argument,))
        return
    with pytest.raises(ValueError, match="must not hold -"):
        EngineOptions(extra_args=(argument,))


def test_all_problems_are_told_at_once(write_layers: WriteLayers) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write_layers(**{"global/a": "gateway: {prot: 1, port: x}"}))
    assert [problem.key for problem in caught.value.problems] == [
        "environment",
        "gateway.port",
        "gateway.prot",
    ]


@pytest.mark.parametrize(
    ("engine", "passes"),
    [
        ("gpus: [0]", True),
        ("gpus: [0, 1], tensor_parallel_size: 2", True),
        ("gpus: [0, 1], pipeline_parallel_size: 2", True),
        ("gpus: []", True),
        ("gpus: [0, 1]", True),
        ("gpus: [0, 1], tensor_parallel_size: 1, pipeline_parallel_size: 1", False),
        ("gpus: [0, 1, 2], pipeline_parallel_size: 2", False),
        ("gpus: [0], tensor_parallel_size: 2", False),
        ("replicas: 2, gpus: [0, 1]", True),
        ("replicas: 2, gpus: [0]", False),
    ],
)
def test_gpus_match_what_the_model_is_split_over(
    write_layers: WriteLayers, engine: str, passes: bool
) -> None:
    folder = write_layers(
        **{"global/a": "environment: staging", "services/b": MODEL % f"engine: {{{engine}}}"}
    )
    if passes:
        assert load(folder)
        return
    with pytest.raises(ConfigError, match=r"models\[0\].engine.gpus: must name \d GPU"):
        load(folder)


def test_each_engine_has_its_id_its_socket_and_its_plan(write_layers: WriteLayers) -> None:
    place = "max_model_len: 4096, kv_cache_bytes: 1"
    plan = f"plan: {{residency: resident, gpus: [1], {place}, replicas: [{{gpus: [0], kv_cache_bytes: 2}}]}}"
    folder = write_layers(
        **{"global/a": "environment: staging", "services/b": MODEL % f"engine: {{replicas: 2}}, {plan}"}
    )
    first, second = load(folder).engines
    assert (first.id, first.unit, first.socket.name) == ("a", "citadel-engine@a.service", "a.sock")
    assert (second.id, second.socket.name, second.number) == ("a.2", "a.2.sock", 2)
    assert (first.model.gpus, second.model.gpus) == ((1,), (0,))
    assert second.plan
    assert (second.plan.kv_cache_bytes, second.plan.max_model_len, second.plan.replicas) == (2, 4096, ())


def test_what_was_planned_goes_over_what_was_wished(write_layers: WriteLayers) -> None:
    plan = "plan: {residency: cold, gpus: [1], max_model_len: 4096, kv_cache_bytes: 1}"
    wish = f"engine: {{gpus: [0], max_model_len: 8192}}, {plan}"
    folder = write_layers(**{"global/a": "environment: staging", "services/b": MODEL % wish})
    [model] = load(folder).models
    assert (model.gpus, model.max_model_len, model.on_demand) == ((1,), 4096, True)
    [model] = load(write_layers(**{"services/b": MODEL % "engine: {gpus: [0], max_model_len: 8192}"})).models
    assert (model.gpus, model.max_model_len, model.on_demand) == ((0,), 8192, False)


def test_no_message_shows_a_password(write_layers: WriteLayers) -> None:
    folder = write_layers(
        **{
            "global/a": BASE,
            "services/b": "gateway: {database: 'postgresql://u:hunter2@db/c', database_password: hunter2}",
        }
    )
    with pytest.raises(ConfigError) as caught:
        load(folder)
    assert len(caught.value.problems) == 2
    assert "hunter2" not in str(caught.value)


def test_the_password_is_put_into_the_url_for_the_driver_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "db").write_text("p@ss/word\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    gateway = Gateway(
        database="postgresql://citadel@db:5432/citadel", database_password=SecretReference(credential="db")
    )
    assert gateway.database_url() == "postgresql://citadel:p%40ss%2Fword@db:5432/citadel"
    assert "p@ss" not in repr(gateway)


@pytest.mark.parametrize(
    ("database", "said"),
    [
        ("mysql://u@db/c", "postgresql+psycopg://user@host/name"),
        ("citadel.db", "must be a URL such as sqlite:///"),
        ("postgresql://u:hunter2@db/c", "database_password"),
        ("postgresql://u@db/c?password=hunter2", "database_password"),
    ],
)
def test_a_database_that_cannot_be_used_is_refused_when_settings_are_read(database: str, said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Gateway(database=database)
    assert said in caught.value.errors()[0]["msg"]


def test_a_secret_has_one_place() -> None:
    with pytest.raises(ValueError, match="either a credential or a file"):
        SecretReference(credential="a", file=Path("/b"))


def test_every_setting_says_what_it_is() -> None:
    schema = Settings.model_json_schema()
    for name, group in {"Settings": schema, **schema["$defs"]}.items():
        for key, field in group.get("properties", {}).items():
            if key != "kind":
                assert field.get("description"), f"{name}.{key} has no description"


def test_every_time_and_every_size_says_its_unit() -> None:
    times = re.compile(r"timeout|interval|wait|delay|pause|period|patience|stay|retry|_age")
    sizes = re.compile(r"memory|body|spool|cache|_free|available|asleep|awake|weight_")
    units = re.compile(r"_(seconds|days|bytes|gib|share|utilization|inodes|percent)$")
    schema = Settings.model_json_schema()
    for name, group in {"Settings": schema, **schema["$defs"]}.items():
        for key, field in group.get("properties", {}).items():
            numbers = [
                each for each in field.get("anyOf", [field]) if each.get("type") in {"integer", "number"}
            ]
            if numbers and (times.search(key) or sizes.search(key)):
                assert units.search(key) or "unit" in numbers[0], f"{name}.{key}"


def test_the_reference_in_the_docs_is_of_this_schema() -> None:
    text = (DOCS / "configuration.md").read_text()
    assert markdown() in text, "run: citadel config schema --format markdown, and put it into the page"
