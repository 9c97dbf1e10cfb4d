"""``kimiya chat`` against the scripted host: one question, a conversation, and what goes wrong."""

# ruff: noqa: E501 (a case is one line, or its table cannot be read)

import asyncio
import io
import json
import signal

import pytest
from rich.console import Console

from kimiya.assembly import assemble
from kimiya.cli.conversation import Conversation
from kimiya.cli.main import main
from kimiya.cli.rendering import PlainScreen, TerminalScreen, harmless, screen_for
from kimiya.config import effective_config, load_config
from kimiya.errors import KimiyaError
from kimiya.pipeline import Report

SCRIPT = """\
reply when user contains "color"
  reasoning: red is simple
  text: The **color** is red.

reply when user contains "break"
  error: 400 invalid_request "no such thing"

reply
  text: You said {user}
"""


@pytest.fixture(autouse=True)
def _configured(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "s.sim").write_text(SCRIPT)
    (tmp_path / "kimiya.toml").write_text(
        f"[providers.sim]\nkind = 'simulated'\nscript = '{tmp_path / 's.sim'}'\n"
        "[routes.red]\ntargets = ['sim:m']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KIMIYA_CONFIG", raising=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def type_in(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    waiting = iter(lines)

    def read(prompt: str = "") -> str:
        try:
            return next(waiting)
        except StopIteration:
            raise EOFError from None

    monkeypatch.setattr("sys.stdin", Terminal())
    monkeypatch.setattr("builtins.input", read)


@pytest.mark.parametrize(
    "words", [[], ["--no-stream"], ["--model", "sim:x"], ["--mode", "instant"]]
)
def test_one_question_one_answer(words, capsys) -> None:
    assert main(["chat", "-p", "what color?", *words]) == 0
    out = capsys.readouterr()
    assert out.out == "The **color** is red.\n"
    assert out.err == ""


def test_reasoning_is_shown_apart_when_asked_for(capsys) -> None:
    assert main(["chat", "-p", "what color?", "--reasoning"]) == 0
    out = capsys.readouterr()
    assert (out.out, out.err) == ("The **color** is red.\n", "red is simple\n")


@pytest.mark.parametrize("words", [["-"], ["-p", "-"], []])
def test_a_question_comes_through_a_pipe(words, capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("what color?\n"))
    assert main(["chat", *words]) == 0
    assert capsys.readouterr().out == "The **color** is red.\n"


def test_json_says_all_there_is(capsys) -> None:
    assert main(["chat", "-p", "what color?", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "The **color** is red."
    assert answer["reasoning"] == "red is simple"
    assert answer["target"] == "sim:m"
    assert answer["verdict"]["outcome"] == "ok"
    assert answer["cost_usd"] is None


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["-p", "break"], 1, "InvalidRequest"),
        (["-p", "x", "--model", "nobody"], 2, "no model is called 'nobody'"),
        (["-p", ""], 2, "empty"),
    ],
)
def test_what_goes_wrong_ends_a_single_question(words, code, said, capsys) -> None:
    assert main(["chat", *words]) == code
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1


def test_a_conversation_remembers_goes_on_after_errors_and_ends(capsys, monkeypatch) -> None:
    type_in(
        monkeypatch, "hello", "/nonsense", "/mode thinking", "/mode auto", "break", "what color?",
        "/model nobody", "hi", "/model red", "/system be brief", "/clear", "/help", "", "last",
    )  # fmt: skip
    assert main(["chat"]) == 0
    out = capsys.readouterr()
    assert out.out.count("You said hello") == 1
    assert "The **color** is red." in out.out
    assert "You said last" in out.out
    for words in (
        "'/nonsense' is no command",
        "InvalidRequest",
        "no model is called 'nobody'",
        "forgotten",
    ):
        assert words in out.err


@pytest.mark.parametrize("leave", ["/exit", "/quit"])
def test_a_conversation_is_left_by_a_word(leave, capsys, monkeypatch) -> None:
    type_in(monkeypatch, leave, "never asked")
    assert main(["chat"]) == 0
    assert "never" not in capsys.readouterr().out


def test_json_needs_a_question(capsys, monkeypatch) -> None:
    type_in(monkeypatch)
    assert main(["chat", "--json"]) == 2
    assert "-p TEXT" in capsys.readouterr().err


# --- screens ---------------------------------------------------------------------------------------


def test_a_terminal_gets_markdown_and_no_foreign_control_characters() -> None:
    out, err = Terminal(), Terminal()
    screen = TerminalScreen(Console(file=out, width=80, height=10, force_terminal=True), err)
    screen.begin()
    for piece in ("# Title\n\n", "some **bold** \x1b]0;owned\x07 text\n", "\n- item\n" * 30):
        screen.text(piece)
    screen.end()
    shown = out.getvalue()
    assert "Title" in shown
    assert "**bold**" not in shown.rsplit("Title", 1)[1]
    assert "\x1b]0;owned" not in shown
    assert "␛]0;owned" in shown


def test_a_stopped_reply_leaves_the_screen_usable() -> None:
    out = Terminal()
    screen = TerminalScreen(Console(file=out, width=80, force_terminal=True), out)
    screen.begin()
    screen.reasoning("hm")
    screen.end()
    screen.begin()
    screen.text("half a rep")
    screen.end()
    assert "half a rep" in out.getvalue()


def test_a_pipe_gets_the_bytes_as_they_are() -> None:
    out, err = io.StringIO(), io.StringIO()
    screen = screen_for(out, err)
    assert isinstance(screen, PlainScreen)
    screen.begin()
    screen.text("a\x1b[1mb")
    screen.text("")
    screen.end()
    screen.report(Report(model="m", target="p:m"))
    assert (out.getvalue(), err.getvalue()) == ("a\x1b[1mb\n", "")


def test_control_characters_become_pictures() -> None:
    assert harmless("a\tb\nc\x00\x7f\x9b") == "a\tb\nc␀��"


def test_ctrl_c_stops_the_reply_not_the_conversation(tmp_path, capsys, monkeypatch) -> None:
    (tmp_path / "s.sim").write_text(
        'reply when user contains "long"\n  text: half of it\n  stall: forever\n  text: never seen\n\n'
        "reply\n  text: You said {user}\n"
    )
    said = PlainScreen.text

    def text_then_ctrl_c(screen: PlainScreen, piece: str) -> None:
        said(screen, piece)
        if "it" in piece:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(PlainScreen, "text", text_then_ctrl_c)
    type_in(monkeypatch, "a long one", "another")
    assert main(["chat"]) == 0
    out = capsys.readouterr()
    assert "half of it" in out.out
    assert "never seen" not in out.out
    assert "You said another" in out.out
    assert "stopped" in out.err


@pytest.mark.parametrize(("reply", "kept"), [("  text: half\n  cut\n", True), ("  cut\n", False)])
def test_what_was_seen_of_a_cut_reply_stays_in_the_history(tmp_path, reply, kept) -> None:
    (tmp_path / "s.sim").write_text(f"reply\n{reply}")
    app = assemble(effective_config(load_config(tmp_path / "kimiya.toml")))
    conversation = Conversation(app.pipeline, model="red", system="be")
    screen = PlainScreen(io.StringIO(), io.StringIO())

    async def ask() -> None:
        try:
            await conversation.ask("q", screen)
        finally:
            await app.aclose()

    with pytest.raises(KimiyaError):
        asyncio.run(ask())
    roles = [message.role for message in conversation.messages]
    assert roles == (["system", "user", "assistant"] if kept else ["system"])
