"""Reasoning that waits for its call: whose it is, and when it is found again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kimiya.core.messages import (
    Image,
    Inline,
    Message,
    Part,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Url,
    system,
    user,
)
from kimiya.taming.custody import ReasoningShelf, Trail


def call(name: str = "read", arguments: str = '{"path":"a"}', call_id: str = "x") -> ToolCall:
    return ToolCall(call_id, name, arguments)


def said(*parts: Part) -> Message:
    return Message("assistant", parts)


def got(text: str, call_id: str = "x") -> Message:
    return Message("tool", (ToolResult(call_id, (Text(text),)),))


def key_after(*messages: Message, position: int = 0) -> str:
    """The key of the same next call after these messages."""
    trail = Trail()
    for message in messages:
        trail.take(message)
    return trail.key(position, "write", '{"n": 1}')


BASE = (user("Do it"), said(Reasoning("Hm."), Text("I read."), call()), got("of a"))


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((system("Be brief. It is Monday."), *BASE), id="system"),
        pytest.param((BASE[0], said(Text("I read."), call()), BASE[2]), id="reasoning dropped"),
        pytest.param(
            (BASE[0], said(Text("I read."), call(call_id="y")), got("of a", "y")), id="other ids"
        ),
        pytest.param(
            (BASE[0], said(Text("I read.")), said(call()), BASE[2]), id="a turn in two messages"
        ),
        pytest.param(
            (BASE[0], said(call(), Text(" I read.\n")), BASE[2]), id="white space and order"
        ),
        pytest.param(
            (BASE[0], said(Text("I read."), call(arguments='{ "path" : "\\u0061" }')), BASE[2]),
            id="JSON spelt otherwise",
        ),
        pytest.param((*BASE[:2], got("of a"), said()), id="the turn itself has begun"),
        pytest.param((*BASE, said(Text("Now I write."))), id="the turn's own text"),
    ],
)
def test_what_clients_rewrite_does_not_change_the_key(other: tuple[Message, ...]) -> None:
    assert key_after(*other) == key_after(*BASE)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param((user("Do that"), *BASE[1:]), id="user text"),
        pytest.param((BASE[0], said(Text("I do."), call()), BASE[2]), id="assistant text"),
        pytest.param((BASE[0], said(Text("I read."), call("list")), BASE[2]), id="name"),
        pytest.param(
            (BASE[0], said(Text("I read."), call(arguments='{"path":"b"}')), BASE[2]),
            id="arguments",
        ),
        pytest.param((*BASE[:2], got("of b")), id="result"),
        pytest.param((*BASE, user("And?")), id="another message"),
        pytest.param((said(Text("Do it")), *BASE[1:]), id="role"),
        pytest.param((*BASE, said(call("write", '{"n": 1}'))), id="a call before it"),
        pytest.param(
            (Message("user", (Text("Do it"), Image(Url("https://a/b.png")))), *BASE[1:]),
            id="a picture",
        ),
    ],
)
def test_another_conversation_has_another_key(other: tuple[Message, ...]) -> None:
    trail = Trail()
    first = 0
    for message in other:
        first = trail.take(message) + len(message.tool_calls)
    is_same_turn = other[-1].role == "assistant"
    assert key_after(*other, position=first if is_same_turn else 0) != key_after(*BASE)


def test_pictures_are_told_apart_by_their_data() -> None:
    keys = {
        key_after(Message("user", (Image(Inline("image/png", data)),)))
        for data in ("A" * 5000, "A" * 4999, "B" + "A" * 4999, "A" * 4999 + "B")
    }
    assert len(keys) == 4


def test_no_arguments_and_an_empty_object_are_the_same_call() -> None:
    trail = Trail()
    assert trail.key(0, "list", "") == trail.key(0, "list", "{}")


def test_fields_do_not_run_into_each_other() -> None:
    assert key_after(user("a"), user("b")) != key_after(user("ausertextb"))
    assert key_after(user("a"), user("b")) != key_after(user('a"]["user", "text", "b'))


@given(st.text(), st.text(), st.text())
def test_nothing_a_conversation_holds_breaks_it(text: str, name: str, arguments: str) -> None:
    trail = Trail()
    trail.take(user(text + "\ud800"))
    trail.take(said(Text(text), ToolCall("\udfff", name, arguments)))
    trail.take(Message("tool", (ToolResult("", (Text(text),)),)))
    assert len(trail.key(0, name, arguments)) == 32


def test_a_tenant_sees_its_own_part_only() -> None:
    shelf = ReasoningShelf()
    for tenant in ("ann", "bob", None, ""):
        shelf.of(tenant).put("k", f"of {tenant!r}")
    for tenant in ("ann", "bob", None, ""):
        assert shelf.of(tenant).get("k") == f"of {tenant!r}"
    assert shelf.of("cid").get("k") is None


def test_the_shelf_is_bounded_for_all_tenants_together() -> None:
    shelf = ReasoningShelf(max_entries=100, max_chars=50)
    for tenant in ("ann", "bob"):
        for n in range(10):
            shelf.of(tenant).put(str(n), "12345")
    kept = [t for t in ("ann", "bob") for n in range(10) if shelf.of(t).get(str(n))]
    assert kept == ["bob"] * 10
