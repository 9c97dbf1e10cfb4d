"""The command's edge: what is loaded, which exit code, one line for every error."""

# ruff: noqa: E501 (a case is one line, or its table cannot be read)

import importlib
import json
import subprocess
import sys
import types

import pytest

import kimiya
from kimiya.cli import main as cli
from kimiya.errors import BudgetExceeded, ConfigError, Overloaded, UnknownModel

main = cli.main


@pytest.fixture(autouse=True)
def _nobody_home(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration, key, model or home of the machine the tests run on."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MOONSHOT_API_KEY", "ANTHROPIC_API_KEY", "KIMIYA_CONFIG", "AWS_ACCESS_KEY_ID",
                 "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_BEARER_TOKEN_BEDROCK"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"kimiya {kimiya.__version__}\n"
    for words in ([], ["--help"]):
        assert main(words) == 0
        out = capsys.readouterr().out
        assert all(
            name in out for name in ("serve", "chat", "models", "doctor", "keys", "simulate")
        )


def test_version_loads_nothing_of_weight() -> None:
    code = "import sys; from kimiya.cli.main import main; main(['--version']); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("msgspec", "aiohttp", "rich", "uvicorn", "asyncio", "botocore", "kimiya.catalog"):
        assert f"'{heavy}'" not in done.stdout, heavy


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["serv"], 2, "Did you mean serve?"),
        (["zzz"], 2, "Commands: serve"),
        (["\x1b[2J" * 50], 2, "no command"),
        (["serve", "--prt", "1"], 2, "--prt"),
        (["models", "kimi-k25"], 2, "kimi-k2.5"),
        (["models", "--host", "moonsot"], 2, "moonshot"),
        (["keys"], 2, "ACTION"),
        (["keys", "revoke", "nope"], 2, "keys list"),
        (["chat", "-p", " "], 2, "empty"),
        (["chat", "-p", "x"], 2, "MOONSHOT_API_KEY"),
        (["chat", "--mode", "fast"], 2, "thinking"),
        (["serve"], 2, "kimiya doctor"),
        (["serve", "--config", "no.toml"], 2, "no such file"),
        (["simulate", "no.sim"], 2, "no.sim"),
        (["simulate", "no.sim", "--port", "0"], 2, "no port"),
    ],
)
def test_what_was_typed_wrong_is_told_in_one_line(words, code, said, capsys) -> None:
    assert main(words) == code
    err = capsys.readouterr().err
    assert said in err
    assert "Traceback" not in err
    if err.startswith("kimiya: "):
        assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ConfigError("bad", file="f", line=3, key="k", remedy="Mend it"), 2, "kimiya: f:3: k: bad. Mend it"),
        (UnknownModel("x"), 2, "no model is called 'x'"),
        (Overloaded("too busy"), 1, "Overloaded: too busy"),
        (BudgetExceeded("no room", budget="b"), 1, "BudgetExceeded: no room"),
        (ModuleNotFoundError("torch", name="torch"), 1, "pip install 'kimiya[train]'"),
        (ModuleNotFoundError("x", name="opentelemetry.sdk"), 1, "pip install 'kimiya[otel]'"),
        (ModuleNotFoundError("zebra", name="zebra"), 1, "a bug"),
        (PermissionError(13, "Permission denied", "/etc/x"), 1, "Permission denied: /etc/x"),
        (ValueError("two\nlines with sk-abcdefghijklmnop"), 1, "a bug: ValueError: two lines with [redacted]"),
        (KeyboardInterrupt(), 130, "stopped"),
        (SystemExit(3), 3, ""),
    ],
)  # fmt: skip
def test_every_error_becomes_one_line_and_a_code(error, code, said, capsys, monkeypatch) -> None:
    def run(args: object) -> int:
        raise error

    def add_parser(subparsers) -> None:
        subparsers.add_parser("doctor").set_defaults(run=run)

    fake = types.SimpleNamespace(add_parser=add_parser)
    monkeypatch.setattr(importlib, "import_module", lambda name: fake)
    assert main(["doctor"]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == (1 if said else 0)
    if not isinstance(error, KeyboardInterrupt | SystemExit):
        assert main(["doctor", "--debug"]) == code
        assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["models"], ["models", "--all"], ["models", "haiku"]])
def test_the_table_of_models_fits_eighty_columns(words, capsys) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("claude-haiku-4-5" in line for line in lines)
    assert ("retired" in "\n".join(lines)) == ("--all" in words)


def test_models_as_json_are_whole_and_exact(capsys) -> None:
    assert main(["models", "kimi-k3", "--host", "moonshot", "--json"]) == 0
    cards = json.loads(capsys.readouterr().out)
    card = next(card for card in cards if card["model_id"] == "kimi-k3")
    assert card["prices"][0]["input_usd_per_mtok"] in ("3", "3.0")
    assert card["thinking"]["form"] == "effort"


def test_models_show_the_users_own_rows(tmp_path, capsys) -> None:
    file = tmp_path / "own.toml"
    file.write_text(
        "[[models]]\nhost='vllm'\nmodel_id='mine'\nname='my-kimi'\nlike='vllm/moonshotai/Kimi-K2.5'\n"
    )
    assert main(["models", "my-kimi", "--config", str(file)]) == 0
    assert "my-kimi" in capsys.readouterr().out


def test_keys_are_made_listed_and_revoked(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("KIMIYA_GATEWAY__KEYS_FILE", str(tmp_path / "keys.json"))
    assert main(["keys", "list"]) == 0
    assert "loopback only" in capsys.readouterr().out
    assert main(["keys", "create", "ann", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["secret"].startswith("kmy-")
    assert main(["keys", "list"]) == 0
    listed = capsys.readouterr().out
    assert made["key_id"] in listed
    assert "ann" in listed
    assert made["secret"] not in listed
    assert main(["keys", "revoke", made["key_id"]]) == 0
    capsys.readouterr()
    assert main(["keys", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["revoked_at"]
    assert set(row) == {"key_id", "name", "created_at", "revoked_at"}
    assert made["secret"] not in (tmp_path / "keys.json").read_text()


def test_doctor_names_the_remedy_of_everything_missing(capsys) -> None:
    assert main(["doctor", "--offline"]) == 1
    out = capsys.readouterr()
    for words in ("export MOONSHOT_API_KEY=...", "aws configure", "kimiya local install"):
        assert words in out.out
    assert "no model can be called yet" in out.err


def test_doctor_finds_keys_and_never_shows_them(capsys, monkeypatch) -> None:
    monkeypatch.setenv("MOONSHOT_API_KEY", "sk-very-secret-0123456789")
    assert main(["doctor", "--offline", "--json"]) == 0
    out = capsys.readouterr().out
    rows = {row["what"]: row for row in json.loads(out)}
    assert rows["key for moonshot"]["state"] == "ok"
    assert rows["host moonshot"]["detail"] == "https://api.moonshot.ai/v1"
    assert "very-secret" not in out


def test_doctor_knocks_at_configured_hosts(tmp_path, capsys) -> None:
    file = tmp_path / "k.toml"
    file.write_text(
        "[providers.gone]\nkind='openai'\nbase_url='http://127.0.0.1:9/v1'\n"
        "[providers.sim]\nkind='simulated'\nscript='none.sim'\n"
        "[providers.keyless]\nkind='anthropic'\nhost='anthropic'\n"
    )
    assert main(["doctor", "--json", "--config", str(file)]) == 1
    rows = {row["what"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["host gone"]["state"] == "wrong"
    assert "does not answer" in rows["host gone"]["detail"]
    assert rows["host sim"]["remedy"] == "correct `script`"
    assert "ANTHROPIC_API_KEY is not set" in rows["host keyless"]["detail"]


def test_doctor_survives_a_broken_configuration(tmp_path, capsys) -> None:
    file = tmp_path / "k.toml"
    file.write_text("[gatway]\n")
    assert main(["doctor", "--offline", "--config", str(file)]) == 1
    assert f"WRONG    configuration: {file}:1: gatway" in capsys.readouterr().out


def test_serve_hands_over_what_was_asked_for(tmp_path, monkeypatch) -> None:
    served = []
    monkeypatch.setattr("kimiya.gateway.server.serve", served.append)
    file = tmp_path / "k.toml"
    file.write_text(
        "[gateway]\nport = 1\n[providers.box]\nkind='openai'\nbase_url='http://127.0.0.1:9'\n"
    )
    assert main(["serve", "--config", str(file), "--port", "0", "--workers", "2"]) == 0
    (config,) = served
    assert (config.gateway.port, config.gateway.workers, config.gateway.host) == (0, 2, "127.0.0.1")
    assert config.providers["box"].base_url == "http://127.0.0.1:9"
    assert main(["serve", "--config", str(file), "--port", "70000"]) == 2


@pytest.mark.parametrize(
    ("spoken", "names"),
    [
        ("openai", ["openai_chat", "openai_responses"]),
        ("anthropic", ["anthropic_messages"]),
        ("bedrock", ["bedrock_converse"]),
        ("all", None),
    ],
)
def test_simulate_speaks_as_it_is_told(tmp_path, monkeypatch, capsys, spoken, names) -> None:
    calls = []
    monkeypatch.setattr(
        "kimiya.providers.simulated.server.serve", lambda *args, **kw: calls.append((args, kw))
    )
    file = tmp_path / "s.sim"
    file.write_text("reply\n  text: hi\n")
    assert main(["simulate", str(file), "--as", spoken, "--port", "9", "--seed", "3"]) == 0
    ((args, options),) = calls
    assert args == (str(file), "127.0.0.1", 9)
    assert options["seed"] == 3
    dialects = options["dialects"]
    assert (dialects and [dialect.name for dialect in dialects]) == names
    out = capsys.readouterr().out
    assert ("OPENAI_BASE_URL" in out) == (spoken in ("openai", "all"))
    assert ("ANTHROPIC_BASE_URL" in out) == (spoken in ("anthropic", "all"))
