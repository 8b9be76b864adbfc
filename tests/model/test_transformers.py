"""The models of mvc.transformers: loaded, saved, called, trained and put under a segmenter as transformers' own are."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import golden
import numpy as np
import pytest
import torch
from places import DATA
from small_models import EACH_KIND_ONCE
from torch import Tensor

from mvc.errors import UserError
from mvc.model import network
from mvc.model.config import VARIANTS, get_config
from mvc.model.image import class_names, load_image, preprocess
from mvc.model.module import MambaVision, create_model
from mvc.model.weights import load_weights

transformers = pytest.importorskip("transformers", "5.23", reason="transformers 5.23 is not installed")
PIL_Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")

from mvc.transformers import (  # noqa: E402 - after the packages that it needs
    MambaVisionBackbone,
    MambaVisionConfig,
    MambaVisionForImageClassification,
    MambaVisionImageProcessor,
    MambaVisionModel,
)

SMALL = get_config("tiny", **EACH_KIND_ONCE)
STAGES = ["stage1", "stage2", "stage3", "stage4"]
transformers.utils.logging.disable_progress_bar()


def images(*, size: int = 32, seed: int = 0) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))


def classifier(**fields: object) -> MambaVisionForImageClassification:
    torch.manual_seed(0)
    return MambaVisionForImageClassification(MambaVisionConfig.from_mvc(SMALL, **{"num_labels": 3, **fields}))


def random_state(model: torch.nn.Module) -> dict[str, Tensor]:
    """Values for the tensors of a model that no initialisation gives."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(tensor.shape, generator=generator) if tensor.is_floating_point() else torch.tensor(7)
        for name, tensor in model.state_dict().items()
    }


def assert_same(tensors: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


def published_config(variant: str) -> dict[str, object]:
    """The config.json of a published repository, with the fields that the published model reads."""
    config = VARIANTS[variant]
    fields = {
        "architectures": ["MambaVisionModelForImageClassification"],
        "auto_map": {
            "AutoConfig": "configuration_mambavision.MambaVisionConfig",
            "AutoModelForImageClassification": "modeling_mambavision.MambaVisionModelForImageClassification",
        },
        "model_type": "mambavision",
        "torch_dtype": "float32",
        "transformers_version": "4.36.2",
        "depths": list(config.depths),
        "num_heads": list(config.num_heads),
        "window_size": [8, 8, *config.window_sizes],
        "dim": config.dim,
        "in_dim": config.stem_dim,
        "mlp_ratio": 4,
        "drop_path_rate": config.drop_path_rate,
    }
    return fields if config.layer_scale is None else {**fields, "layer_scale": 1e-5, "layer_scale_conv": None}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    """A folder as a published repository is, of `tiny` with 1,000 classes, and the tensors in it."""
    folder = tmp_path_factory.mktemp("published")
    (folder / "config.json").write_text(json.dumps(published_config("tiny")))
    state = random_state(create_model("tiny", num_classes=1000, device="meta"))
    safetensors_torch.save_file(
        {f"model.{name}": tensor for name, tensor in state.items()}, folder / "model.safetensors"
    )
    return folder, state


# Configurations


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_configuration_is_converted_both_ways(variant, tmp_path):
    config = MambaVisionConfig.from_mvc(variant)
    config.save_pretrained(tmp_path)
    assert transformers.AutoConfig.from_pretrained(tmp_path).to_mvc() == config.to_mvc() == VARIANTS[variant]


@pytest.mark.parametrize("variant", ["T", "T2", "S", "B", "L2", "L2-512-21K", "L3-256-21K"])
def test_a_published_configuration_is_that_of_the_variant(variant, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(published_config(variant)))
    assert transformers.AutoConfig.from_pretrained(tmp_path).to_mvc() == VARIANTS[variant]


def test_the_defaults_are_those_of_t():
    assert MambaVisionConfig().to_mvc() == VARIANTS["T"]
    assert MambaVisionConfig(dim=32).to_mvc().name == "custom"


def test_labels_decide_the_head(tmp_path):
    assert list(MambaVisionConfig().id2label.values()) == list(class_names())
    named = MambaVisionConfig.from_mvc("tiny", id2label={0: "cat", 1: "dog"}, label2id={"cat": 0, "dog": 1})
    for config in (named, MambaVisionConfig.from_mvc("tiny", num_labels=2)):  # 2: transformers' own default
        config.save_pretrained(tmp_path)
        again = MambaVisionConfig.from_pretrained(tmp_path)
        assert (again.id2label, again.label2id) == (config.id2label, config.label2id)
        assert again.to_mvc().num_classes == 2
    assert classifier(num_labels=0)(images()).logits.shape == (2, 8 * SMALL.dim)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"window_size": (14, 7)}, "window_size"),
        ({"window_size": 7}, "window_size is 7"),
        ({"num_labels": -1}, "num_labels is -1"),
        ({"layer_scale_conv": 1e-5}, "layer_scale_conv"),
        ({"dim": 7}, "heads"),
    ],
)
def test_an_unusable_field_is_named(fields, named):
    with pytest.raises(UserError, match=named):
        MambaVisionForImageClassification(MambaVisionConfig(**fields))


@pytest.mark.parametrize(
    ("theirs", "ours"), [("num_classes", "num_labels"), ("window_sizes", "window_size"), ("crop", "crop_pct")]
)
def test_a_field_under_its_name_in_mvc_is_refused(theirs, ours):
    with pytest.raises(UserError, match=f"field {theirs} is called {ours} here"):
        MambaVisionConfig.from_mvc("tiny", **{theirs: 3})
    assert MambaVisionConfig.from_mvc("tiny", variant="mine").to_mvc() == get_config("tiny", name="mine")


# Loading and saving


def test_names_are_the_published():
    with torch.device("meta"):
        model = MambaVisionForImageClassification(MambaVisionConfig())
    names = [(name.removeprefix("model."), list(tensor.shape)) for name, tensor in model.state_dict().items()]
    assert all(name.startswith("model.") for name in model.state_dict())
    assert names == list(golden.spec("T").items())


def test_a_published_repository_loads_without_its_code(published):
    folder, state = published
    model, info = transformers.AutoModelForImageClassification.from_pretrained(folder, output_loading_info=True)
    assert type(model) is MambaVisionForImageClassification
    assert not any(info.values()), info
    assert_same(model.model.state_dict(), state)
    assert model.config.id2label[0] == "tench"
    assert not hasattr(model.config, "auto_map")

    reference = create_model("tiny", num_classes=1000).eval()
    reference.load_state_dict(state)
    assert torch.equal(model(images()).logits, reference(images()))


@pytest.mark.parametrize("make", [MambaVisionModel, MambaVisionBackbone])
def test_a_published_repository_loads_without_its_head(make, published):
    folder, state = published
    model, info = make.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    without = {
        n: t for n, t in state.items() if not n.startswith("head." if make is MambaVisionModel else ("head.", "norm."))
    }
    assert_same(model.model.state_dict(), without)


def test_what_is_saved_loads_again_in_shards_too(tmp_path):
    model = classifier()
    model.load_state_dict(random_state(model))
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="50KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for folder in ("whole", "shards"):
        again = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / folder)
        assert_same(again.state_dict(), model.state_dict())
        assert again.config.to_mvc() == model.config.to_mvc()

    of_mvc = create_model(SMALL, num_classes=3)
    load_weights(of_mvc, tmp_path / "whole" / "model.safetensors")
    assert_same(of_mvc.state_dict(), model.model.state_dict())


def test_names_without_the_prefix_load(tmp_path):
    model = classifier()
    model.config.save_pretrained(tmp_path)
    state = random_state(model.model)
    safetensors_torch.save_file(state, tmp_path / "model.safetensors")
    assert_same(MambaVisionForImageClassification.from_pretrained(tmp_path).model.state_dict(), state)


def test_a_head_of_another_size_is_initialised(published):
    folder, state = published
    model = MambaVisionForImageClassification.from_pretrained(folder, num_labels=5, ignore_mismatched_sizes=True)
    head = {name: tensor for name, tensor in model.model.state_dict().items() if name.startswith("head.")}
    assert head["head.weight"].shape == (5, 128)
    assert head["head.weight"].std().item() == pytest.approx(0.02, rel=0.2)
    assert head["head.bias"].count_nonzero() == 0
    assert_same({**model.model.state_dict(), **head}, {**state, **head})


def test_only_what_a_file_lacks_is_initialised(published, tmp_path):
    """Also within a layer, some of whose tensors are in the file."""
    folder, state = published
    lacking = ("levels.2.blocks.0.mixer.D", "norm.num_batches_tracked", "levels.3.blocks.1.mixer.qkv.bias")
    present = {f"model.{name}": tensor for name, tensor in state.items() if name not in lacking}
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    safetensors_torch.save_file(present, tmp_path / "model.safetensors")
    loaded = MambaVisionForImageClassification.from_pretrained(tmp_path).model.state_dict()
    fresh = dict(zip(lacking, (torch.ones(32), torch.tensor(0), torch.zeros(384)), strict=True))
    assert_same(loaded, {**state, **fresh})


def test_a_new_model_starts_as_mvc_does():
    model = classifier(layer_scale=1e-5)
    torch.manual_seed(0)
    mine, theirs = model.model.state_dict(), create_model(SMALL, num_classes=3, layer_scale=1e-5).state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        if theirs[name].is_floating_point() and theirs[name].std() > 0:
            assert tensor.std().item() == pytest.approx(theirs[name].std().item(), rel=0.5), name
        else:
            assert torch.equal(tensor, theirs[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_scan_stays_in_float32(dtype, published):
    for name, tensor in MambaVisionModel.from_pretrained(published[0], dtype=dtype).named_parameters():
        assert tensor.dtype == (torch.float32 if name.endswith((".A_log", ".D")) else dtype), name


# Calls


def test_the_outputs_are_those_of_mvc():
    model = classifier().eval()
    reference = MambaVision(get_config(SMALL, num_classes=3)).eval()
    reference.load_state_dict(model.model.state_dict())
    stages, pooled = reference.forward_features(images())
    found = model(images(), output_hidden_states=True)
    assert torch.equal(found.logits, reference(images()))
    assert model(images()).hidden_states is None
    assert [type(each) for each in model(images(), return_dict=False)] == [Tensor]

    plain = MambaVisionModel(model.config).eval()
    plain.load_state_dict({n: t for n, t in model.state_dict().items() if not n.startswith("model.head.")})
    outputs = plain(images(), output_hidden_states=True)
    assert torch.equal(outputs.last_hidden_state, stages[-1])
    assert torch.equal(outputs.pooler_output, pooled)
    for hidden in (found.hidden_states, outputs.hidden_states):
        assert torch.equal(hidden[0], network.maps(reference, images())[0])
        assert all(torch.equal(a, b) for a, b in zip(hidden[1:], stages, strict=True))


def test_a_backbone_returns_the_maps_that_are_named():
    config = MambaVisionConfig.from_mvc(SMALL, out_features=["stem", "stage2", "stage4"])
    backbone = transformers.AutoBackbone.from_config(config).eval()
    assert type(backbone) is MambaVisionBackbone
    assert (backbone.out_indices, backbone.channels) == ([0, 2, 4], [16, 32, 128])
    outputs = backbone(images(), output_hidden_states=True)
    assert [tuple(each.shape) for each in outputs.feature_maps] == [(2, 16, 8, 8), (2, 32, 4, 4), (2, 128, 1, 1)]
    assert all(torch.equal(outputs.hidden_states[k], m) for k, m in zip((0, 2, 4), outputs.feature_maps, strict=True))
    backbone.out_indices = (1,)
    assert [tuple(each.shape) for each in backbone(images()).feature_maps] == [(2, 16, 8, 8)]


@pytest.mark.parametrize(
    ("num_labels", "labels", "kind"),
    [
        (3, torch.tensor([0, 2]), None),
        (1, torch.tensor([0.5, 1.5]), "regression"),
        (3, torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 0.0]]), "multi_label_classification"),
    ],
    ids=["single-label", "regression", "multi-label"],
)
def test_the_loss_is_that_of_the_labels(num_labels, labels, kind):
    model = classifier(num_labels=num_labels).eval()
    loss, logits = model(images(), labels=labels, return_dict=False)
    expected = {
        None: lambda: torch.nn.functional.cross_entropy(logits, labels),
        "regression": lambda: torch.nn.functional.mse_loss(logits.squeeze(), labels),
        "multi_label_classification": lambda: torch.nn.functional.binary_cross_entropy_with_logits(logits, labels),
    }[kind]()
    assert torch.equal(loss, expected)
    assert model.config.problem_type == kind


def test_unusable_arguments_are_named():
    model = classifier()
    with pytest.raises(UserError, match=r"pixel_values must be images \(batch, 3"):
        model(images()[:, :2])
    with pytest.raises(UserError, match="output_hidden_states is 3"):
        model(images(), output_hidden_states=3)


# Images


@pytest.mark.parametrize("variant", ["T", "S", "L2-512-21K"])
def test_images_are_preprocessed_as_published(variant):
    processor = MambaVisionImageProcessor.from_config(MambaVisionConfig.from_mvc(variant))
    image = load_image(DATA / "chelsea.png")
    found = processor(image, return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(found, preprocess(image, VARIANTS[variant]), rtol=0, atol=1e-6)
    torch.testing.assert_close(processor(torch.from_numpy(np.array(image)), return_tensors="pt")["pixel_values"], found)


def test_transparency_is_laid_over_white_and_steps_can_be_left_out():
    processor = MambaVisionImageProcessor(size={"height": 32, "width": 48})
    image = PIL_Image.new("RGBA", (96, 64), (0, 0, 0, 0))
    found = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(found, torch.ones(1, 3, 32, 48))
    assert processor(image, do_resize=False, return_tensors="pt")["pixel_values"].shape == (1, 3, 64, 96)
    with pytest.raises(UserError, match="crop_mode is 'middle'"):
        processor(image, crop_mode="middle")
    for share in (0, 2.0, None):
        with pytest.raises(UserError, match="crop_pct is"):
            processor(image, crop_pct=share)


def test_a_pipeline_classifies_a_photograph(published, tmp_path):
    folder, _ = published
    model = transformers.AutoModelForImageClassification.from_pretrained(folder)
    processor = MambaVisionImageProcessor.from_config(model.config)
    found = transformers.pipeline("image-classification", model=model, image_processor=processor)
    best = found(str(DATA / "chelsea.png"), top_k=2)
    pixels = preprocess(load_image(DATA / "chelsea.png"), model.config.to_mvc())
    values, indices = model(pixels).logits.softmax(-1).topk(2)
    assert [each["label"] for each in best] == [class_names()[index] for index in indices[0]]
    assert [each["score"] for each in best] == pytest.approx(values[0].tolist(), rel=1e-5)

    processor.save_pretrained(tmp_path)
    again = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    assert type(again) is MambaVisionImageProcessor
    assert again.to_dict() == processor.to_dict()


# Training


def step(model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradients of one step, and the statistics after it, from those of a new model."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.reset_running_stats()
    model.zero_grad()
    torch.manual_seed(1)
    model(pixel_values=images(), labels=torch.tensor([0, 2])).loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    return gradients | {name: buffer.clone() for name, buffer in model.named_buffers()}


@pytest.mark.parametrize(
    "options", [{}, {"activation_checkpointing_kwargs": {"use_reentrant": True}}, {"offload": True}]
)
def test_checkpointing_computes_blocks_again_and_counts_a_batch_once(options):
    model = classifier()
    counts = []
    for stage in model.model.levels[::2]:
        stage.blocks[0].norm1.register_forward_hook(lambda *_: counts.append(1))
    expected = step(model)
    assert len(counts) == 2
    model.activation_checkpointing_enable(**options)
    assert model.is_activation_checkpointing
    assert_same(step(model), expected)
    assert len(counts) == 2 + 4
    model.activation_checkpointing_disable()
    step(model)
    assert len(counts) == 2 + 4 + 2


def test_checkpointed_blocks_are_compiled_in_one_graph(fresh_dynamo):
    model = classifier()
    expected = step(model)
    model.activation_checkpointing_enable()
    found = step(torch.compile(model, backend="aot_eager", fullgraph=True))
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name.removeprefix("_orig_mod.")], rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.slow
def test_the_trainer_trains_three_steps_of_one_compiled_graph(tmp_path, fresh_dynamo):
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    torch._dynamo.utils.counters.clear()
    model = classifier()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    arguments = transformers.TrainingArguments(
        tmp_path,
        max_steps=3,
        per_device_train_batch_size=2,
        torch_compile=True,
        torch_compile_backend="mvc",
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        dataloader_pin_memory=False,
    )
    examples = [{"pixel_values": image, "labels": label} for image, label in zip(images(), (0, 2), strict=True)]
    trainer = transformers.Trainer(model=model, args=arguments, train_dataset=examples)
    assert trainer.train().global_step == 3
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    unchanged = [name for name, tensor in model.state_dict().items() if torch.equal(tensor, before[name])]
    assert unchanged == []
    trainer.save_model(tmp_path)
    assert_same(MambaVisionForImageClassification.from_pretrained(tmp_path).state_dict(), model.state_dict())


def test_upernet_trains_in_one_graph(tmp_path, fresh_dynamo):
    backbone = MambaVisionConfig.from_mvc(SMALL, out_features=STAGES)
    config = transformers.UperNetConfig(
        backbone_config=backbone, hidden_size=8, auxiliary_channels=8, auxiliary_in_channels=64, num_labels=4
    )
    torch.manual_seed(0)
    model = transformers.UperNetForSemanticSegmentation(config)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    outputs = compiled(pixel_values=images(size=64), labels=torch.randint(0, 4, (2, 64, 64)))
    outputs.loss.backward()
    assert outputs.logits.shape == (2, 4, 64, 64)
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    model.save_pretrained(tmp_path)
    again = transformers.UperNetForSemanticSegmentation.from_pretrained(tmp_path)
    assert_same(again.state_dict(), model.state_dict())


def test_a_missing_transformers_is_named_with_the_remedy(monkeypatch):
    monkeypatch.delitem(sys.modules, "mvc.transformers")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs transformers 5\.23.*pip install --upgrade 'mvc-mambavision\[transf"):
        importlib.import_module("mvc.transformers")
