"""What ``adapt`` makes of a request, case by case: card, dialect, request; result and notes."""

# ruff: noqa: E501 (a case is one line, or its table cannot be read)

import pytest
from msgspec.structs import replace

from kimiya.catalog.adapt import adapt
from kimiya.catalog.card import ModelCard
from kimiya.catalog.catalog import Catalog, unknown_card
from kimiya.core.exchange import (
    AutoChoice,
    NamedChoice,
    NoChoice,
    Request,
    RequiredChoice,
    ResponseFormat,
    Sampling,
    Thinking,
    ToolSpec,
)
from kimiya.core.messages import (
    Breakpoint,
    Image,
    Inline,
    Message,
    Opaque,
    Reasoning,
    Text,
    ToolCall,
    ToolResult,
    Url,
    Video,
    system,
    user,
)
from kimiya.errors import InvalidRequest

CHAT, MESSAGES, CONVERSE = "openai_chat", "anthropic_messages", "bedrock_converse"
_CATALOG = Catalog.load()


def card_of(host: str, model_id: str) -> ModelCard:
    card = _CATALOG.find(host, model_id)
    assert card is not None
    return card


K26 = card_of("moonshot", "kimi-k2.6")
K25 = card_of("moonshot", "kimi-k2.5")
K27 = card_of("moonshot", "kimi-k2.7-code")
K3 = card_of("moonshot", "kimi-k3")
VLLM = card_of("vllm", "moonshotai/Kimi-K2.5")
BEDROCK = card_of("bedrock", "moonshotai.kimi-k2.5")
K2 = card_of("vllm", "moonshotai/Kimi-K2-Instruct-0905")
HAIKU = card_of("anthropic", "claude-haiku-4-5")
OPUS46 = card_of("anthropic", "claude-opus-4-6")
OPUS47 = card_of("anthropic", "claude-opus-4-7")
SONNET5 = card_of("anthropic", "claude-sonnet-5")
OPUS55 = card_of("anthropic", "claude-opus-5-5")
LOCAL = card_of("local", "smollm2-135m-instruct")
BOX = unknown_card("box", "m", CHAT)

PICTURE = Image(Inline("image/png", "aGk="))
TOOL = ToolSpec("read", parameters={"type": "object"})


def ask(*messages: Message, dialect: str = "", **fields) -> Request:
    return Request(model="m", messages=messages or (user("hi"),), dialect=dialect, **fields)


def codes(adapted) -> list[str]:
    return [adjustment.code for adjustment in adapted.adjustments]


# --- nothing to do ---------------------------------------------------------------------------


@pytest.mark.parametrize("card", [K3, K25, K27, K2, VLLM, OPUS55, SONNET5, BEDROCK, LOCAL, BOX])
def test_a_plain_request_comes_back_as_the_same_object(card: ModelCard) -> None:
    card = replace(card, fills_sampling=False)
    dialect = card.dialects[0]
    sampling = Sampling(max_output_tokens=1000)
    request = ask(
        system("be"),
        user("hi"),
        Message("assistant", (Text("yes"), ToolCall("functions.read:0", "read", "{}"))),
        Message("tool", (ToolResult("functions.read:0", (Text("text"),)),)),
        dialect=dialect,
        tools=(TOOL,),
        sampling=sampling,
    )
    if card.host == "anthropic":
        request = ask(user("hi"), dialect=dialect, tools=(TOOL,), sampling=sampling)
    adapted = adapt(request, card, dialect)
    assert adapted.request is request
    assert adapted.adjustments == ()


# --- thinking ----------------------------------------------------------------------------------


ON, OFF = Thinking(enabled=True), Thinking(enabled=False)
NONE = Thinking()
TEMPLATE_ON = {"chat_template_kwargs": {"thinking": True}}
TEMPLATE_OFF = {"chat_template_kwargs": {"thinking": False}}


@pytest.mark.parametrize(
    ("card", "dialect", "asked", "written", "extras", "noted"),
    [
        # the body switch, which its dialect writes
        (K26, CHAT, NONE, ON, {}, ["thinking_explicit"]),
        (K25, CHAT, NONE, NONE, {}, []),
        (K25, CHAT, ON, ON, {}, []),
        (K25, CHAT, OFF, OFF, {}, []),
        (K25, CHAT, Thinking(effort="none"), OFF, {}, []),
        (K25, CHAT, Thinking(effort="high"), ON, {}, ["effort_dropped"]),
        (K25, CHAT, Thinking(True, budget_tokens=5000), ON, {}, ["budget_dropped"]),
        (K25, CHAT, Thinking(True, adaptive=True), ON, {}, ["adaptive_dropped"]),
        # the chat template's argument
        (VLLM, CHAT, NONE, NONE, {}, []),
        (VLLM, CHAT, ON, NONE, TEMPLATE_ON, []),
        (VLLM, CHAT, OFF, NONE, TEMPLATE_OFF, []),
        (VLLM, CHAT, Thinking(effort="low"), NONE, TEMPLATE_ON, ["effort_dropped"]),
        # one mode only
        (K27, CHAT, OFF, NONE, {}, ["thinking_always_on"]),
        (K27, CHAT, ON, NONE, {}, []),
        (K27, CHAT, Thinking(effort="high"), NONE, {}, ["effort_dropped"]),
        (K2, CHAT, ON, NONE, {}, ["thinking_unavailable"]),
        (K2, CHAT, OFF, NONE, {}, []),
        # effort is the knob
        (K3, CHAT, Thinking(effort="high"), Thinking(effort="high"), {}, []),
        (K3, CHAT, Thinking(effort="medium"), Thinking(effort="high"), {}, ["effort_changed"]),
        (K3, CHAT, ON, NONE, {}, []),
        (K3, CHAT, OFF, NONE, {}, ["thinking_always_on"]),
        # Anthropic's own switch, by generation
        (HAIKU, MESSAGES, OFF, NONE, {}, []),
        (HAIKU, MESSAGES, ON, Thinking(True, budget_tokens=10_000), {}, []),
        (HAIKU, MESSAGES, Thinking(True, adaptive=True), Thinking(True, budget_tokens=10_000), {},
         ["thinking_switch"]),
        (OPUS46, MESSAGES, Thinking(True, budget_tokens=4000), Thinking(True, budget_tokens=4000),
         {}, []),
        (OPUS46, MESSAGES, ON, Thinking(True, adaptive=True), {}, ["thinking_switch"]),
        (OPUS47, MESSAGES, Thinking(True, budget_tokens=4000), Thinking(True, adaptive=True), {},
         ["budget_dropped"]),
        (OPUS47, MESSAGES, OFF, NONE, {}, []),
        (SONNET5, MESSAGES, OFF, OFF, {}, []),
        (OPUS55, MESSAGES, OFF, NONE, {}, ["thinking_always_on"]),
        # Kimi behind Anthropic Messages takes that dialect's switch
        (K25, MESSAGES, ON, Thinking(True, budget_tokens=10_000), {}, []),
        (K25, MESSAGES, OFF, OFF, {}, []),
    ],
)  # fmt: skip
def test_modes_are_said_in_the_hosts_own_form(card, dialect, asked, written, extras, noted) -> None:
    request = ask(thinking=asked, sampling=Sampling(max_output_tokens=20_000))
    adapted = adapt(request, replace(card, fills_sampling=False), dialect)
    assert adapted.request.thinking == written
    assert adapted.request.extras == extras
    assert codes(adapted) == noted
    if extras:
        assert adapted.request.dialect == dialect, "or the dialect would not write them"


def test_an_effort_alone_does_not_make_an_anthropic_client_think() -> None:
    request = ask(thinking=Thinking(effort="high"), dialect=MESSAGES,
                  sampling=Sampling(max_output_tokens=9000))  # fmt: skip
    assert adapt(request, OPUS47, MESSAGES).request is request
    from_chat = adapt(replace(request, dialect=CHAT), OPUS47, MESSAGES)
    assert from_chat.request.thinking == Thinking(True, effort="high", adaptive=True)


@pytest.mark.parametrize(
    "extras",
    [
        {"thinking": {"type": "disabled"}},
        {"chat_template_kwargs": {"thinking": False}},
        {"chat_template_kwargs": {"enable_thinking": False}},
        {"enable_thinking": False},
    ],
)
@pytest.mark.parametrize(
    ("card", "written", "left"), [(K25, OFF, {}), (VLLM, NONE, TEMPLATE_OFF), (HAIKU, NONE, {})]
)
def test_every_spelling_of_a_mode_is_understood(extras, card, written, left) -> None:
    request = ask(dialect=CHAT, extras=extras, sampling=Sampling(max_output_tokens=9000))
    adapted = adapt(request, replace(card, fills_sampling=False), card.dialects[0])
    assert adapted.request.thinking == written
    assert adapted.request.extras == left


def test_details_of_a_switch_stay_where_the_host_knows_them() -> None:
    request = ask(dialect=CHAT, thinking=ON, extras={"thinking": {"keep": "all"}})
    assert adapt(request, K25, CHAT).request is request


def test_a_budget_leaves_room_for_the_answer() -> None:
    thinking = Thinking(True, budget_tokens=9000)
    adapted = adapt(
        ask(thinking=thinking, sampling=Sampling(max_output_tokens=4000)), HAIKU, MESSAGES
    )
    assert adapted.request.thinking.budget_tokens == 3999
    assert codes(adapted) == ["budget_changed"]
    none = adapt(ask(thinking=thinking, sampling=Sampling(max_output_tokens=500)), HAIKU, MESSAGES)
    assert none.request.thinking == NONE
    assert "thinking_unavailable" in codes(none)


# --- forced tool choice --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "dialect", "choice", "thinking", "kept", "mode", "noted"),
    [
        (K25, CHAT, RequiredChoice(), NONE, RequiredChoice(), OFF, "thinking_off_for_tool_choice"),
        (K25, CHAT, NamedChoice("read"), Thinking(effort="high"), NamedChoice("read"), OFF,
         "thinking_off_for_tool_choice"),
        (K25, CHAT, RequiredChoice(), ON, AutoChoice(), ON, "tool_choice_auto"),
        (K25, CHAT, RequiredChoice(), OFF, RequiredChoice(), OFF, None),
        (K25, CHAT, NoChoice(), ON, NoChoice(), ON, None),
        (K27, CHAT, RequiredChoice(), NONE, AutoChoice(), NONE, "tool_choice_auto"),
        (K3, CHAT, NamedChoice("read"), NONE, RequiredChoice(), NONE, "tool_choice_required"),
        (K3, CHAT, RequiredChoice(), NONE, RequiredChoice(), NONE, None),
        (K2, CHAT, NamedChoice("read"), NONE, NamedChoice("read"), NONE, None),
        (HAIKU, MESSAGES, RequiredChoice(), NONE, RequiredChoice(), NONE, None),
        (SONNET5, MESSAGES, RequiredChoice(), NONE, RequiredChoice(), OFF,
         "thinking_off_for_tool_choice"),
        (OPUS55, MESSAGES, NamedChoice("read"), NONE, AutoChoice(), NONE, "tool_choice_auto"),
    ],
)  # fmt: skip
def test_a_forced_call_and_thinking(card, dialect, choice, thinking, kept, mode, noted) -> None:
    request = ask(
        tools=(TOOL,), tool_choice=choice, thinking=thinking,
        sampling=Sampling(max_output_tokens=9000),
    )  # fmt: skip
    adapted = adapt(request, replace(card, fills_sampling=False), dialect)
    assert adapted.request.tool_choice == kept
    assert adapted.request.thinking == mode
    found = [code for code in codes(adapted) if code != "effort_dropped"]
    assert found == ([noted] if noted else [])


def test_converse_cannot_forbid_calls() -> None:
    before = adapt(
        ask(tools=(TOOL,), tool_choice=NoChoice(), parallel_tool_calls=False), BEDROCK, CONVERSE
    )
    assert (before.request.tools, before.request.tool_choice) == ((), None)
    assert set(codes(before)) == {"tools_left_out", "parallel_calls_allowed"}
    call = Message("assistant", (ToolCall("a", "read", "{}"),))
    result = Message("tool", (ToolResult("a", (Text("x"),)),))
    after = adapt(
        ask(user("q"), call, result, tools=(TOOL,), tool_choice=NoChoice()), BEDROCK, CONVERSE
    )
    assert (after.request.tools, after.request.tool_choice) == ((TOOL,), AutoChoice())


# --- sampling --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "dialect", "given", "sent", "noted"),
    [
        (K25, CHAT, Sampling(temperature=0.3, top_p=0.9), Sampling(), ["temperature_fixed", "top_p_fixed"]),
        (K25, CHAT, Sampling(temperature=1.0, top_p=0.95, n=1), Sampling(), []),
        (K3, CHAT, Sampling(presence_penalty=0.5), Sampling(), ["presence_penalty_fixed"]),
        (K2, CHAT, Sampling(), Sampling(temperature=0.6, top_p=1.0), ["sampling_filled"]),
        (K2, CHAT, Sampling(temperature=0.0), Sampling(temperature=0.0, top_p=1.0), ["sampling_filled"]),
        (K2, CHAT, Sampling(temperature=0.1, top_p=0.2), Sampling(temperature=0.1, top_p=0.2), []),
        (VLLM, CHAT, Sampling(), Sampling(temperature=1.0, top_p=0.95), ["sampling_filled"]),
        (BEDROCK, CONVERSE, Sampling(temperature=1.7), Sampling(temperature=1.0), ["temperature_clamped"]),
        (BEDROCK, CONVERSE, Sampling(seed=3, n=1), Sampling(), ["seed_dropped"]),
        (HAIKU, MESSAGES, Sampling(temperature=1.5), Sampling(temperature=1.0), ["temperature_clamped"]),
        (HAIKU, MESSAGES, Sampling(temperature=0.5, top_p=0.5), Sampling(temperature=0.5), ["top_p_dropped"]),
        (OPUS55, MESSAGES, Sampling(temperature=0.2, top_k=5), Sampling(), ["temperature_fixed", "top_k_refused"]),
        (OPUS55, MESSAGES, Sampling(temperature=1.0), Sampling(), []),
        (BOX, CHAT, Sampling(temperature=1.9, top_k=3, seed=1), Sampling(temperature=1.9, top_k=3, seed=1), []),
    ],
)  # fmt: skip
def test_sampling(card, dialect, given, sent, noted) -> None:
    limit = 1000
    adapted = adapt(ask(sampling=replace(given, max_output_tokens=limit)), card, dialect)
    assert adapted.request.sampling == replace(sent, max_output_tokens=limit)
    assert codes(adapted) == noted


def test_thinking_changes_what_sampling_is_right() -> None:
    instant = adapt(ask(thinking=OFF), VLLM, CHAT).request.sampling
    thinking = adapt(ask(thinking=ON), VLLM, CHAT).request.sampling
    assert (instant.temperature, thinking.temperature) == (0.6, 1.0)
    pinned = adapt(
        ask(
            thinking=ON,
            sampling=Sampling(temperature=0.2, top_p=0.5, top_k=4, max_output_tokens=9000),
        ),
        OPUS46,
        MESSAGES,
    )
    assert pinned.request.sampling == Sampling(top_p=0.95, max_output_tokens=9000)


@pytest.mark.parametrize(
    ("wanted", "sent", "noted"),
    [(0.3, 0.5, "temperature_scaled"), (0.6, 1.0, "temperature_scaled"), (0.9, 1.0, "temperature_clamped")],
)  # fmt: skip
def test_a_temperature_means_the_same_where_the_host_scales_it(wanted, sent, noted) -> None:
    card = card_of("moonshot", "kimi-k2-0905-preview")
    request = ask(sampling=Sampling(temperature=wanted, max_output_tokens=10))
    adapted = adapt(request, card, MESSAGES)
    assert adapted.request.sampling.temperature == pytest.approx(sent)
    assert codes(adapted) == [noted]
    assert adapt(request, card, CHAT).request is request, "the other endpoint takes it as it is"


@pytest.mark.parametrize(
    ("card", "dialect", "given", "sent", "noted"),
    [
        (BEDROCK, CONVERSE, 64_000, 16_000, ["max_tokens_clamped"]),
        (BEDROCK, CONVERSE, None, None, []),
        (HAIKU, MESSAGES, None, 32_000, ["max_tokens_filled"]),
        (HAIKU, MESSAGES, 10, 10, []),
        (BOX, CHAT, 10**9, 10**9, []),
    ],
)
def test_the_output_limit(card, dialect, given, sent, noted) -> None:
    adapted = adapt(ask(sampling=Sampling(max_output_tokens=given)), card, dialect)
    assert adapted.request.sampling.max_output_tokens == sent
    assert codes(adapted) == noted


# --- what cannot be had --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("card", "dialect", "request_", "words"),
    [
        (K2, CHAT, ask(Message("user", (Text("see"), PICTURE))), ["images", "messages[0].parts[1]", "Kimi-K2"]),
        (K2, CHAT, ask(Message("tool", (ToolResult("a", (PICTURE,)),))), ["messages[0].parts[0].content[0]"]),
        (VLLM, CHAT, ask(Message("user", (Video(Url("ms://f")),))), ["video", "messages[0].parts[0]"]),
        (K26, CHAT, ask(tools=tuple(ToolSpec(f"t{n}") for n in range(129))), ["128", "129"]),
        (K26, CHAT, ask(Message("user", (Opaque(MESSAGES, {"type": "document"}),))), ["document", "messages[0].parts[0]"]),
        (K26, CHAT, ask(Message("tool", (ToolResult("a", (Opaque(MESSAGES, 3),)),))), ["content[0]"]),
        (replace(K26, has_tools=False), CHAT, ask(tools=(TOOL,)), ["cannot call tools"]),
        (BEDROCK, CONVERSE, ask(user("  "), Message("assistant", (Text("a"),))), ["empty"]),
    ],
)  # fmt: skip
def test_content_is_refused_rather_than_dropped(card, dialect, request_, words) -> None:
    with pytest.raises(InvalidRequest) as caught:
        adapt(request_, card, dialect)
    assert caught.value.status is None, "nothing was sent, so another route may be tried"
    for word in words:
        assert word in caught.value.message


def test_what_the_host_knows_passes() -> None:
    parts = (Opaque(MESSAGES, {"type": "document"}), PICTURE)
    request = ask(Message("user", parts), dialect=MESSAGES, sampling=Sampling(max_output_tokens=9))
    assert adapt(request, HAIKU, MESSAGES).request is request
    video = ask(Message("user", (Video(Url("ms://f")),)), dialect=CHAT)
    assert adapt(video, K3, CHAT).request is video


@pytest.mark.parametrize(
    ("offered", "dialect", "wanted", "sent", "noted"),
    [
        ("json_schema", CHAT, "json_schema", "json_schema", []),
        ("json_object", CHAT, "json_schema", "json_object", ["format_loosened"]),
        ("none", CHAT, "json_object", None, ["format_dropped"]),
        ("json_schema", MESSAGES, "json_object", None, ["format_dropped"]),
    ],
)
def test_reply_formats_are_lowered(offered, dialect, wanted, sent, noted) -> None:
    card = replace(K3, structured_outputs=offered)
    schema = {"type": "object"} if wanted == "json_schema" else None
    request = ask(
        response_format=ResponseFormat(wanted, schema), sampling=Sampling(max_output_tokens=9)
    )
    adapted = adapt(request, card, dialect)
    assert (adapted.request.response_format and adapted.request.response_format.kind) == sent
    assert codes(adapted) == noted


# --- what belongs elsewhere ------------------------------------------------------------------------


SEARCH = ToolSpec("$web_search", kind="builtin_function", extras={"type": "builtin_function"})


def test_a_hosts_own_tool_stays_at_that_host() -> None:
    request = ask(tools=(SEARCH, TOOL), dialect=CHAT, tool_choice=NamedChoice("$web_search"))
    assert adapt(request, K3, CHAT).request.tools == (SEARCH, TOOL)
    elsewhere = adapt(request, K2, CHAT)
    assert elsewhere.request.tools == (TOOL,)
    assert elsewhere.request.tool_choice == AutoChoice()
    assert codes(elsewhere)[:2] == ["tool_dropped", "tool_choice_auto"]
    assert elsewhere.adjustments[0].path == "tools[0]"


def test_no_tool_is_left_so_no_choice_is() -> None:
    request = ask(
        tools=(SEARCH,), dialect=CHAT, tool_choice=RequiredChoice(), parallel_tool_calls=True
    )
    adapted = adapt(request, K2, CHAT).request
    assert (adapted.tools, adapted.tool_choice, adapted.parallel_tool_calls) == ((), None, None)


def test_fields_of_another_dialect_are_named_and_dropped() -> None:
    request = ask(
        Message("user", (Text("a", extras={"citations": [1], "empty": None}),), extras={"x": 1}),
        Message("assistant", (Reasoning("r", extras={"label": 1}), Text("b"))),
        tools=(ToolSpec("t", extras={"eager": True}),),
        dialect=MESSAGES,
        extras={"context_management": {"edits": []}, "nothing": None},
    )
    adapted = adapt(request, K3, CHAT)
    (note,) = adapted.adjustments
    assert note.code == "extras_dropped"
    for name in (
        "context_management",
        "messages[0].parts[0].citations",
        "messages[0].x",
        "tools[0].eager",
    ):
        assert name in note.detail
    assert "nothing" not in note.detail
    assert adapted.request.extras == {}
    assert adapted.request.messages[0].extras == {}
    assert adapted.request.messages[1].reasoning == "r"


def test_a_flood_of_foreign_fields_gives_one_short_note() -> None:
    request = ask(dialect=MESSAGES, extras={f"field{n}": n for n in range(5000)})
    (note,) = adapt(request, K3, CHAT).adjustments
    assert len(note.detail) < 300
    assert "4992 more" in note.detail


def test_a_name_has_no_place_in_anthropic_messages() -> None:
    request = ask(Message("user", (Text("a"),), name="ann"), sampling=Sampling(max_output_tokens=9))
    adapted = adapt(request, HAIKU, MESSAGES)
    assert adapted.request.messages[0].name is None
    assert codes(adapted) == ["name_dropped"]


@pytest.mark.parametrize(
    ("card", "dialect", "metadata", "user_", "kept", "kept_user"),
    [
        (BEDROCK, CONVERSE, {"team": "a b"}, "u1", {"team": "a b"}, "u1"),
        (BEDROCK, CONVERSE, {"team": "a{b}", "n": 3}, '{"id": 1}', {}, None),
        (HAIKU, MESSAGES, {"team": "a"}, "u1", {}, "u1"),
        (K3, CHAT, {"team": "a{b}"}, "u1", {"team": "a{b}"}, "u1"),
    ],
)
def test_labels_a_host_would_refuse_stay_behind(
    card, dialect, metadata, user_, kept, kept_user
) -> None:
    request = ask(metadata=metadata, user=user_, sampling=Sampling(max_output_tokens=9))
    adapted = adapt(request, card, dialect)
    assert (adapted.request.metadata, adapted.request.user) == (kept, kept_user)
    assert ("metadata_dropped" in codes(adapted)) == (kept != metadata or kept_user != user_)


def test_an_image_hint_has_no_place_in_converse() -> None:
    picture = replace(PICTURE, detail="high")
    request = ask(Message("user", (picture,)))
    adapted = adapt(request, BEDROCK, CONVERSE)
    assert adapted.request.messages[0].parts == (PICTURE,)
    assert codes(adapted) == ["image_detail_dropped"]


# --- the history -----------------------------------------------------------------------------------


def test_late_instructions_become_the_users_words() -> None:
    request = ask(
        system("first"),
        user("q"),
        system("late"),
        user("r"),
        sampling=Sampling(max_output_tokens=9),
    )
    adapted = adapt(request, HAIKU, MESSAGES)
    assert [m.role for m in adapted.request.messages] == ["system", "user", "user", "user"]
    assert [m.text for m in adapted.request.messages] == ["first", "q", "late", "r"]
    assert [(a.code, a.path) for a in adapted.adjustments] == [("system_to_user", "messages[2]")]
    converse = adapt(request, BEDROCK, CONVERSE)
    assert [m.role for m in converse.request.messages] == ["system", "user"]
    assert converse.request.messages[1].text == "qlater"
    assert codes(converse) == ["system_to_user", "messages_merged"]
    assert adapt(request, K3, CHAT).request.messages == request.messages


def test_developer_is_system_to_kimi() -> None:
    request = ask(Message("developer", (Text("d"),)), user("q"))
    adapted = adapt(request, K3, CHAT)
    assert adapted.request.messages[0].role == "system"
    assert codes(adapted) == ["developer_to_system"]
    assert adapt(request, BOX, CHAT).request is request


@pytest.mark.parametrize(
    ("card", "dialect", "part", "kept"),
    [
        (BEDROCK, CONVERSE, Reasoning("r"), None),
        (HAIKU, MESSAGES, Reasoning("r"), None),
        (HAIKU, MESSAGES, Reasoning("r", signature="s"), Reasoning("r", signature="s")),
        (HAIKU, MESSAGES, Reasoning(redacted="x"), Reasoning(redacted="x")),
        (K3, CHAT, Reasoning("r"), Reasoning("r")),
        (K3, CHAT, Reasoning("r", signature="s"), Reasoning("r")),
        (K3, CHAT, Reasoning(redacted="x"), None),
        (replace(BOX, reasoning_field=None), CHAT, Reasoning("r"), None),
        (replace(BOX, reasoning_field="reasoning_details"), CHAT, Reasoning(redacted="x"), Reasoning(redacted="x")),
    ],
)  # fmt: skip
def test_reasoning_goes_back_only_where_it_is_taken(card, dialect, part, kept) -> None:
    request = ask(
        user("q"), Message("assistant", (part, Text("a"))), user("r"),
        sampling=Sampling(max_output_tokens=9),
    )  # fmt: skip
    adapted = adapt(request, card, dialect)
    expected = (Text("a"),) if kept is None else (kept, Text("a"))
    assert adapted.request.messages[1].parts == expected
    assert codes(adapted) == ([] if kept == part else ["reasoning_dropped"])


def test_empty_content_is_left_out_where_it_is_refused() -> None:
    request = ask(
        user("q"),
        Message("assistant", ()),
        user(" \n"),
        Message("assistant", (Text(""), ToolCall("a", "read", "{}"))),
        Message("tool", (ToolResult("a", ()), ToolResult("b", (Text(""),)))),
    )
    adapted = adapt(request, BEDROCK, CONVERSE)
    assert [m.role for m in adapted.request.messages] == ["user", "assistant", "tool"]
    assert adapted.request.messages[1].parts == (ToolCall("a", "read", "{}"),)
    assert all(result.content for result in adapted.request.messages[2].tool_results)
    assert codes(adapted)[:2] == ["empty_message_dropped", "empty_message_dropped"]
    assert adapt(request, BOX, CHAT).request is request


def test_media_leaves_a_result_where_the_host_wants_it_elsewhere() -> None:
    call = Message("assistant", (ToolCall("a", "look", "{}"),))
    result = Message("tool", (ToolResult("a", (Text("seen"), PICTURE)),))
    adapted = adapt(ask(user("q"), call, result, user("go on")), BEDROCK, CONVERSE)
    assert adapted.request.messages[2].tool_results[0].content == (Text("seen"),)
    follow = adapted.request.messages[3]
    assert PICTURE in follow.parts
    assert "go on" in follow.text
    assert codes(adapted) == ["media_moved", "messages_merged"]


# --- marks and ids ---------------------------------------------------------------------------------


MARKED = ask(
    Message("user", (Text("long", cache=Breakpoint("1h")),)),
    tools=(replace(TOOL, cache=Breakpoint()),),
    sampling=Sampling(max_output_tokens=9),
    dialect=MESSAGES,
)


def test_marks_stay_where_the_host_takes_them() -> None:
    assert adapt(MARKED, HAIKU, MESSAGES).request is MARKED
    short = replace(HAIKU, cache=replace(HAIKU.cache, ttls=("5m",)))
    adapted = adapt(MARKED, short, MESSAGES)
    assert adapted.request.messages[0].parts[0].cache == Breakpoint()
    assert codes(adapted) == ["cache_ttl_dropped"]


@pytest.mark.parametrize(("card", "dialect"), [(K3, CHAT), (BEDROCK, CONVERSE), (LOCAL, None)])
def test_marks_are_removed_elsewhere(card: ModelCard, dialect: str | None) -> None:
    adapted = adapt(MARKED, card, dialect)
    assert adapted.request.messages[0].parts[0].cache is None
    assert adapted.request.tools[0].cache is None
    note = next(a for a in adapted.adjustments if a.code == "cache_marks_removed")
    assert note.detail.startswith("2 mark(s)")


def test_a_mark_inside_a_result_moves_to_its_end_in_converse() -> None:
    card = card_of("bedrock", "global.anthropic.claude-sonnet-5")
    result = ToolResult("a", (Text("x", cache=Breakpoint()),))
    request = ask(
        user("q"), Message("assistant", (ToolCall("a", "t", "{}"),)), Message("tool", (result,))
    )
    adapted = adapt(request, card, CONVERSE)
    (moved,) = adapted.request.messages[2].tool_results
    assert (moved.cache, moved.content) == (Breakpoint(), (Text("x"),))
    assert codes(adapted) == ["cache_marks_moved"]


def conversation(*ids: str) -> Request:
    turns: list[Message] = [user("q")]
    for call_id in ids:
        turns.append(Message("assistant", (ToolCall(call_id, "t", "{}"),)))
        turns.append(Message("tool", (ToolResult(call_id, (Text("r"),)),)))
    return ask(*turns, sampling=Sampling(max_output_tokens=9))


def test_ids_a_host_refuses_are_rewritten_alike_and_can_be_led_back() -> None:
    ids = ("functions.read:0", "toolu_1", "bad id", "bad/id", "x" * 200, "")
    adapted = adapt(conversation(*ids), HAIKU, MESSAGES)
    sent_calls = [c.call_id for m in adapted.request.messages for c in m.tool_calls]
    sent_results = [r.call_id for m in adapted.request.messages for r in m.tool_results]
    assert sent_calls == sent_results
    assert len(set(sent_calls)) == len(ids)
    assert sent_calls[1] == "toolu_1"
    assert [adapted.call_ids.get(sent, sent) for sent in sent_calls] == list(ids)
    assert codes(adapted) == ["call_ids_rewritten"]


def test_a_conversation_that_goes_on_keeps_its_prefix() -> None:
    first = adapt(conversation("functions.a:0"), HAIKU, MESSAGES).request.messages
    longer = adapt(conversation("functions.a:0", "functions.b:1"), HAIKU, MESSAGES).request.messages
    assert longer[: len(first)] == first


def test_kimis_own_ids_fit_bedrock() -> None:
    request = conversation("functions.get_temperature:0")
    assert adapt(request, BEDROCK, CONVERSE).request is request
