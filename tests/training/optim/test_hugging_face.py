# ruff: noqa: E402 - torch must be found before what needs it is imported
"""transformers' models, clipped with no change to their code."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kimiya.errors import ConfigError
from kimiya.training import MuonClip, QKClip, hugging_face_qk_clip
from kimiya.training.hugging_face import ATTENTION_NAME

SHARED = {"vocab_size": 32, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 1.0, "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 16}  # fmt: skip


def deepseek(**extra):
    config = transformers.DeepseekV3Config(
        **SHARED, num_key_value_heads=4, intermediate_size=48, moe_intermediate_size=16,
        n_routed_experts=4, num_experts_per_tok=2, n_group=1, topk_group=1, kv_lora_rank=16,
        q_lora_rank=16, qk_nope_head_dim=8, qk_rope_head_dim=4, v_head_dim=6,
        first_k_dense_replace=1, max_position_embeddings=64, **extra,
    )  # fmt: skip
    return transformers.DeepseekV3ForCausalLM(config)


def llama(key_heads):
    config = transformers.LlamaConfig(
        **SHARED, num_key_value_heads=key_heads, intermediate_size=48, max_position_embeddings=64
    )
    return transformers.LlamaForCausalLM(config)


MODELS = {
    "deepseek": deepseek,
    "deepseek yarn": lambda: deepseek(rope_parameters=YARN),
    "llama mha": lambda: llama(4),
    "llama gqa": lambda: llama(2),
    "llama mqa": lambda: llama(1),
}


def made(name):
    torch.manual_seed(0)
    model = MODELS[name]().train()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter *= 5
    tokens = torch.randint(0, 32, (2, 12), generator=torch.Generator().manual_seed(1))
    return model, tokens


def eager_maxima(model, tokens, mask=None):
    """Each layer's maxima from the eager path: log-probabilities give differences only, so the
    logits are taken where eager attention makes them."""
    found = []

    def spy(module, query, key, value, attention_mask, scaling=None, **kwargs):
        repeats = query.shape[1] // key.shape[1]
        logits = query.double() @ key.double().repeat_interleave(repeats, 1).mT * scaling
        visible = torch.ones(logits.shape[-2:], dtype=torch.bool).tril()
        if attention_mask is not None:
            visible = visible & attention_mask.bool()
        found.append(logits.masked_fill(~visible, -torch.inf).amax((0, 2, 3)).detach())
        value = value.repeat_interleave(repeats, 1)
        weights = logits.masked_fill(~visible, -torch.inf).softmax(-1)
        weights = weights.nan_to_num().to(value.dtype)  # rows of padding see nothing
        return (weights @ value).transpose(1, 2).contiguous(), None

    transformers.AttentionInterface.register("naive_spy", spy)
    from transformers import masking_utils

    transformers.AttentionMaskInterface.register(
        "naive_spy", masking_utils.ALL_MASK_ATTENTION_FUNCTIONS["sdpa"]
    )
    was = model.config._attn_implementation
    model.set_attn_implementation("naive_spy")
    out = model(input_ids=tokens, attention_mask=mask).logits
    model.set_attn_implementation(was)
    return torch.stack(found), out


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", sorted(MODELS))
def test_maxima_and_outputs_agree_with_the_naive_attention(name, padded):
    model, tokens = made(name)
    mask = torch.ones_like(tokens)
    if padded:
        mask[0, :5] = 0
    expected, out = eager_maxima(model, tokens, mask)
    clip = hugging_face_qk_clip(model, tau=1e-9)
    assert model.config._attn_implementation == ATTENTION_NAME
    found = model(input_ids=tokens, attention_mask=mask).logits
    keep = mask.bool()
    torch.testing.assert_close(found[keep], out[keep], atol=2e-4, rtol=2e-4)
    maxima = torch.tensor([row.max_logits for row in clip.clip()]).double()
    positive = expected > 0
    torch.testing.assert_close(maxima[positive], expected[positive], atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_a_step_brings_each_head_under_the_threshold(name):
    model, tokens = made(name)
    before, _ = eager_maxima(model, tokens)
    tau = before.median().item()
    clip = hugging_face_qk_clip(model, tau=tau)
    model(input_ids=tokens)
    rows = clip.clip()
    assert any(row.clipped for row in rows)
    after, _ = eager_maxima(model, tokens)
    # The first layer's input is unchanged, so its heads obey the formula to the digit.
    gamma = (tau / before[0]).where(before[0] > tau, 1.0)
    torch.testing.assert_close(after[0], before[0] * gamma, atol=1e-3, rtol=1e-4)


def test_a_model_trains_with_muonclip_and_any_optimizer_takes_the_hook():
    model, tokens = made("deepseek")
    clip = hugging_face_qk_clip(model, tau=20.0)
    optimizer = MuonClip(model, lr=1e-3, qk_clip=clip)
    rows = {row["name"]: row for row in optimizer.assignments()}
    assert rows["model.layers.1.mlp.experts.gate_up_proj"]["matrices"] == "4 of 16×32 + 4 of 16×32"
    assert rows["model.layers.1.mlp.gate.weight"]["reason"] == "router"
    assert rows["lm_head.weight"]["algorithm"] == "adamw"
    losses = []
    for _ in range(6):
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    clip.detach()
    other = torch.optim.AdamW(model.parameters(), lr=1e-3)
    again = QKClip(model, tau=1e-3).attach(other)
    model(input_ids=tokens, labels=tokens).loss.backward()
    other.step()
    assert all(row.clipped for row in again.last)


def test_gradient_checkpointing_counts_a_forward_once():
    model, tokens = made("llama gqa")
    model.activation_checkpointing_enable()
    clip = hugging_face_qk_clip(model, tau=1e-9)
    model(input_ids=tokens, labels=tokens).loss.backward()
    maxima = torch.tensor([row.max_logits for row in clip.clip()])
    model, tokens = made("llama gqa")
    expected, _ = eager_maxima(model, tokens)
    torch.testing.assert_close(maxima.double(), expected, atol=1e-3, rtol=1e-4)


def test_generation_with_a_cache_is_unchanged():
    model, tokens = made("llama gqa")
    model.eval()
    expected = model.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
    hugging_face_qk_clip(model)
    found = model.generate(tokens, max_new_tokens=4, do_sample=False, pad_token_id=0)
    assert torch.equal(found, expected)


def test_what_is_no_transformers_model_is_refused():
    with pytest.raises(ConfigError, match="set_attn_implementation"):
        hugging_face_qk_clip(torch.nn.Linear(2, 2))
