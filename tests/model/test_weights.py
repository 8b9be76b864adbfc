"""Checkpoints of every kind load in full, and whatever cannot load is refused with the model unchanged."""

import argparse
import logging
import os
import pickle
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from golden import save_published
from torch import Tensor, nn

from mvc.errors import UserError
from mvc.model.module import create_model
from mvc.model.weights import load_weights, num_classes

safetensors_torch = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
State = dict[str, Tensor]


def random_state(variant: str = "tiny", **changes: object) -> State:
    """A state dict of the variant with values that no initialisation gives."""
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.rand(own.shape, generator=generator) if own.dtype != torch.int64 else torch.tensor(7)
        for name, own in create_model(variant, device="meta", **changes).state_dict().items()
    }


def snapshot(model: nn.Module) -> State:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(tensors: State, expected: State) -> None:
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert torch.equal(tensor, expected[name].to(tensor.dtype)), name


@pytest.fixture
def model() -> nn.Module:
    return create_model("tiny")


@pytest.fixture
def refuses(model: nn.Module) -> Iterator[Callable[..., str]]:
    """Load into `model`, expect a UserError, return its message; the model must be bitwise unchanged at the end."""
    before = snapshot(model)

    def load(source: object, **options: object) -> str:
        with pytest.raises(UserError) as caught:
            load_weights(model, source, **options)
        return str(caught.value)

    yield load
    assert_same(model.state_dict(), before)


def wrapped(state: State, prefix: str) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def create_model_with(state: State) -> nn.Module:
    model = create_model("tiny")
    model.load_state_dict(state)
    return model


def converted(state: State, dtype: torch.dtype) -> State:
    return {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}


FORMS: dict[str, Callable[[State, Path], object]] = {
    "plain.pth": torch.save,
    "ordered.pth": lambda state, path: torch.save(OrderedDict(state), path),
    "parameters.pt": lambda state, path: torch.save(create_model_with(state).state_dict(keep_vars=True), path),
    "legacy.PT": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "under_state_dict.pth": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "lightning.ckpt": lambda state, path: torch.save({"state_dict": wrapped(state, "model.")}, path),
    "pytorch_model.bin": torch.save,
    "under_model.pth": lambda state, path: torch.save({"model": state, "epoch": 3}, path),
    "published.pth.tar": save_published,
    "plain.safetensors": safetensors_torch.save_file,
    "published.safetensors": lambda state, path: safetensors_torch.save_file(wrapped(state, "model."), path),
    "float16.safetensors": lambda state, path: safetensors_torch.save_file(converted(state, torch.float16), path),
    "float64.pth": lambda state, path: torch.save(converted(state, torch.float64), path),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_file_loads(form, model, tmp_path):
    state = random_state()
    FORMS[form](state, tmp_path / form)
    loaded = load_weights(model, tmp_path / form)
    assert loaded.source == str(tmp_path / form)
    assert loaded.tensors == len(state)
    assert_same(model.state_dict(), converted(state, torch.float16) if form.startswith("float16") else state)


@pytest.mark.parametrize("key", ["state_dict_ema", "model_ema"])
def test_moving_average(key, model, tmp_path):
    weights, path = random_state(), tmp_path / "training.pth"
    average = {name: tensor + 1 for name, tensor in weights.items()}
    torch.save({"state_dict": weights, key: wrapped(average, "module.")}, path)
    load_weights(model, path)
    assert_same(model.state_dict(), weights)
    load_weights(model, path, ema=True)
    assert_same(model.state_dict(), average)


@pytest.mark.parametrize("classes", [0, 7])
def test_the_number_of_classes_is_that_of_the_head(classes, tmp_path):
    state, path = random_state(num_classes=classes), tmp_path / "weights.pth"
    torch.save({"model_ema": state, "state_dict": random_state()}, path)
    assert num_classes(path, ema=True) == num_classes(state) == classes
    assert num_classes(path) == 10


def test_no_moving_average(refuses, tmp_path):
    torch.save({"state_dict": random_state()}, tmp_path / "plain.pth")
    sentence = "plain.pth holds no moving average (state_dict_ema or model_ema); leave out ema=True"
    assert sentence in refuses(tmp_path / "plain.pth", ema=True)


@pytest.mark.parametrize("prefix", ["module.", "model.", "encoder.", "backbone.", "module.backbone.", "_orig_mod."])
def test_prefixes_are_stripped(prefix, model, tmp_path):
    state = random_state()
    torch.save(wrapped(state, prefix), tmp_path / "wrapped.pth")
    load_weights(model, str(tmp_path / "wrapped.pth"))
    assert_same(model.state_dict(), state)


def test_loads_into_a_compiled_model(model, tmp_path):
    torch.save(random_state(), tmp_path / "tiny.pth")
    load_weights(torch.compile(model, backend="eager"), tmp_path / "tiny.pth")
    assert_same(model.state_dict(), random_state())


def test_tensors_keep_their_storage_dtype_and_memory_format(tmp_path):
    model = create_model("tiny", dtype=torch.bfloat16).to(memory_format=torch.channels_last)
    before = {name: (t.data_ptr(), t.dtype, t.stride()) for name, t in model.state_dict().items()}
    torch.save(random_state(), tmp_path / "tiny.pth")
    load_weights(model, tmp_path / "tiny.pth")
    assert {name: (t.data_ptr(), t.dtype, t.stride()) for name, t in model.state_dict().items()} == before
    assert_same(model.state_dict(), random_state())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_loads_into_a_model_on_a_gpu(tmp_path):
    model = create_model("tiny", device="cuda")
    save_published(random_state(), tmp_path / "tiny.pth.tar")
    load_weights(model, tmp_path / "tiny.pth.tar")
    assert all(tensor.is_cuda for tensor in model.state_dict().values())
    assert_same({name: tensor.cpu() for name, tensor in model.state_dict().items()}, random_state())


# The licence


@pytest.mark.parametrize("form", ["published.pth.tar", "published.safetensors"])
def test_published_form_tells_the_licence(form, model, tmp_path, caplog):
    FORMS[form](random_state(), tmp_path / form)
    (note,) = load_weights(model, tmp_path / form).notes
    assert "has the form of NVIDIA's published weights; if it holds them, their licence is CC-BY-NC-SA-4.0" in note
    assert "non-commercial" in note
    assert caplog.record_tuples == [("mvc.model.weights", logging.WARNING, note)]


@pytest.mark.parametrize("form", ["plain.pth", "plain.safetensors", "under_state_dict.pth"])
def test_other_files_have_no_notes(form, model, tmp_path, caplog):
    FORMS[form](random_state(), tmp_path / form)
    assert load_weights(model, tmp_path / form).notes == ()
    assert caplog.record_tuples == []


# Files that do not fit the model


def test_differences_are_listed_ten_of_each_with_counts(refuses, tmp_path):
    state = random_state()
    names = list(state)
    for name in names[:12]:
        del state[name]
    state.update({f"neck.{i}": torch.zeros(1) for i in range(11)})
    state["norm.weight"] = torch.zeros(5, 2)
    torch.save(state, tmp_path / "other.pth")
    sentence, missing, extra, misshapen = refuses(tmp_path / "other.pth").splitlines()
    assert "other.pth does not fit: these are not the model's tensors; give a MambaVision checkpoint" in sentence
    assert missing == f"  12 missing: {', '.join(names[:10])}, ..."
    assert extra == f"  11 extra: {', '.join(f'neck.{i}' for i in range(10))}, ..."
    assert misshapen == "  1 misshapen: norm.weight (5, 2) for (128,)"


def test_whole_numbers_for_a_float_tensor(refuses, tmp_path):
    state = random_state()
    state["norm.weight"] = state["norm.weight"].to(torch.int64)
    torch.save(state, tmp_path / "integers.pth")
    assert "1 of the wrong type: norm.weight torch.int64 for torch.float32" in refuses(tmp_path / "integers.pth")


@pytest.mark.parametrize(
    ("variant", "named"),
    [("T", "T"), ("B", "B or B-21K"), ("L2-512-21K", "L2 or L2-512-21K")],
)
def test_wrong_variant_is_named_with_all_that_share_its_tensors(variant, named, refuses, tmp_path):
    # One stored value expanded to each shape: saved, the file stays small.
    value = torch.zeros(1)
    shapes = {name: own.shape for name, own in create_model(variant, device="meta").state_dict().items()}
    torch.save({name: value.expand(shape or 1).reshape(shape) for name, shape in shapes.items()}, tmp_path / "v.pth")
    message = refuses(tmp_path / "v.pth")
    assert f"these are {named} weights, and the model is tiny; create the model under the name of" in message
    assert f'create_model("{named.split()[0]}")' in message
    assert " misshapen: patch_embed.conv_down.0.weight " in message


def test_variant_with_changed_shapes_is_not_taken_for_the_published_one(tmp_path):
    changed = create_model("tiny", in_chans=1)
    before = snapshot(changed)
    torch.save(random_state(), tmp_path / "tiny.pth")
    with pytest.raises(UserError, match="these are tiny weights, and the model is a configuration of its own"):
        load_weights(changed, tmp_path / "tiny.pth")
    assert_same(changed.state_dict(), before)


@pytest.mark.parametrize("classes", [0, 21])
def test_other_class_count_has_its_own_sentence(classes, refuses, tmp_path):
    torch.save(random_state(num_classes=classes), tmp_path / "head.pth")
    message = refuses(tmp_path / "head.pth")
    assert f"its head has num_classes={classes} and the model's has num_classes=10 (0: no head)" in message
    assert f'create the model with num_classes={classes}, or pass head="reset"' in message


# head="reset"


@pytest.mark.parametrize("classes", [0, 10, 21])
@pytest.mark.parametrize("model_classes", [0, 10])
def test_reset_keeps_the_models_head(classes, model_classes, tmp_path, caplog):
    model = create_model("tiny", num_classes=model_classes)
    state, before = random_state(num_classes=classes), snapshot(model)
    torch.save(state, tmp_path / "head.pth")
    loaded = load_weights(model, tmp_path / "head.pth", head="reset")
    own_head = {name: tensor for name, tensor in before.items() if name.startswith("head.")}
    body = {name: tensor for name, tensor in state.items() if not name.startswith("head.")}
    assert_same(model.state_dict(), body | own_head)
    note = (
        f"the checkpoint's head (num_classes={classes}) was skipped; "
        f"the model's (num_classes={model_classes}) is as it was"
    )
    assert (loaded.tensors, loaded.notes) == (len(body), (note,))
    assert caplog.messages == [note]


def test_reset_counts_the_classes_of_a_head_of_several_layers(model):
    model.head = nn.Sequential(nn.Linear(128, 7), nn.ReLU(), nn.Linear(7, 5))
    (note,) = load_weights(model, random_state(), head="reset").notes
    assert note.endswith("the model's (num_classes=5) is as it was")


def test_reset_is_strict_about_all_but_the_head(refuses, tmp_path):
    state = random_state(num_classes=21)
    del state["norm.bias"]
    torch.save(state, tmp_path / "head.pth")
    message = refuses(tmp_path / "head.pth", head="reset")
    assert "these are not the model's tensors" in message
    assert "1 missing: norm.bias" in message
    assert "head." not in message.split(": ", 1)[1]


def test_unknown_head_option(refuses, tmp_path):
    assert refuses(tmp_path, head="skip") == "head is 'skip'; it must be one of strict, reset"


def test_meta_model(tmp_path):
    torch.save(random_state(), tmp_path / "tiny.pth")
    with pytest.raises(UserError, match="model is on the meta device"):
        load_weights(create_model("tiny", device="meta"), tmp_path / "tiny.pth")


# Files that cannot be read


class Malicious:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


class Harmless:
    """An object of a class of one's own, as a training state may hold."""


@pytest.mark.parametrize("use_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["beside", "within"])
def test_code_in_a_pickle_is_refused_and_not_run(use_zip, place, refuses, tmp_path):
    target = tmp_path / "made_by_the_pickle"
    state = random_state()
    payload = {"state_dict": state, "args": Malicious(target)}
    if place == "within":
        payload = {"state_dict": state, "args": argparse.Namespace(hook=Malicious(target))}
    torch.save(payload, tmp_path / "bad.pth", _use_new_zipfile_serialization=use_zip)
    message = refuses(tmp_path / "bad.pth")
    assert "bad.pth: its pickle asks for posix.mkdir, and loading that could run code; nothing was executed" in message
    assert "state_dict() alone, or for a .safetensors file" in message
    assert not target.exists()


def test_the_malicious_file_would_do_harm(tmp_path):
    target = tmp_path / "made_by_the_pickle"
    pickle.loads(pickle.dumps(Malicious(target)))
    assert target.is_dir()


def test_other_classes_are_refused_by_name(refuses, tmp_path):
    torch.save({"state_dict": random_state(), "hook": Harmless()}, tmp_path / "object.pth")
    assert f"its pickle asks for {__name__}.Harmless" in refuses(tmp_path / "object.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol 4")
def test_pickle_that_torch_did_not_write(refuses, tmp_path):
    (tmp_path / "other.pth").write_bytes(pickle.dumps({"a": [0.5]}, protocol=4))
    assert "its pickle asks for something that torch does not take for plain data" in refuses(tmp_path / "other.pth")


def test_allowing_the_namespace_is_not_global(model, tmp_path):
    path = save_published(random_state(), tmp_path / "tiny.pth.tar")
    load_weights(model, path)
    assert argparse.Namespace not in torch.serialization.get_safe_globals()
    with pytest.raises(pickle.UnpicklingError, match=r"argparse\.Namespace"):
        torch.load(path, weights_only=True)


@pytest.mark.parametrize("form", ["published.pth.tar", "plain.pth", "legacy.PT", "plain.safetensors"])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.999])
def test_truncated_file(form, kept, refuses, tmp_path):
    FORMS[form](random_state(), tmp_path / form)
    whole = (tmp_path / form).read_bytes()
    (tmp_path / form).write_bytes(whole[: int(len(whole) * kept)])
    message = refuses(tmp_path / form)
    assert f"{form} is truncated or damaged (" in message
    assert message.endswith("); download or copy it again")


@pytest.mark.parametrize("form", ["text.pth", "text.pt", "text.pth.tar", "text.safetensors"])
def test_text_under_a_checkpoints_name(form, refuses, tmp_path):
    (tmp_path / form).write_text("version https://git-lfs.github.com/spec/v1\n")
    message = refuses(tmp_path / form)
    assert "is not the kind of file that its name says: it starts with b'version https://';" in message


def test_empty_file(refuses, tmp_path):
    (tmp_path / "empty.pth").touch()
    assert refuses(tmp_path / "empty.pth") == f"source {tmp_path / 'empty.pth'} is empty; download or copy it again"


def test_unknown_suffix(refuses, tmp_path):
    torch.save(random_state(), tmp_path / "tiny.pkl")
    assert "does not end as a checkpoint's name does: .pth, .pth.tar, .pt, .ckpt, .bin, .safetensors;" in refuses(
        tmp_path / "tiny.pkl"
    )


def test_no_such_file_or_a_folder(refuses, tmp_path):
    assert refuses(tmp_path / "none.pth").startswith(
        f"cannot open source '{tmp_path / 'none.pth'}': No such file or directory;"
    )
    assert refuses(tmp_path).startswith(f"cannot open source '{tmp_path}': Is a directory;")


@pytest.mark.parametrize(
    ("contents", "sentence"),
    [
        ({}, "holds no tensors"),
        ({"state_dict": {}, "epoch": 3}, "holds no tensors"),
        ([torch.zeros(2)], "holds a list; it must hold a state dict"),
        ({"epoch": 3, "net": {"a": torch.zeros(2)}}, "the entry 'epoch' (int) is no dense tensor"),
        ({"state_dict": {"a": torch.zeros(2), "b": None}}, "the entry 'b' (NoneType) is no dense tensor"),
        ({0: torch.zeros(2)}, "the entry 0 (Tensor) is no dense tensor"),
        ({"a": torch.zeros(2, device="meta")}, "the entry 'a' (Tensor) is no dense tensor"),
        ({"a": torch.eye(2).to_sparse()}, "the entry 'a' (Tensor) is no dense tensor"),
        ({"a": torch.zeros(2), "model.a": torch.zeros(2)}, "holds several models: without prefixes, 2 names become 1"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_files_without_one_state_dict(contents, sentence, refuses, tmp_path):
    torch.save(contents, tmp_path / "odd.pth")
    assert sentence in refuses(tmp_path / "odd.pth")


def test_safetensors_without_tensors(refuses, tmp_path):
    safetensors_torch.save_file({}, tmp_path / "none.safetensors")
    assert refuses(tmp_path / "none.safetensors").endswith("holds no tensors")


def test_reading_errors_are_chained(model, tmp_path):
    torch.save(Harmless(), tmp_path / "object.pth")
    with pytest.raises(UserError) as caught:
        load_weights(model, tmp_path / "object.pth")
    assert isinstance(caught.value.__cause__, pickle.UnpicklingError)


# The hub


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """huggingface_hub with its downloads answered from a folder, one for each repository."""
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def download(repository: str, name: str) -> str:
        path = tmp_path / repository / name
        if not path.is_file():
            raise huggingface_hub.errors.EntryNotFoundError(f"no {name}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub, "list_repo_files", lambda name: sorted(os.listdir(tmp_path / name)))
    (tmp_path / "nvidia" / "MambaVision-S-1K").mkdir(parents=True)
    return huggingface_hub


SOURCE = "hub:nvidia/MambaVision-S-1K"


def test_hub_prefers_safetensors_and_tells_the_licence(hub, model, tmp_path):
    folder = tmp_path / "nvidia" / "MambaVision-S-1K"
    FORMS["published.safetensors"](random_state(), folder / "model.safetensors")
    (folder / "mambavision_small_1k.pth.tar").write_text("not to be read")
    loaded = load_weights(model, SOURCE)
    assert_same(model.state_dict(), random_state())
    licence = "CC-BY-NC-SA-4.0 (non-commercial use only)"
    assert loaded.notes == (f"{SOURCE} holds NVIDIA's published weights, whose licence is {licence}",)


def test_hub_falls_back_on_the_torch_file(hub, model, tmp_path):
    folder = tmp_path / "nvidia" / "MambaVision-S-1K"
    save_published(random_state(), folder / "mambavision_small_1k.pth.tar")
    for name in ("README.md", "optimizer.bin", "training_args.bin"):
        (folder / name).touch()
    assert load_weights(model, SOURCE).source == SOURCE
    assert_same(model.state_dict(), random_state())


def test_hub_repository_without_a_checkpoint(hub, refuses):
    assert f"cannot get source {SOURCE} (EntryNotFoundError: no model.safetensors): check" in refuses(SOURCE)


@pytest.mark.parametrize("kind", ["LocalEntryNotFoundError", "OfflineModeIsEnabled", "HFValidationError"])
def test_hub_failure_is_one_sentence(kind, hub, refuses, monkeypatch):
    def fail(repository: str, name: str) -> str:
        raise getattr(hub.errors, kind)("cannot find it\nand a long explanation")

    monkeypatch.setattr(hub, "hf_hub_download", fail)
    monkeypatch.delattr(hub, "list_repo_files")  # must not be asked
    assert refuses(SOURCE) == (
        f"cannot get source {SOURCE} ({kind}: cannot find it): check the name and the connection, "
        "or download the file elsewhere and give its path"
    )


def test_hub_without_its_package(refuses, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    message = refuses(SOURCE)
    assert f"{SOURCE} needs huggingface_hub: run pip install 'mvc-mambavision[hub]'" in message
