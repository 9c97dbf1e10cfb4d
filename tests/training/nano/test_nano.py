"""Tasks, template, tokenizer, packing and judge: what one writes the next one reads."""

import dataclasses
import itertools
import json
import random

import pytest

torch = pytest.importorskip("torch")

from kimiya.errors import ConfigError, ContextOverflow  # noqa: E402
from kimiya.training.k2 import K2Config, K2Model  # noqa: E402
from kimiya.training.k2.export import save_model  # noqa: E402
from kimiya.training.nano.engine import NanoEngine  # noqa: E402
from kimiya.training.nano.evaluation import EVALUATIONS, evaluate, evaluation_scenes, judge  # noqa: E402
from kimiya.training.nano.packing import pack_scene, stack  # noqa: E402
from kimiya.training.nano.tasks import (  # noqa: E402
    NO_CALL_TEXT,
    TaskMix,
    draw_repetitions,
    draw_scene,
    draw_scenes,
)
from kimiya.training.nano.template import (  # noqa: E402
    MARKERS,
    MalformedReply,
    Piece,
    read_calls,
    render_answer,
    render_prompt,
    text_of,
)
from kimiya.training.nano.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from kimiya.training.nano.vocabulary import is_held_out_tool, is_held_out_value, tool_names  # noqa: E402

BEGIN, END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(merges=200)


def scenes_of(mix, count=60, seed=0):
    return list(itertools.islice(draw_scenes(seed, mix), count))


def values_of(scene):
    return [
        value
        for task in scene.tasks
        for call in task.calls
        for key, value in call.arguments.items()
        if key not in {"size", "color", "priority"}
    ]


def test_the_same_seed_gives_the_same_tasks_and_another_others():
    mix = TaskMix(tasks=3)
    assert scenes_of(mix) == scenes_of(mix)
    assert scenes_of(mix) != scenes_of(mix, seed=1)


def test_training_never_meets_a_held_out_tool_or_value():
    for scene in scenes_of(TaskMix(tasks=4), 300):
        assert not any(is_held_out_tool(t["function"]["name"]) for t in scene.tools)
        assert not any(is_held_out_value(str(value)) for value in values_of(scene))
    chance = random.Random(0)
    for _ in range(200):
        for task in draw_repetitions(chance, 2).tasks:
            assert not any(is_held_out_value(item) for item in task.text.split(", "))


def test_held_out_sets_hold_nothing_else():
    for name, mix in EVALUATIONS.items():
        for scene in evaluation_scenes(name, 100):
            declared = [t["function"]["name"] for t in scene.tools]
            assert all(is_held_out_tool(tool) == mix.held_out_tools for tool in declared)
            assert all(is_held_out_value(str(v)) == mix.held_out_values for v in values_of(scene))
            calls = scene.tasks[0].calls
            assert len(calls) == {"two_calls": 2, "no_call": 0}.get(name, 1)
            assert {call.name for call in calls} <= set(declared)


def test_held_out_tools_are_made_of_words_training_knows():
    seen = {word for name in tool_names(held_out=False) for word in name.split("_")}
    held_out = tool_names(held_out=True)
    assert len(held_out) >= 20
    assert {word for name in held_out for word in name.split("_")} <= seen


def test_a_right_answer_is_judged_right_and_each_wrong_one_wrong():
    for seed, name in enumerate(EVALUATIONS):
        for scene in evaluation_scenes(name, 40, seed=seed):
            reply = text_of(render_answer(scene.tasks[0])[:-1])
            assert judge(scene, reply).exact
            if scene.tasks[0].calls:
                assert not judge(scene, NO_CALL_TEXT).format
                broken = judge(scene, reply.removesuffix(END))
                assert (broken.format, broken.exact) == (False, False)
                other = reply.replace("functions.", "functions.un", 1)
                assert (judge(scene, other).format, judge(scene, other).schema) == (True, False)


def test_a_number_as_text_is_not_the_same_argument():
    scene = next(
        s
        for s in evaluation_scenes("held_out_values", 200)
        if any(isinstance(v, int) for v in s.tasks[0].calls[0].arguments.values())
    )
    call = scene.tasks[0].calls[0]
    text = dataclasses.replace(call, arguments={k: str(v) for k, v in call.arguments.items()})
    verdict = judge(
        scene, text_of(render_answer(dataclasses.replace(scene.tasks[0], calls=(text,)))[:-1])
    )
    assert (verdict.format, verdict.schema, verdict.exact) == (True, False, False)


@pytest.mark.parametrize(
    "reply",
    [
        BEGIN,
        BEGIN + END,
        END + BEGIN,
        f"{BEGIN}hello{END}",
        f"{BEGIN}<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{{}}{END}",
        f"{BEGIN}<|tool_call_begin|>functions.a:1<|tool_call_argument_begin|>{{}}<|tool_call_end|>{END}",
        f"{BEGIN}<|tool_call_begin|>a:0<|tool_call_argument_begin|>{{}}<|tool_call_end|>{END}",
        f"{BEGIN}<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>[]<|tool_call_end|>{END}",
        f"{BEGIN}<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{{<|tool_call_end|>{END}",
        f"{BEGIN}<|tool_call_begin|>functions.a:0<|tool_call_argument_begin|>{{}}<|tool_call_end|>{END}x",
        "<|im_user|>",
    ],
)
def test_replies_out_of_grammar_are_malformed(reply):
    with pytest.raises(MalformedReply):
        read_calls(reply)


def test_text_may_stand_before_a_section():
    text, calls = read_calls(
        f"So:{BEGIN}<|tool_call_begin|>functions.a-b.c:0"
        f'<|tool_call_argument_begin|>{{"x": 1}}<|tool_call_end|>{END}'
    )
    assert (text, calls[0].name, calls[0].arguments) == ("So:", "a-b.c", {"x": 1})


def test_the_prompt_is_kimis():
    tool = {"function": {"parameters": {}, "name": "t"}, "type": "function"}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Go"}]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "functions.t:0", "function": {"name": "t", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "functions.t:0", "content": "done"},
    ]
    assert text_of(render_prompt(messages, [tool])) == (
        '<|im_system|>tool_declare<|im_middle|>[{"type":"function","function":{"name":"t",'
        '"parameters":{}}}]<|im_end|>'
        "<|im_system|>system<|im_middle|>"
        "You are Kimi, an AI assistant created by Moonshot AI.<|im_end|>"
        "<|im_user|>user<|im_middle|>Go<|im_end|>"
        f"<|im_assistant|>assistant<|im_middle|>{BEGIN}<|tool_call_begin|>functions.t:0"
        f"<|tool_call_argument_begin|>{{}}<|tool_call_end|>{END}<|im_end|>"
        "<|im_system|>tool<|im_middle|>## Return of functions.t:0\ndone<|im_end|>"
        "<|im_assistant|>assistant<|im_middle|>"
    )


def test_a_longer_conversation_extends_the_shorter_ones_prompt():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    shorter = text_of(render_prompt(messages[:1]))
    longer = text_of(render_prompt([*messages, {"role": "user", "content": "c"}]))
    assert longer.startswith(shorter)


@pytest.mark.parametrize(
    "message",
    [{"role": "wizard", "content": "x"}, {"content": "x"}, {"role": "user", "content": 7},
     {"role": "user", "content": [{"type": "image_url"}]}],
)  # fmt: skip
def test_a_chat_that_cannot_be_rendered_is_named(message):
    with pytest.raises(ConfigError, match=r"messages\[0\]"):
        render_prompt([message])


@pytest.mark.parametrize(
    "text",
    ["", " ", "Bramer", "čeština 漢字 🙂", "a" * 500, "\x00\xff\n\t", *MARKERS, '{"x": [1, {}]}'],
)
def test_any_text_survives_and_none_of_it_becomes_a_marker(tokenizer, text):
    ids = tokenizer.encode([Piece(text)])
    assert tokenizer.decode(ids) == text
    assert not set(ids) & {tokenizer.id_of(marker) for marker in MARKERS}


def test_prompts_survive_the_tokenizer_and_its_file(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "t.json")
    again = Tokenizer.load(tmp_path / "t.json")
    for scene in scenes_of(TaskMix(), 50):
        pieces = render_prompt([{"role": "user", "content": scene.tasks[0].request}], scene.tools)
        assert tokenizer.decode(tokenizer.encode(pieces)) == text_of(pieces)
        assert again.encode(pieces) == tokenizer.encode(pieces)
    (tmp_path / "t.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"t\.json"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_value_is_split_the_same_way_in_request_and_answer(tokenizer):
    for scene in scenes_of(TaskMix(no_call=0, two_calls=0), 100):
        task = scene.tasks[0]
        asked = tokenizer.encode([Piece(task.request)])
        for value in task.calls[0].arguments.values():
            ids = tokenizer.encode([Piece(str(value))])
            spans = (asked[i : i + len(ids)] for i in range(len(asked)))
            assert ids in spans, (task.request, value)


def test_packing_loses_no_answer_and_learns_nothing_else(tokenizer):
    for scene in scenes_of(TaskMix(tasks=3), 20):
        row = pack_scene(tokenizer, scene)
        assert len(row.tokens) == len(row.positions) == len(row.targets) == len(row.opens)
        for branch, task in enumerate(scene.tasks, start=1):
            at = [i for i, segment in enumerate(row.segments) if segment in (0, branch)]
            assert [row.positions[i] for i in at] == list(range(len(at)))
            prompt = tokenizer.encode(
                render_prompt([{"role": "user", "content": task.request}], scene.tools)
            )
            answer = tokenizer.encode(render_answer(task))
            assert [row.tokens[i] for i in at] == [*prompt, *answer[:-1]]
            assert [row.targets[i] for i in at if row.targets[i] >= 0] == answer
            assert sum(row.opens[i] for i in at) == 1
            assert row.opens[at[len(prompt) - 1]]


def test_a_packed_batch_gives_the_losses_of_single_sequences(tokenizer):
    torch.manual_seed(0)
    model = tiny(tokenizer).eval()
    scenes = [draw_scene(random.Random(seed), TaskMix(tasks=3)) for seed in range(2)]
    batch = stack([pack_scene(tokenizer, scene) for scene in scenes])
    with torch.no_grad():
        logits = model(
            batch.tokens_BT,
            positions_BT=batch.positions_BT,
            segments_BT=batch.segments_BT,
            keep_BT=batch.learnt_BT,
        )
        packed = torch.nn.functional.cross_entropy(logits, batch.targets_N, reduction="none")
        single = []
        for scene, task in ((s, t) for s in scenes for t in s.tasks):
            prompt = tokenizer.encode(
                render_prompt([{"role": "user", "content": task.request}], scene.tools)
            )
            answer = tokenizer.encode(render_answer(task))
            out = model(torch.tensor([[*prompt, *answer[:-1]]]))[0, len(prompt) - 1 :]
            single.append(
                torch.nn.functional.cross_entropy(out, torch.tensor(answer), reduction="none")
            )
    torch.testing.assert_close(packed, torch.cat(single), atol=1e-4, rtol=1e-4)
    assert batch.opens_N.sum() == 6


@pytest.mark.parametrize(
    "change",
    [{"no_call": 0.9, "two_calls": 0.2}, {"tools": (0, 2)}, {"tools": (3, 2)}, {"tasks": 0}],
)
def test_a_mix_that_cannot_be_is_refused(change):
    with pytest.raises(ConfigError, match="data"):
        TaskMix(**change)


def tiny(tokenizer, context=256):
    return K2Model(
        K2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=32,
            moe_intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            q_lora_rank=16,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=8,
            v_head_dim=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            max_position_embeddings=context,
            initializer_range=0.3,
        )
    )


@pytest.fixture
def engine(tokenizer, tmp_path):
    torch.manual_seed(3)
    save_model(tiny(tokenizer), tmp_path, int4=True)
    tokenizer.save(tmp_path / "tokenizer.json")
    return NanoEngine.load(tmp_path)


def test_the_engine_streams_what_evaluation_sees(engine):
    scenes = evaluation_scenes("held_out_values", 3)
    _, replies = evaluate(engine.model, engine.tokenizer, scenes)
    for scene, reply in zip(scenes, replies, strict=True):
        answer = engine.chat(
            [{"role": "user", "content": scene.tasks[0].request}], scene.tools, max_tokens=96
        )
        assert "".join(answer) == reply
        assert answer.finish_reason in {"stop", "length"}
        assert answer.prompt_tokens > 20


def test_the_engine_counts_ends_and_can_be_stopped(engine):
    messages = [{"role": "user", "content": "Hello 🙂"}]
    answer = engine.chat(messages, max_tokens=5, temperature=2.0, seed=1)
    assert answer.finish_reason is None
    text = "".join(answer)
    assert (answer.completion_tokens, answer.finish_reason) == (5, "length")
    assert "".join(engine.chat(messages, max_tokens=5, temperature=2.0, seed=1)) == text
    left = engine.chat(messages, max_tokens=50, temperature=2.0, seed=1)
    pieces = iter(left)
    next(pieces)
    pieces.close()
    assert left.finish_reason == "cancelled"


def test_what_the_engine_cannot_do_is_named(engine, tokenizer):
    with pytest.raises(ConfigError, match="max_tokens 0"):
        engine.chat([], max_tokens=0)
    with pytest.raises(ContextOverflow, match="256"):
        engine.chat([{"role": "user", "content": "x. " * 300}])
    with pytest.raises(ConfigError, match="together"):
        NanoEngine(engine.model, train_tokenizer(merges=250))


def test_cancellation_is_asked_for_before_each_token(engine):
    asked = []

    def is_cancelled():
        asked.append(None)
        return len(asked) > 3

    answer = engine.chat([{"role": "user", "content": "x"}], is_cancelled=is_cancelled)
    "".join(answer)
    assert (answer.completion_tokens, answer.finish_reason) == (3, "cancelled")


def test_declarations_are_what_a_chat_request_holds():
    for scene in scenes_of(TaskMix(), 30):
        for tool in scene.tools:
            assert json.loads(json.dumps(tool)) == tool
            parameters = tool["function"]["parameters"]
            assert set(parameters["required"]) <= set(parameters["properties"])
