# ruff: noqa: E402 - torch must be found before what needs it is imported
"""The plugs, and the examples of the documentation, run as they are written there."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn

from kimiya.errors import ConfigError
from kimiya.training import MuonClip, MuonClipFactory, build_optimizer, build_optimizers
from kimiya.training.plugs import OptimizerList
from tests.training.optim.models import Grouped, Mixed

DOCS = Path(__file__).parents[3] / "docs" / "training-muonclip.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_documented_examples_run(number, tmp_path, monkeypatch):
    source = EXAMPLES[number]
    if "transformers" in source:
        pytest.importorskip("transformers")
        pytest.importorskip("accelerate")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    exec(compile(source, f"{DOCS.name}, example {number}", "exec"), {"__name__": "example"})


def test_the_documentation_shows_every_plug():
    text = "\n".join(EXAMPLES)
    for name in ("optimizers=", "optimizer_cls_and_kwargs=", "build_optimizers", "zero_grad"):
        assert name in text


def test_factory_is_what_trainer_takes_for_one():
    trainer = pytest.importorskip("transformers.trainer_optimizer")
    assert trainer.is_optimizer_factory(MuonClipFactory)
    optimizer = MuonClipFactory()(Mixed(), lr=0.3, overrides={"qkv.weight": "adamw"})
    assert isinstance(optimizer, MuonClip)
    assert {g["lr"] for g in optimizer.param_groups} == {0.3}


def test_builder_watches_attention_when_given_a_threshold():
    module = Grouped(gain=3.0)
    optimizer = build_optimizer(module, lr=0.01, tau=0.5)
    module(torch.randn(2, 5, 10)).sum().backward()
    optimizer.step()
    assert optimizer.qk_clip.last[0].clipped


def test_model_parts_step_and_reload_together():
    torch.manual_seed(0)
    parts = [nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4)), nn.Sequential(nn.Linear(4, 3))]
    optimizers = build_optimizers(parts, lr=0.1)
    assert isinstance(optimizers, OptimizerList)
    assert len(optimizers) == len(list(optimizers)) == 2

    def step():
        optimizers.zero_grad()
        parts[1](parts[0](torch.arange(5))).square().sum().backward()
        optimizers.step()

    step()
    weights = [p.detach().clone() for part in parts for p in part.parameters()]
    saved = {k: v.clone() if hasattr(v, "clone") else v for k, v in optimizers.state_dict().items()}
    step()
    expected = [p.detach().clone() for part in parts for p in part.parameters()]
    for p, w in zip((p for part in parts for p in part.parameters()), weights, strict=True):
        p.data.copy_(w)
    optimizers.load_state_dict(saved)
    step()
    found = [p.detach() for part in parts for p in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_no_parts_are_refused():
    with pytest.raises(ConfigError, match="no model parts"):
        build_optimizers([])


def test_public_names_are_listed_once_and_exist():
    import kimiya.training

    names = kimiya.training.__all__
    assert len(set(names)) == len(names)
    assert all(getattr(kimiya.training, name) is not None for name in names)
