"""``kimiya cache lint`` and ``kimiya models --caching | --probe``, as typed."""

import http.server
import json
import threading

import pytest

from kimiya.caching.linter import Finding, findings_json
from kimiya.catalog.catalog import Catalog
from kimiya.cli.main import main
from kimiya.cli.probe import compare, probing
from kimiya.core.exchange import Usage
from kimiya.core.token_estimate import estimate_input_tokens
from tests.bedrock.aws import NO_KEYS, account

LONG = "A rule that holds. " * 2_000


@pytest.fixture(autouse=True)
def _nobody_home(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("MOONSHOT_API_KEY", "ANTHROPIC_API_KEY", "KIMIYA_CONFIG", "KIMIYA_KEY"):
        monkeypatch.delenv(name, raising=False)


def anthropic(text: str, *said: str) -> dict:
    system = [{"type": "text", "text": text, "cache_control": {"type": "ephemeral"}}]
    messages = [{"role": "user", "content": word} for word in ("hi", *said)]
    return {"model": "claude-sonnet-4-5", "max_tokens": 9, "system": system, "messages": messages}


def converse(text: str) -> dict:
    system = [{"text": text}, {"cachePoint": {"type": "default"}}]
    return {"system": system, "messages": [{"role": "user", "content": [{"text": "hi"}]}]}


def chat(text: str) -> dict:
    messages = [{"role": "system", "content": text}, {"role": "user", "content": "hi"}]
    return {"model": "kimi-k2.6", "messages": messages}


BEDROCK = "global.anthropic.claude-sonnet-4-5-20250929-v1:0"


@pytest.mark.parametrize(
    ("records", "code", "said"),
    [
        ([anthropic(LONG)], 0, ["nothing found"]),
        ([anthropic(f"Now 14:03. {LONG}")], 1, ["PC001 messages[0].parts[0] at character 4"]),
        ([{"model": BEDROCK, "body": converse("short")}], 1, ["PC004", "the minimum is 1024"]),
        ([chat(f"Now 14:03. {LONG}")] * 2, 1, ["PC001", "2 calls"]),
        (
            [{"at": at, "body": anthropic(LONG)} for at in ("2026-11-22T09:00", 1_795_339_000)],
            1,
            ["PC007", "$0.0"],
        ),
    ],
)  # fmt: skip
def test_files_are_linted(records, code, said, tmp_path, capsys) -> None:
    for text in ("\n".join(map(json.dumps, records)), json.dumps(records, indent=1)):
        (tmp_path / "calls.jsonl").write_text(text)
        assert main(["cache", "lint", "calls.jsonl"]) == code
        out = capsys.readouterr().out
        assert all(word in out for word in said), out
    assert main(["cache", "lint", "calls.jsonl", "--json"]) == code
    rows = json.loads(capsys.readouterr().out)
    assert bool(rows) == bool(code)
    assert all(row["mend"] and row["path"] for row in rows)


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("", [], "holds no requests"),
        ("{", [], "is no JSON"),
        ("[1]", [], "no JSON object"),
        ("\xff", [], "is no JSON"),
        ('{"model": "claude-sonnet-4-5"}', [], "is no openai_chat request"),
        (json.dumps(anthropic("x")), ["--dialect", "nope"], "Use one of openai_chat"),
        (json.dumps(anthropic("x")), ["--model", "claude-sonet-4-5"], "claude-sonnet-4-5"),
        (json.dumps(anthropic("x")), ["--host", "moonshot"], "moonshot/claude"),
        (json.dumps({"at": "noon", "body": anthropic("x")}), [], "is no time"),
        (json.dumps({"at": 1e300, "body": anthropic("x")}), [], "is no time"),
        ("[" * 100_000, [], "is no JSON"),
    ],
)
def test_files_that_are_none_are_told_in_one_line(text, words, said, tmp_path, capsys) -> None:
    (tmp_path / "calls.jsonl").write_text(text, encoding="latin-1")
    assert main(["cache", "lint", "calls.jsonl", *words]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_no_file_at_all(capsys) -> None:
    assert main(["cache", "lint", "no.jsonl"]) == 2
    assert main(["cache", "lint"]) == 2
    assert main(["cache", "lint", "x", "--live"]) == 2
    assert main(["cache", "lint", "--live", "--url", "file:///etc"]) == 2
    assert "http://HOST:PORT" in capsys.readouterr().err


TINY = Finding("PC004", "tools[0]", None, "tiny", "Leave it out")


class _Gateway(http.server.BaseHTTPRequestHandler):
    answer: tuple[int, bytes]
    keys: list[str | None]

    def do_GET(self) -> None:
        self.keys.append(self.headers.get("authorization"))
        status, body = self.answer if self.path == "/kimiya/cache/findings" else (404, b"")
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.mark.parametrize(
    ("status", "body", "code", "said"),
    [
        (200, b"[]", 0, "nothing found"),
        (200, findings_json([TINY]), 1, "PC004"),
        (200, b"<html>", 1, "no cache findings"),
        (401, b"", 2, "KIMIYA_KEY"),
        (404, b"", 2, "no Kimiya gateway"),
        (500, b"", 2, "log"),
    ],
)  # fmt: skip
def test_a_running_gateway_is_asked(status, body, code, said, capsys, monkeypatch) -> None:
    monkeypatch.setenv("KIMIYA_KEY", "kmy-x")
    handler = type("Handler", (_Gateway,), {"answer": (status, body), "keys": []})
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert main(["cache", "lint", "--live", "--url", url]) == code
        server.shutdown()
    assert handler.keys == ["Bearer kmy-x"]
    told = capsys.readouterr()
    assert said in told.out + told.err
    assert main(["cache", "lint", "--live", "--url", url]) == 2
    assert "kimiya serve" in capsys.readouterr().err


def test_models_say_whether_caching_is_supported(capsys) -> None:
    assert main(["models", "--caching", "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = {line.split()[0]: line.split()[1:] for line in lines if line and line[0] != " "}
    assert rows["kimi-k2.7-code"][0] == "implicit"
    assert rows["claude-opus-4-7"] == ["yes", "2048", "4", "5m,1h", "0.5/6.25/10"]
    assert any("2026-11-22" in line for line in lines)


CARDS = Catalog.load({}).cards


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.host}-{card.model_id}")
def test_a_probe_is_above_the_minimum_and_small(card) -> None:
    one, other = probing(card, "a"), probing(card, "b")
    tokens = estimate_input_tokens(one)
    assert (card.cache.min_tokens or 1_024) < tokens < 8_000
    assert one.messages[0] != other.messages[0]
    assert (one.messages[0].parts[0].cache is not None) == (card.cache.kind == "explicit")


WROTE = Usage(input_tokens=2_000, cache_write_tokens=1_990)
READ = Usage(input_tokens=2_000, cache_read_tokens=1_990)
PLAIN = Usage(input_tokens=2_000)


@pytest.mark.parametrize(
    ("kind", "first", "second", "agrees"),
    [
        ("explicit", WROTE, READ, True),
        ("explicit", PLAIN, PLAIN, False),
        ("explicit", WROTE, WROTE, False),
        ("implicit", PLAIN, READ, True),
        ("implicit", PLAIN, PLAIN, False),
        ("none", PLAIN, PLAIN, True),
        ("none", PLAIN, READ, False),
        ("none", WROTE, PLAIN, False),
    ],
)
def test_usage_against_the_card(kind, first, second, agrees) -> None:
    card = next(card for card in CARDS if card.cache.kind == kind)
    assert compare(card, first, second)[0] is agrees


def test_a_probe_needs_a_name_and_a_host(capsys) -> None:
    assert main(["models", "--probe"]) == 2
    assert "kimiya models NAME --probe" in capsys.readouterr().err


BEDROCK_TOML = """
[providers.bedrock]
kind = "bedrock"
region = "us-east-1"
endpoint_url = "{url}"
"""


def test_a_probe_asks_the_real_wire(tmp_path, capsys, monkeypatch) -> None:
    for name, value in NO_KEYS.items():
        monkeypatch.setenv(name, value)
    with account() as aws:
        (tmp_path / "kimiya.toml").write_text(BEDROCK_TOML.format(url=aws.url))
        assert main(["models", "claude-sonnet-4-5", "--probe", "--host", "bedrock"]) == 0
        out = capsys.readouterr().out
        assert out.startswith("agrees   bedrock:global.anthropic.claude-sonnet-4-5")
        assert "card says explicit; wrote " in out
        assert "($0.0" in out
        assert main(["models", "kimi-k2.5", "--probe"]) == 0
        assert "card says none; wrote 0 then 0, read 0 then 0" in capsys.readouterr().out
        lie = '[[models]]\nhost = "bedrock"\nmodel_id = "moonshotai.kimi-k2.5"\n'
        lie += '[models.cache]\nkind = "implicit"\n'
        (tmp_path / "kimiya.toml").write_text(BEDROCK_TOML.format(url=aws.url) + lie)
        assert main(["models", "kimi-k2.5", "--probe"]) == 1
        assert capsys.readouterr().out.startswith("DIFFERS  bedrock:moonshotai.kimi-k2.5")
    assert main(["models", "kimi-k2.5", "--probe"]) == 1
    assert "DIFFERS" in capsys.readouterr().out
