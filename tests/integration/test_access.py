"""Access, on the really running service (stub engine, real BentoML, real Redis): keys, scopes, limits, silence of logs."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AuthenticationError, NotFoundError, OpenAI, PermissionDeniedError

from registry.records import SCHEMA, Run, RunSpec, now
from registry.registry import Registry
from registry.settings import RegistrySettings
from service.rules import OTHERWISE, Rule, rule_for
from shoal.client import Client
from tests import stub_service
from tests.peft_folders import write_adapter
from tests.redis_server import RedisServer

ADMIN = "the-admin-key-of-this-test"
PROMPT = "a secret that a user typed"
SCOPES = ("infer", "feedback", "operate")
"""Every scope but ``admin``, which implies them."""
UNKNOWN = {"/api/{rest:path}", "/v1/{rest:path}"}
"""The routes that answer where there is nothing."""
VLLM_ROUTES = (
    "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/pause", "/resume", "/sleep", "/wake_up",
    "/collective_rpc", "/update_weights", "/reset_prefix_cache", "/start_profile", "/invocations", "/tokenize",
    "/inference/v1/generate", "/abort_requests", "/server_info", "/load",
)  # fmt: skip


class House:
    """A service with keys of every kind."""

    def __init__(self, service: stub_service.StubService, registry: Registry) -> None:
        self.service, self.registry, self.url = service, registry, service.url
        self.admin = Client(self.url, api_key=ADMIN)

    def key(self, *scopes: str, **limits: Any) -> str:
        return str(self.admin.create_key(f"test-{'-'.join(scopes)}", scopes, **limits)["token"])

    def ask(self, method: str, path: str, key: str | None = None, **more: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        return httpx.request(method, self.url + path, headers=headers | more.pop("headers", {}), timeout=30, **more)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, redis_url: str) -> Iterator[House]:
    home = tmp_path_factory.mktemp("access")
    settings = RegistrySettings(
        redis_url=redis_url,
        namespace=f"test-access-{time.time_ns()}",
        artifacts_url=str(home / "artifacts"),
        cache_dir=str(home / "cache"),
    )
    registry = Registry.open(settings)
    for name in ("bot", "other"):
        registry.register(name, write_adapter(home / name, seed=len(name)), by="test")
        registry.promote(name, 1, by="test")
    service = stub_service.StubService(settings, home / "service", SHOAL_API_KEY=ADMIN, SHOAL_MAX_BODY_MB="1")
    with stub_service.running(service):
        yield House(service, registry)
    registry.close()


def routes_of_bento() -> list[tuple[str, str]]:
    """Every route of the application that BentoML serves: its own, and those of what is mounted in it."""
    from service.app import ShoalService, app

    found: list[tuple[str, str]] = []

    def walk(routes: Any, prefix: str) -> None:
        for route in routes:
            path = prefix + getattr(route, "path", "")
            if inner := getattr(route, "routes", None):
                walk(inner, path.rstrip("/"))
            elif getattr(route, "methods", None):
                found.extend((method, path) for method in route.methods)
            elif path:
                found.append(("GET", path))

    walk(app.routes, "")
    walk(ShoalService.to_asgi(is_main=True).routes, "")  # type: ignore[attr-defined]
    return sorted(set(found))


def walked() -> Iterator[tuple[str, str, Rule]]:
    """Every route by its method, a path that it takes, and the line of the table. What answers for no route is none."""
    for method, template in routes_of_bento():
        if template not in UNKNOWN:
            path = re.sub(r"\{[^}]*\}", "x", template) or "/"
            yield method, path, rule_for(method, path)[0]


def shape_of(answer: httpx.Response) -> set[str]:
    assert set(answer.json()) == {"error"}
    return set(answer.json()["error"])


def shape_under(path: str) -> set[str]:
    """What an error has: OpenAI's fields under /v1, Shoal's elsewhere."""
    return {"message", "type", "param", "code"} if path.startswith("/v1/") else {"code", "message", "details"}


def test_every_route_has_a_rule_and_is_closed_without_a_key(house: House) -> None:
    """BentoML's own routes and ours: each is named by the table, and answers 401 in its shape to whoever has no key."""
    routes = list(walked())
    assert len(routes) > 40
    known = {("GET", "/metrics"), ("GET", "/readyz"), ("POST", "/v1/chat/completions"), ("GET", "/api/workers")}
    assert known <= {(method, path) for method, path, _ in routes}
    for method, path, rule in routes:
        assert rule is not OTHERWISE or method not in ("GET", "POST", "PUT", "DELETE"), f"no rule for {method} {path}"
        answer = house.ask(method, path)
        assert answer.status_code == (200 if rule.need == "open" else 401), f"{method} {path}"
        if answer.status_code == 401 and method != "HEAD":
            assert shape_of(answer) == shape_under(path), f"{method} {path}"


def test_every_route_is_closed_to_a_key_of_every_other_scope(house: House) -> None:
    """403 in the shape of the path, whatever else the key may do; where no line of the table stands, 404."""
    keys = {need: house.key(*(scope for scope in SCOPES if scope != need)) for need in (*SCOPES, "admin")}
    keys["any"] = house.key(*SCOPES, adapters=["bot"])
    asked = set()
    for method, path, rule in walked():
        if rule.need != "open":
            answer = house.ask(method, path, keys[rule.need])
            assert answer.status_code == (404 if rule is OTHERWISE else 403), f"{method} {path}"
            assert method == "HEAD" or shape_of(answer) == shape_under(path), f"{method} {path}"
            asked.add(rule.need)
    assert asked == {"any", "admin", *SCOPES}


def test_what_is_not_there_is_not_there_for_any_key(house: House) -> None:
    """404, never 403: nobody is sent for an admin key by a misspelt path. A method that a route has not is 405."""
    keys = [ADMIN, house.key("infer"), house.key("operate", adapters=["bot"]), house.key("admin", adapters=["bot"])]
    for path in ("/v1/embeddings", "/api/anything", "/api/adapters/other/anything"):
        for method in ("GET", "POST", "DELETE"):
            answers = [house.ask(method, path, key) for key in keys]
            assert [answer.status_code for answer in answers] == [404] * len(keys), f"{method} {path}"
            assert len({answer.text for answer in answers}) == 1
            assert shape_of(answers[0]) == shape_under(path)
    for method, path, scope in (
        ("GET", "/v1/chat/completions", "infer"),
        ("POST", "/v1/models", "infer"),
        ("DELETE", "/api/runs", "operate"),
    ):
        assert house.ask(method, path, house.key(scope)).status_code == 405, path


def test_errors_have_the_shape_of_their_path(house: House) -> None:
    """OpenAI's under /v1, Shoal's elsewhere; 401 says how to authenticate; nothing repeats the key that was sent."""
    for path in ("/v1/models", "/api/adapters", "/metrics"):
        answer = house.ask("GET", path, "a-wrong-key")
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert "a-wrong-key" not in answer.text
        assert shape_of(answer) == shape_under(path)
    refused = house.ask("GET", "/api/adapters", house.key("infer"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")


def test_a_reason_that_is_no_line_is_refused_at_the_door(house: House) -> None:
    """422 that names it, before any replica is asked to load what the move is to; nothing moves."""
    before = house.registry.rollout("bot")
    for reason in ("x" * 2001, "good\n2026 r9 bob promoted bot", "\x1b[2J", "\u202egood"):
        for move in ("promote", "pin", "retire"):
            body = {"version": 1, "reason": reason}
            refused = house.ask("POST", f"/api/adapters/bot/{move}", ADMIN, json=body)
            assert (refused.status_code, refused.json()["error"]["details"]["field"]) == (422, "reason")
    assert house.registry.rollout("bot") == before


def test_text_that_is_no_text_is_the_callers_mistake(house: House) -> None:
    """Half a surrogate pair, anywhere in a body of JSON: 422 under /api, 400 under /v1, and nothing is done. A time that is none
    in UTC is 422 and named."""
    half = "\\ud800"
    bodies = {
        "/api/adapters": {"name": half},
        "/api/adapters/bot/promote": {"version": 1, "operation_id": half},
        "/api/adapters/bot/rollback": {"to": 1, "reason": half},
        "/api/adapters/bot/canary": {"version": None, half: 1},
        "/api/adapters/bot/versions/import": {"source": half},
        "/api/keys": {"name": "x", "scopes": [half], "adapters": [half], "raters": [half]},
        "/api/status/accept-registry": {"reason": half},
        "/api/runs": {"adapter": "bot", "reason": half},
        "/api/feedback": {"adapter": "bot", "prompt": half, "answer": "x", "rating": 1},
        "/v1/completions": {"model": half, "prompt": "x"},
        "/v1/chat/completions": {"model": "bot", "messages": [{"role": "user", "content": half}]},
    }
    before = house.registry.rollout("bot")
    for path, body in bodies.items():
        told = house.ask("POST", path, ADMIN, content=json.dumps(body).replace("\\\\", "\\"))
        assert told.status_code == (400 if path.startswith("/v1/") else 422), path
        assert shape_of(told) == shape_under(path)
    for path, body in {"policy": {"policy": {"x": half}}, "guards/sums": {"suite": {"name": half}}}.items():
        told = house.ask("PUT", f"/api/adapters/bot/{path}", ADMIN, content=json.dumps(body).replace("\\\\", "\\"))
        assert told.status_code == 422, path
    assert house.registry.rollout("bot") == before
    early = {"at": "0001-01-01T00:00:00+23:59"}
    told = house.ask("GET", "/api/adapters/bot/history", ADMIN, params=early)
    assert (told.status_code, told.json()["error"]["details"]["field"]) == (422, "at")
    judged = {"adapter": "bot", "prompt": "x", "answer": "x", "rating": 1}
    assert house.ask("POST", "/api/feedback", ADMIN, json=judged | early).status_code == 422


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("infer", {"infer"}),
        ("feedback", {"feedback"}),
        ("operate", {"operate"}),
        ("admin", {"infer", "feedback", "operate", "admin"}),
    ],
)
def test_a_key_may_do_what_its_scope_says(house: House, scope: str, may: set[str]) -> None:
    key = house.key(scope)
    item = {"adapter": "bot", "prompt": "q", "answer": "a", "rating": 1}
    asked = {
        "infer": house.ask("POST", "/v1/completions", key, json={"model": "bot", "prompt": "hi"}),
        "feedback": house.ask("POST", "/api/feedback", key, json=item),
        "operate": house.ask("GET", "/api/status", key),
        "admin": house.ask("GET", "/api/keys", key),
    }
    assert {need for need, answer in asked.items() if answer.is_success} == may
    assert {answer.status_code for need, answer in asked.items() if need not in may} <= {403}
    assert house.ask("GET", "/metrics", key).is_success
    limited = house.key(scope, adapters=["bot"])
    assert house.ask("GET", "/metrics", limited).status_code == 403


def test_the_openai_client_gets_its_own_errors(house: House) -> None:
    """A wrong key is an AuthenticationError, a key of another scope a PermissionDeniedError."""
    messages: Any = [{"role": "user", "content": "hi"}]
    for key, error in (("nope", AuthenticationError), (house.key("operate"), PermissionDeniedError)):
        with OpenAI(base_url=f"{house.url}/v1", api_key=key, max_retries=0) as client, pytest.raises(error):
            client.chat.completions.create(model="bot", messages=messages)
    with OpenAI(base_url=f"{house.url}/v1", api_key=house.key("infer", adapters=["bot"]), max_retries=0) as client:
        assert client.chat.completions.create(model="bot", messages=messages).model == "bot@1"
        with pytest.raises(NotFoundError):
            client.chat.completions.create(model="other", messages=messages)
        assert {model.id for model in client.models.list()} & {"bot", "other"} == {"bot"}


def test_a_key_for_one_adapter_sees_and_touches_no_other(house: House) -> None:
    """403 for another adapter, the same whether it exists; lists show its own; feedback and runs that name another, too."""
    key = house.key("operate", "feedback", adapters=["bot"])
    assert [one["name"] for one in house.ask("GET", "/api/adapters", key).json()["adapters"]] == ["bot"]
    assert house.ask("GET", "/api/adapters/bot", key).is_success
    told = [house.ask("GET", f"/api/adapters/{name}", key) for name in ("other", "nobody")]
    assert [answer.status_code for answer in told] == [403, 403]
    item = {"adapter": "other", "prompt": "q", "answer": "a", "rating": 1}
    for method, path, body in (
        ("POST", "/api/feedback", item),
        ("POST", "/api/runs", {"adapter": "other"}),
        ("POST", "/api/adapters", {"name": "third"}),
        ("POST", "/api/adapters/other/promote", {"version": 1}),
    ):
        assert house.ask(method, path, key, json=body).status_code == 403, path
    assert house.ask("GET", "/api/feedback?adapter=other", key).status_code == 403
    assert house.ask("GET", "/api/status", key).status_code == 403
    assert house.registry.feedback.count("other") == 0


def test_a_key_for_some_adapters_pages_through_their_runs_alone(house: House) -> None:
    """Every page but the last is full, whatever lies between; no other adapter's run is listed, or tells that it is there."""
    began = now()
    for number in range(24):
        adapter = ("bot", "other", "other", "third")[number % 4]
        at = began + timedelta(seconds=number // 6)  # some begin at the same moment
        run = Run(id=f"run-{number:02}", spec=RunSpec(adapter=adapter), created_at=at, created_by="test")
        house.registry.runs.create(run)
        house.registry.runs.cancel(run.id, outcome="test")
    every = [run.id for run in house.registry.runs.list() if run.spec.adapter != "other"]
    assert len(every) == 12
    key = house.key("operate", adapters=["bot", "third", "nobody"])
    pages, before = [], ""
    while True:
        answer = house.ask("GET", f"/api/runs?limit=5{before}", key).json()
        pages.append([run["id"] for run in answer["runs"]])
        if answer["next"] is None:
            break
        before = f"&before={answer['next']}"
    assert [len(page) for page in pages] == [5, 5, 2]
    assert [run for page in pages for run in page] == every
    assert len(house.ask("GET", "/api/runs?limit=12", key).json()["runs"]) == 12
    assert house.ask("GET", "/api/runs?limit=12", key).json()["next"] is None
    for unseen in ("run-01", "no-such-run"):
        assert house.ask("GET", f"/api/runs?before={unseen}", key).status_code == 404


def test_a_revoked_key_opens_nothing_and_history_says_who(house: House) -> None:
    """Here at once; a key is shown once, kept as a hash, and its end is in the history with its reason."""
    made = house.admin.create_key("gone-soon", ["operate"])
    token, key_id = made["token"], made["key"]["id"]
    assert house.ask("GET", "/api/adapters", token).is_success
    house.admin.revoke_key(key_id, reason="left the team")
    assert house.ask("GET", "/api/adapters", token).status_code == 401
    event = house.ask("GET", "/api/keys/history", ADMIN).json()["events"][0]
    assert (event["kind"], event["key"], event["reason"]) == ("revoked", key_id, "left the team")
    assert event["by"].endswith("via admin")
    assert token.split("_", 2)[2] not in json.dumps(house.admin.keys())
    assert house.ask("DELETE", "/api/keys/nobody", ADMIN).status_code == 404


def test_a_key_revoked_elsewhere_stops_by_itself(house: House) -> None:
    """Another replica, or a command at the registry: this one polls."""
    made = house.registry.api_keys.create("elsewhere", ["operate"], by="test")
    until = time.monotonic() + 5
    while not house.ask("GET", "/api/adapters", made[1]).is_success:
        assert time.monotonic() < until
        time.sleep(0.05)
    house.registry.api_keys.revoke(made[0].id, by="test")
    revoked = time.monotonic()
    while house.ask("GET", "/api/adapters", made[1]).is_success:
        assert time.monotonic() < revoked + 5
        time.sleep(0.05)


def test_a_key_that_a_newer_shoal_wrote_stands_in_no_other_keys_way(house: House) -> None:
    """It opens nothing and is listed as a problem; beside it keys are made, open, and are revoked."""
    newer, token = house.registry.api_keys.create("newer", ["operate"], by="test")
    record = newer.model_copy(update={"schema_number": SCHEMA + 1}).model_dump_json()
    redis, names = house.registry.api_keys._redis, house.registry.api_keys._names
    redis.hset(names["records"], newer.id, record)
    try:
        made = house.ask("POST", "/api/keys", ADMIN, json={"name": "beside", "scopes": ["operate"]})
        assert made.status_code == 201
        assert house.ask("GET", "/api/adapters", made.json()["token"]).is_success
        listed = house.ask("GET", "/api/keys", ADMIN).json()
        assert "upgrade" in listed["problems"][newer.id]
        assert made.json()["key"]["id"] in {key["id"] for key in listed["keys"]}
        assert house.ask("DELETE", f"/api/keys/{made.json()['key']['id']}", ADMIN).status_code == 200
        assert house.ask("GET", "/api/adapters", made.json()["token"]).status_code == 401
        assert house.ask("GET", "/api/adapters", token).status_code == 401
    finally:
        redis.hdel(names["records"], newer.id)


def test_a_key_with_a_rate_is_told_when_to_try_again(house: House) -> None:
    key = house.key("operate", rate=1.0)
    answers = [house.ask("GET", "/api/adapters", key) for _ in range(6)]
    refused = [answer for answer in answers if answer.status_code == 429]
    assert refused
    assert int(refused[0].headers["retry-after"]) >= 1
    assert house.ask("GET", "/api/adapters", house.key("operate")).is_success


def test_a_body_that_is_too_large_is_refused_with_and_without_a_length(house: House) -> None:
    """413 in the shape of the path, before it is read as JSON; uploads have their own limit."""
    big = b'{"model": "bot", "prompt": "' + b"x" * (2 << 20) + b'"}'
    told = house.ask("POST", "/v1/completions", ADMIN, content=big)
    assert (told.status_code, shape_of(told)) == (413, shape_under("/v1/completions"))

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(big), 1 << 16):
            yield big[start : start + (1 << 16)]

    assert house.ask("POST", "/api/feedback", ADMIN, content=pieces()).status_code == 413
    assert house.ask("POST", "/v1/completions", ADMIN, json={"model": "bot", "prompt": "hi"}).is_success


def test_a_key_may_be_held_to_smaller_bodies(house: House) -> None:
    """413 in the shape of the path for what any other key may send, with a length and without; also of uploads. A larger limit
    than the service's own changes nothing."""
    small, large = (house.key("infer", "operate", max_body_mb=most) for most in (0.25, 100))
    body = json.dumps({"model": "bot", "prompt": "x" * (1 << 19), "max_tokens": 1}).encode()
    assert house.ask("POST", "/v1/completions", large, content=body).is_success
    for content in (body, iter([body[: 1 << 18], body[1 << 18 :]])):
        told = house.ask("POST", "/v1/completions", small, content=content)
        assert (told.status_code, shape_of(told)) == (413, shape_under("/v1/completions"))
    told = house.ask("POST", "/api/adapters/bot/versions", small, files={"archive": ("a.zip", body)})
    assert (told.status_code, told.json()["error"]["details"]["limit"]) == (413, 1 << 18)
    assert house.ask("POST", "/v1/completions", large, content=body * 3).status_code == 413
    fitting = {"model": "bot", "prompt": "x", "max_tokens": 1}
    assert house.ask("POST", "/v1/completions", small, json=fitting).is_success
    for wrong in (0, -1):
        limits = {"name": "x", "scopes": ["infer"], "max_body_mb": wrong}
        assert house.ask("POST", "/api/keys", ADMIN, json=limits).status_code == 422


def test_vllms_own_routes_lead_nowhere(house: House) -> None:
    """Also with the admin key: no way to load, pause, or rewrite the engine from outside."""
    for path in VLLM_ROUTES:
        for method in ("GET", "POST", "DELETE"):
            assert house.ask(method, path, ADMIN, json={"lora_name": "x", "lora_path": "/"}).status_code in (
                404,
                405,
            ), path
            assert house.ask(method, path).status_code == 401


def test_without_keys_a_page_of_another_site_is_refused(registry_settings: RegistrySettings, tmp_path: Path) -> None:
    """DNS rebinding and cross-site requests come by this machine's browser, from loopback: the name gives them away."""
    service = stub_service.StubService(registry_settings, tmp_path)
    with stub_service.running(service):
        assert httpx.get(f"{service.url}/api/adapters").is_success
        for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
            assert httpx.get(f"{service.url}/api/adapters", headers=headers).status_code == 403
            assert httpx.get(f"{service.url}/v1/models", headers=headers).json()["error"]["code"] == "forbidden"


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_secrets_and_prompts_are_in_no_log_and_no_error(
    redis_process: RedisServer, registry_settings: RegistrySettings, tmp_path: Path, log_format: str
) -> None:
    """Answers, feedback, bad bodies, refused keys, a Redis that goes away: neither a key nor a prompt is written down."""
    password = "redis-password-of-this-test"
    url = redis_process.url.replace("//", f"//:{password}@")
    settings = registry_settings.model_copy(update={"redis_url": url})
    from registry.connection import connect

    with connect(redis_process.url) as client:
        client.config_set("requirepass", password)
    registry = Registry.open(settings)
    registry.register("bot", write_adapter(tmp_path / "bot"), by="test")
    registry.promote("bot", 1, by="test")
    registry.close()
    service = stub_service.StubService(
        settings, tmp_path / "home", SHOAL_API_KEY=ADMIN, SHOAL_LOG_LEVEL="debug", SHOAL_LOG_FORMAT=log_format
    )
    told: list[str] = []
    with stub_service.running(service, options=("--debug",)):

        def ask(method: str, path: str, key: str = ADMIN, **more: Any) -> httpx.Response:
            answer = httpx.request(
                method, service.url + path, headers={"authorization": f"Bearer {key}"}, timeout=30, **more
            )
            told.append(answer.text if answer.status_code >= 400 or path == "/api/status" else "")
            return answer

        token = ask("POST", "/api/keys", json={"name": "k", "scopes": ["infer"]}).json()["token"]
        assert ask("POST", "/v1/completions", token, json={"model": "bot", "prompt": PROMPT}).is_success
        assert ask("POST", "/v1/completions", json={"model": "bot", "prompt": PROMPT, "max_tokens": -1}).is_error
        assert ask("POST", "/v1/completions", content=f'{{"prompt": "{PROMPT}", ').is_error
        assert ask("POST", "/v1/completions", json={"model": "bot", "prompt": [PROMPT, {}]}).is_error
        for body in ({"prompt": PROMPT, "rating": "good"}, {"prompt": {"x": PROMPT}}, [PROMPT]):
            assert ask("POST", "/api/feedback", json=body).is_error
        item = {"adapter": "bot", "prompt": PROMPT, "answer": PROMPT, "rating": 1, "comment": PROMPT}
        assert ask("POST", "/api/feedback", json=item).is_success
        assert ask("GET", "/api/status", f"{token}x").status_code == 401
        redis_process.stop()
        assert ask("POST", "/api/feedback", json=item).status_code == 202
        assert ask("POST", "/api/adapters/bot/rollback", json={}).status_code == 503
        assert ask("GET", "/api/status").is_success
    written = service.log.read_text() + "".join(told)
    for secret in (ADMIN, token.split("_", 2)[2], password, PROMPT):
        assert secret not in written, f"{secret!r} was written down"
