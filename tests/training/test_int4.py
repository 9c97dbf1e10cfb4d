"""The INT4 grid: idempotent, straight-through, and laid out as compressed-tensors reads it."""

import json

import pytest

torch = pytest.importorskip("torch")

from kimiya.errors import ConfigError  # noqa: E402
from kimiya.training.int4 import FakeInt4, dequantize, pack, quantize, unpack  # noqa: E402
from kimiya.training.k2 import K2Config, K2Model  # noqa: E402
from kimiya.training.k2.export import (  # noqa: E402
    QUANTIZATION,
    load_model,
    quantize_experts,
    save_model,
)
from kimiya.training.k2.safetensors import load_safetensors, save_safetensors  # noqa: E402

CONFIG = K2Config(
    vocab_size=53,
    hidden_size=64,
    intermediate_size=96,
    moe_intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    q_lora_rank=32,
    kv_lora_rank=16,
    qk_nope_head_dim=8,
    qk_rope_head_dim=8,
    v_head_dim=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    initializer_range=0.2,
)


def weights(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 37.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_quantising_twice_is_quantising_once(scale, dtype):
    once = quantize(weights(5, 128, scale=scale), scale_dtype=dtype)
    twice = quantize(dequantize(once), scale_dtype=dtype)
    assert torch.equal(once.codes_RC, twice.codes_RC)
    assert torch.equal(once.scales_RQ, twice.scales_RQ)


def test_the_other_scale_rule_would_move_trained_weights():
    trained = dequantize(quantize(weights(64, 256)))
    grouped = trained.unflatten(-1, (-1, 32))
    scale = grouped.abs().amax(-1, keepdim=True) / 7.5
    moved = ((grouped / scale).round().clamp(-8, 7) * scale).flatten(-2)
    assert (moved - trained).norm() / trained.norm() > 0.05


def test_what_training_sees_is_what_is_saved():
    weight = weights(3, 16, 64)
    assert torch.equal(FakeInt4()(weight), dequantize(quantize(weight)))


def test_the_gradient_passes_unchanged():
    weight = weights(4, 32).requires_grad_()
    factor = weights(4, 32, seed=1)
    (FakeInt4()(weight) * factor).sum().backward()
    assert torch.equal(weight.grad, factor)


def test_no_weight_is_moved_by_more_than_half_a_step():
    weight = weights(8, 64)
    grid = quantize(weight)
    step = grid.scales_RQ.float().repeat_interleave(32, dim=-1)
    # Rounding the scale to bfloat16 may leave the largest weight up to 7 · 2**-9 steps outside.
    assert ((dequantize(grid) - weight).abs() <= step * (0.5 + 7 / 512)).all()


def test_zeros_stay_zeros_and_codes_survive_packing():
    grid = quantize(torch.zeros(2, 32))
    assert not dequantize(grid).any()
    codes = torch.randint(-7, 8, (3, 4, 64), dtype=torch.int8)
    assert torch.equal(unpack(pack(codes)), codes)
    assert pack(codes).shape == (3, 4, 8)


def test_what_has_no_grid_is_refused():
    with pytest.raises(ConfigError, match="multiples of 32"):
        quantize(torch.zeros(2, 40))
    with pytest.raises(ConfigError, match="NaN"):
        quantize(torch.full((2, 32), float("nan")))


@pytest.mark.parametrize("int4", [False, True])
def test_a_saved_model_is_the_trained_one(tmp_path, int4):
    torch.manual_seed(0)
    model = K2Model(CONFIG).eval()
    quantize_experts(model, enabled=int4)
    save_model(model, tmp_path, int4=int4)
    tokens = torch.arange(20)[None]
    loaded = load_model(tmp_path).eval()
    with torch.no_grad():
        assert torch.equal(loaded(tokens), model(tokens))
        quantize_experts(loaded, enabled=int4)
        assert torch.equal(loaded(tokens), model(tokens)), "quantising again changed something"


def test_only_routed_experts_are_quantised(tmp_path):
    save_model(K2Model(CONFIG), tmp_path, int4=True)
    names = load_safetensors(tmp_path / "model.safetensors")
    packed = {name for name in names if name.endswith("weight_packed")}
    assert len(packed) == 4 * 3
    assert all(".mlp.experts." in name for name in packed)
    held = names["model.layers.1.mlp.experts.2.down_proj.weight_packed"]
    assert (held.dtype, held.shape) == (torch.int32, (64, 32 // 8))
    config = json.loads((tmp_path / "config.json").read_text())
    weights_of = config["quantization_config"]["config_groups"]["group_0"]["weights"]
    assert (weights_of["num_bits"], weights_of["group_size"]) == (4, 32)


def test_compressed_tensors_reads_the_same_weights():
    helpers = pytest.importorskip("compressed_tensors.compressors.pack_quantized.helpers")
    codes = torch.randint(-8, 8, (6, 96), dtype=torch.int8)
    assert torch.equal(helpers.pack_to_int32(codes, 4), pack(codes))
    assert torch.equal(helpers.unpack_from_int32(pack(codes), 4, codes.shape), codes)


def test_compressed_tensors_decompresses_an_export(tmp_path):
    packed = pytest.importorskip("compressed_tensors.compressors.pack_quantized.base")
    schemes = pytest.importorskip("compressed_tensors.quantization")
    model = K2Model(CONFIG)
    save_model(model, tmp_path, int4=True)
    held = load_safetensors(tmp_path / "model.safetensors")
    args = QUANTIZATION["config_groups"]["group_0"]["weights"]
    scheme = schemes.QuantizationScheme(targets=["Linear"], weights=args)
    prefix = "model.layers.1.mlp.experts.0.down_proj."
    module = {name[len(prefix) :]: value for name, value in held.items() if prefix in name}
    theirs = packed.PackedQuantizationCompressor.decompress(module, scheme)["weight"]
    ours = dequantize(quantize(model.model.layers[1].mlp.experts.down_proj[0]))
    torch.testing.assert_close(theirs.float(), ours, atol=0, rtol=2**-8)


def test_a_broken_file_is_named_and_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save_safetensors({"a": torch.arange(6.0).reshape(2, 3)}, path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space"), open("/dev/full", "wb", buffering=0) as full:
        full.write(b"x")
    monkeypatch.setattr("os.fsync", _no_space)
    with pytest.raises(OSError, match="No space"):
        save_safetensors({"a": torch.zeros(9)}, path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.safetensors"]
    path.write_bytes(before[:-4])
    with pytest.raises(ConfigError, match=r"model\.safetensors"):
        load_safetensors(path)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ConfigError, match="no tensors"):
        load_safetensors(path)


def _no_space(_descriptor):
    raise OSError(28, "No space left on device")


def test_a_folder_that_holds_no_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.json"):
        load_model(tmp_path)
    save_model(K2Model(CONFIG), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG.to_mapping(), "hidden_size": 32}))
    with pytest.raises(ConfigError, match="do not fit"):
        load_model(tmp_path)


def test_transformers_reads_an_export(tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    model = K2Model(CONFIG).eval()
    save_model(model, tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    tokens = torch.arange(30)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(tokens).logits, model(tokens), atol=2e-4, rtol=2e-4)
