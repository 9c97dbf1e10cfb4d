"""Ours against ``transformers``' DeepseekV3ForCausalLM, weight for weight and logit for logit."""

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from kimiya.training.k2 import K2Config, K2Model, RopeScaling, generate  # noqa: E402

TINY = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "moe_intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "q_lora_rank": 24,
    "kv_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "initializer_range": 0.2,
}
CASES = {
    "plain": {},
    "yarn": {
        "rope_scaling": RopeScaling(factor=8.0, original_max_position_embeddings=32, beta_fast=32),
        "rope_theta": 50_000.0,
    },
    "yarn, unequal scales": {
        "rope_scaling": RopeScaling(
            factor=4.0, original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.3
        )
    },
    "no query latent": {"q_lora_rank": None},
    "groups": {"n_group": 4, "topk_group": 2},
    "weights not summed to one": {"norm_topk_prob": False},
    "two dense layers, two shared experts": {"first_k_dense_replace": 2, "n_shared_experts": 2},
    "eps of K2-Thinking": {"rms_norm_eps": 1e-5},
}


def pair(seed=0, **changes):
    """One random model of ours, and theirs holding the same weights."""
    torch.manual_seed(seed)
    config = K2Config(**{**TINY, "max_position_embeddings": 256, **changes})
    ours = K2Model(config).eval()
    with torch.no_grad():
        for name, buffer in ours.named_buffers():
            if name.endswith("e_score_correction_bias"):
                buffer.normal_(0, 0.1)
    mapping = config.to_mapping()
    theirs_config = transformers.DeepseekV3Config(
        **{key: value for key, value in mapping.items() if key not in {"architectures"}}
    )
    theirs = transformers.DeepseekV3ForCausalLM(theirs_config).eval()
    missing, unexpected = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert not unexpected
    assert not missing
    return ours, theirs


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES.keys())
def test_logits_agree(changes):
    ours, theirs = pair(**changes)
    tokens = torch.randint(0, 97, (3, 40))
    with torch.no_grad():
        torch.testing.assert_close(ours(tokens), theirs(tokens).logits, atol=2e-4, rtol=2e-4)


def test_weights_of_theirs_load_into_ours():
    _, theirs = pair(seed=1)
    fresh = K2Model(K2Config.from_mapping(theirs.config.to_dict()))
    fresh.load_state_dict(theirs.state_dict())
    tokens = torch.randint(0, 97, (2, 17))
    with torch.no_grad():
        torch.testing.assert_close(
            fresh.eval()(tokens), theirs(tokens).logits, atol=2e-4, rtol=2e-4
        )


def test_gradients_agree():
    ours, theirs = pair(seed=2)
    tokens = torch.randint(0, 97, (2, 24))
    ours(tokens).logsumexp(-1).sum().backward()
    theirs(tokens).logits.logsumexp(-1).sum().backward()
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(
            parameter.grad,
            other[name].grad,
            atol=2e-3,
            rtol=2e-3,
            msg=lambda text, name=name: f"{name}: {text}",
        )


def test_greedy_continuations_agree():
    ours, theirs = pair(seed=3)
    prompt = torch.randint(0, 97, (1, 9))
    with torch.no_grad():
        expected = theirs.generate(
            prompt, max_new_tokens=12, min_new_tokens=12, do_sample=False, pad_token_id=0
        )
    assert generate(ours, prompt.tolist(), max_tokens=12)[0] == expected[0, 9:].tolist()
