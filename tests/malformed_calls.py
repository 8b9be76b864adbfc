"""Malformed calls of every public function, as a table: what is called, what is wrong, and what the error must name."""

import copy
import dataclasses
import functools
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mvc
from mvc import refresh
from mvc.compat import bimamba, causal_conv1d, layer_norm, layer_norm_gated, mamba_ssm, selective_scan_cuda_oflex, ssd
from mvc.compile.backend import Options
from mvc.kernels.scan.checks import MAX_STATES
from mvc.measure import profiler
from mvc.model import functional, image, windows
from mvc.model.config import VARIANTS

CPU = torch.device("cpu")
INDEX = torch.int64


class Row(NamedTuple):
    """One malformed call. `name` is what the error says, usually the argument's name."""

    function: str
    fault: str
    call: Callable[[], object]
    name: str


def rows(function: str, name: str, call: Callable[[Any], object], values: dict[str, Any] | list[Any]) -> Iterator[Row]:
    """A row for each value of one argument, listed by itself or under a name for it."""
    named = values if isinstance(values, dict) else {repr(value): value for value in values}
    for fault, value in named.items():
        yield Row(function, f"{name} {fault}", lambda v=value: call(v.make() if isinstance(v, Made) else v), name)


class Made(NamedTuple):
    """A value that is made for the call."""

    make: Callable[[], Any]


def misfits(make: Callable[[], Tensor]) -> dict[str, Made]:
    """What is no dense tensor of a usable dtype, device and shape, in the place of the one that `make` gives."""
    kinds = {
        "list": Tensor.tolist,
        "numpy": lambda t: t.numpy(),
        "text": lambda t: "cat.jpg",
        "sparse": Tensor.to_sparse,
        "nested": lambda t: torch.nested.nested_tensor([t]),
        "masked": lambda t: torch.masked.MaskedTensor(t.float(), torch.ones_like(t, dtype=torch.bool)),
        "quantised": lambda t: torch.quantize_per_tensor(t.float(), 0.1, 0, torch.qint8),
        "complex": lambda t: t.to(torch.complex64),
        "meta": lambda t: t.to("meta"),
        "of one axis more": lambda t: t.expand(2, 2, *t.shape),
        "of int16": lambda t: t.to(torch.int16),
    }
    return {kind: Made(lambda change=change: change(make())) for kind, change in kinds.items()}


# --- kernels


def scan_inputs() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"u": (2, 5, 6), "delta": (2, 5, 6), "A": (6, 4), "B": (2, 5, 4), "C": (2, 5, 4), "D": (6,)}
    shapes |= {"z": (2, 5, 6), "delta_bias": (6,), "initial_state": (2, 6, 4)}
    inputs = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return inputs | {"A": -inputs["A"], "reset": torch.rand(2, 5, generator=generator) < 0.5}


NO_FLAGS = ["no", "", 1, 0, None, 1.5, [], Made(lambda: torch.tensor(True))]
NO_IMPLEMENTATIONS = ["fast", "CPP", "", 1, True, b"cpp", ["cpp"], {"cpp": 1}, np.array(["cpp", "triton"])]


def scan_rows() -> Iterator[Row]:
    def call(name: str, value: Any) -> object:
        return mvc.selective_scan(**scan_inputs() | {name: value})

    for name in scan_inputs():
        values = misfits(lambda name=name: scan_inputs()[name])
        yield from rows("selective_scan", name, lambda v, n=name: call(n, v), values)
    for name in ("u", "delta", "A", "B", "C"):
        yield from rows("selective_scan", name, lambda v, n=name: call(n, v), [None])
    for name in ("delta_softplus", "reverse", "return_last_state"):
        yield from rows("selective_scan", name, lambda v, n=name: call(n, v), NO_FLAGS)
    yield from rows("selective_scan", "impl", lambda v: call("impl", v), NO_IMPLEMENTATIONS)
    many = Made(lambda: -torch.ones(6, MAX_STATES + 44))
    yield from rows("selective_scan", "A", lambda v: call("A", v), {"of 300 states": many})
    yield from rows("selective_scan", "A", lambda v: call("A", v), {"of no states": Made(lambda: torch.ones(6, 0))})


def recurrence_rows() -> Iterator[Row]:
    def call(**changes: Any) -> object:
        inputs = {"a": torch.rand(2, 3, 4), "b": torch.rand(2, 3, 4), "initial": torch.rand(2, 4), "dim": 1}
        return mvc.linear_recurrence(**inputs | changes)

    for name, shape in {"a": (2, 3, 4), "b": (2, 3, 4), "initial": (2, 4)}.items():
        values = misfits(lambda shape=shape: torch.rand(shape))
        del values["complex"]
        if name != "initial":  # one axis more broadcasts: `dim` and `initial` then no longer fit
            del values["of one axis more"]
            values |= {"None": None, "of another size": Made(lambda: torch.rand(2, 3, 5))}
        yield from rows("linear_recurrence", name, lambda v, n=name: call(**{n: v}), values)
    dims = [True, 1.0, float("nan"), "1", None, [1], 3, -4, 10**30, Made(lambda: torch.tensor(1)), np.int64(1)]
    yield from rows("linear_recurrence", "dim", lambda v: call(dim=v), dims)
    yield from rows("linear_recurrence", "reverse", lambda v: call(reverse=v), NO_FLAGS)
    yield from rows("linear_recurrence", "impl", lambda v: call(impl=v), NO_IMPLEMENTATIONS)


def offset_rows() -> Iterator[Row]:
    function = "reset_from_cu_seqlens"
    offsets = {"falls": (0, 4, 2, 5), "starts late": (1, 5), "starts early": (-1, 5), "ends early": (0, 4)}
    offsets |= {"ends late": (0, 6), "ends far": (0, 2**62), "a single 0": (0,), "empty": ()}
    made = {fault: Made(lambda o=o: torch.tensor(o, dtype=INDEX)) for fault, o in offsets.items()}
    wrong = misfits(lambda: torch.tensor([0, 3, 5]))
    del wrong["meta"]  # gives a reset there, see below
    made |= wrong | {"None": None, "bool": Made(lambda: torch.tensor([False, True]))}
    made |= {"without axes": Made(lambda: torch.tensor(5))}
    for reverse in (False, True):
        run = lambda v, r=reverse: mvc.reset_from_cu_seqlens(v, 5, reverse=r)  # noqa: E731
        yield from rows(function, "cu_seqlens", run, made)
    whole = lambda: torch.tensor([0, 5])  # noqa: E731
    lengths = [-1, True, 5.0, "5", None, float("nan"), 10**30, Made(lambda: torch.tensor(5))]
    yield from rows(function, "length", lambda v: mvc.reset_from_cu_seqlens(whole(), v), lengths)
    yield from rows(function, "reverse", lambda v: mvc.reset_from_cu_seqlens(whole(), 5, reverse=v), NO_FLAGS)


# --- configuration and model

NAN, INF = float("nan"), float("inf")
NO_WHOLES = [0, -1, True, 3.0, "3", None, NAN, 10**30]
NO_SHARES = [-0.1, 1, NAN, INF, True, "0", None, 1j]
NO_FIELDS: dict[str, list[Any]] = {
    "name": [None, 1, "", b"T", ["T"]],
    "depths": [[1, 1, 2, 2], (1, 1, 2), (0, 1, 2, 2), (1, 1, 2, 2.0), (True, 1, 2, 2), "1122", None, (1, 1, 10**9, 1)],
    "num_heads": [[1, 1, 2, 4], (1, 1, 3, 4), (1, 1, 2, 0), (1, 1, 2, 4, 8), (1, 1, 2, "4"), None],
    "window_sizes": [[2, 2], (2,), (0, 2), 2, (2, 2.5), (True, True), None],
    **dict.fromkeys(("dim", "stem_dim", "d_conv", "mlp_ratio", "in_chans"), NO_WHOLES),
    "d_state": [*NO_WHOLES, 257, 300],
    "image_size": [*NO_WHOLES, 31, (224, 224)],
    "num_classes": NO_WHOLES[1:],
    **dict.fromkeys(("drop_path_rate", "drop_rate", "attn_drop_rate"), NO_SHARES),
    "layer_scale": [NAN, INF, "1", True, [1], 1j],
    "crop": [0, 1.1, NAN, True, "1", None, -1],
    "crop_mode": ["centre", None, 1, ["center"], np.array(["center", "squash"])],
    "mixer": ["conkat", None, 1, ["concat"], np.array(["concat", "gated"])],
    "attention": ["MMA", None, 1, "", ("MA", "AM", "MM"), ["MA", "AM"], ("MA", 1), "random:", "random:x", b"MA"],
    "padded_windows": [1, 0, "no", None],
    "compile_regions": [1, 0, "no", None],
    "mean": [(0.5,), (0.5,) * 4, 0.5, [0.5] * 3, None, ("a",) * 3, (NAN, 0, 0), (INF, 0, 0), (True,) * 3],
    "std": [(0.5,), (0, 1, 1), (-1, 1, 1), 0.5, [0.5] * 3, None, ("a",) * 3, (NAN, 1, 1), (INF, 1, 1)],
}


def config_rows() -> Iterator[Row]:
    for field, values in NO_FIELDS.items():
        change = lambda v, f=field: dataclasses.replace(VARIANTS["tiny"], **{f: v})  # noqa: E731
        yield from rows("MambaVisionConfig", field, change, values)
    for function in (mvc.get_config, mvc.create_model):
        variants = [None, 1, "", b"T", ["T"], "MambaVision-T", float, dataclasses.asdict(VARIANTS["T"])]
        yield from rows(function.__name__, "variant", function, variants)
        yield Row(function.__name__, "unknown field", lambda f=function: f("tiny", classes=3), "classes")
        yield Row(function.__name__, "field", lambda f=function: f("tiny", d_state=300), "d_state")
    yield from rows("MambaVision", "config", mvc.MambaVision, [None, "tiny", 1, {}, mvc.MambaVisionConfig])
    devices = ["gpu", "xla", "cpu:x", "", -1, 1.5, [], "privateuseone"]
    yield from rows("create_model", "device", lambda v: mvc.create_model("tiny", device=v), devices)
    dtypes = ["float16", 16, torch.int64, torch.complex64, torch.bool, torch.float8_e4m3fn, torch.qint8, np.float32]
    yield from rows("create_model", "dtype", lambda v: mvc.create_model("tiny", dtype=v), dtypes)


@functools.cache
def tiny(**changes: Any) -> mvc.MambaVision:
    torch.manual_seed(0)
    return mvc.create_model("tiny", **changes).eval()


def images(batch: int = 1, channels: int = 3, size: int = 32) -> Tensor:
    return torch.rand(batch, channels, size, size)


NO_IMAGES = misfits(images) | {
    "None": None,
    "of one image alone": Made(lambda: images()[0]),
    "of one channel": Made(lambda: images(channels=1)),
    "with channels last": Made(lambda: images().permute(0, 2, 3, 1)),
    "too small": Made(lambda: images(size=31)),
    "of uint8": Made(lambda: images().to(torch.uint8)),
    "of float64": Made(lambda: images().double()),
}


def forward_rows() -> Iterator[Row]:
    config = VARIANTS["tiny"]
    yield from rows("MambaVision.forward", "x", lambda v: tiny()(v), NO_IMAGES)
    yield from rows("MambaVision.forward_features", "x", lambda v: tiny().forward_features(v), NO_IMAGES)

    def call(**changes: Any) -> object:
        return functional.forward(**{"params": tiny().tensors(), "x": images(), "config": config} | changes)

    yield from rows("functional.forward", "x", lambda v: call(x=v), NO_IMAGES)
    with_autocast = torch.autocast("cpu", torch.bfloat16)
    doubles = {"of float64 under autocast": Made(lambda: images().double())}
    yield from rows("functional.forward", "x", with_autocast(lambda v: call(x=v)), doubles)
    weight = "patch_embed.conv_down.0.weight"
    params = {
        "None": None,
        "empty": {},
        "a list": [],
        "a module": Made(tiny),
        "without a head": Made(lambda: {n: t for n, t in tiny().tensors().items() if n != "head.weight"}),
        "with a number": Made(lambda: tiny().tensors() | {weight: 1}),
        "with numpy": Made(lambda: tiny().tensors() | {weight: tiny().tensors()[weight].detach().numpy()}),
        "with a bias of one number": Made(lambda: tiny().tensors() | {"head.bias": torch.ones(1)}),
        "with None for a bias": Made(lambda: tiny().tensors() | {"head.bias": None}),
        "with a gamma that the config has not": Made(
            lambda: tiny().tensors() | {"levels.2.blocks.0.gamma_1": torch.ones(64)}
        ),
        "with another head": Made(lambda: tiny().tensors() | {"head.weight": torch.ones(3, 3)}),
        "of another mixer": Made(lambda: tiny(mixer="gated").tensors()),
        "of another variant": Made(lambda: tiny(depths=(1, 1, 1, 1)).tensors()),
    }
    yield from rows("functional.forward", "params", lambda v: call(params=v), params)
    yield from rows("functional.forward", "config", lambda v: call(config=v), [None, "tiny", 1, {}])
    yield from rows("functional.forward", "training", lambda v: call(training=v), NO_FLAGS)
    count = lambda v: windows.token_counts(config, v, 64)  # noqa: E731
    yield from rows("windows.token_counts", "height", count, NO_WHOLES[:-1])


# --- weights and images


def weight_rows() -> Iterator[Row]:
    files = ["tensor", "list", "none", "empty", "number", "other", "ints", "complex", "sparse", "void", "page", "cut"]
    sources: dict[str, Any] = {name: f"{name}.pth" for name in (*files, "missing", "folder")}
    sources |= {"cut tensors": "cut.safetensors", "numpy": "tiny.npz", "a folder": ".", "a null": "a\0.pth"}
    sources |= {repr(value): value for value in (None, 1, b"right.pth", ["right.pth"], "")} | {"a path": Path("no.pth")}
    sources |= {"a model": Made(tiny), "an empty mapping": {}, "a mapping of numbers": {"norm.weight": 1}}
    sources |= {"a mapping of a sparse tensor": Made(lambda: {"norm.weight": torch.ones(2).to_sparse()})}
    sources |= {"a mapping of a meta tensor": Made(lambda: {"norm.weight": torch.ones(2, device="meta")})}
    sources |= {"a mapping of another variant": Made(lambda: tiny(dim=32).state_dict())}
    yield from rows("load_weights", "source", lambda v: mvc.load_weights(tiny(), v), sources)
    heads = [None, True, "Strict", ["reset"], np.array(["strict", "reset"])]
    yield from rows("load_weights", "head", lambda v: mvc.load_weights(tiny(), "right.pth", head=v), heads)
    yield from rows("load_weights", "ema", lambda v: mvc.load_weights(tiny(), "right.pth", ema=v), NO_FLAGS)
    models = {"a module": Made(lambda: nn.Linear(2, 2)), "on meta": Made(lambda: tiny(device="meta"))}
    models |= {"a mapping": {}, "None": None, "text": "tiny", "a class": mvc.MambaVision}
    yield from rows("load_weights", "model", lambda v: mvc.load_weights(v, "right.pth"), models)


def image_rows() -> Iterator[Row]:
    paths = [None, 1, b"page.jpg", ["page.jpg"], 3.5, "missing.jpg", "void.jpg", "page.jpg", ".", "", "a\0.jpg"]
    yield from rows("image.load_image", "path", image.load_image, paths)
    config, photo = VARIANTS["tiny"], Made(lambda: pytest.importorskip("PIL.Image").new("RGB", (80, 60)))
    no_photos = [None, 1, "cat.jpg", Made(images), np.ones((8, 8, 3), np.uint8)]
    empty = {"of no pixels": Made(lambda: pytest.importorskip("PIL.Image").new("RGB", (0, 5)))}
    for values in (no_photos, empty):
        yield from rows("image.to_rgb", "image", image.to_rgb, values)
        yield from rows("image.preprocess", "image", lambda v: image.preprocess(v, config), values)
    sizes = [64, (64,), (64, 64, 64), (31, 64), (64.5, 64), ("64", "64"), (-64, 64), (True, 64), 0, (), "64x64"]
    sizes += [(NAN, 64), (10**9, 10**9), np.array([64, 64])]
    yield from rows("image.preprocess", "size", lambda v: image.preprocess(photo.make(), config, size=v), sizes)
    yield from rows("image.preprocess", "config", lambda v: image.preprocess(photo.make(), v), [None, "tiny", 1, {}])
    grey = {"1": dataclasses.replace(config, in_chans=1)}
    yield from rows("image.preprocess", "in_chans", lambda v: image.preprocess(photo.make(), v), grey)
    scores = misfits(lambda: torch.rand(4)) | {"of two images": Made(lambda: torch.rand(2, 4)), "None": None}
    yield from rows("image.top_classes", "scores", image.top_classes, scores)
    counts = [-1, True, 1.5, "5", None]
    yield from rows("image.top_classes", "count", lambda v: image.top_classes(torch.rand(4), count=v), counts)


# --- compilation and measurement

NO_MODES = [1, True, "fast", "reduce_overhead", "", ["default"], {}]
NO_OPTIONS: dict[str, list[Any]] = {
    "options": [
        1,
        "frozen",
        ["frozen"],
        [("frozen", True)],
        {"foo": 1},
        {1: 2},
        {"cpp.nope": 1},
        {"cpp": {"threads": 1}},
        {"inductor": {"max_autotune": True}},
        {"max_autotune": "yes"},
        {"cpp.threads": "many"},
    ],
    **{name: [{name: value} for value in (1, None, "no", [])] for name in ("frozen", "verify", "strict")},
    "impl": [{"impl": value} for value in (1, "fast", ["cpp"], True)],
    "passes": [{"passes": value} for value in (1, None, "lower_scan", ["nope"], [1], {"lower_scan": 1})],
    "mode": [{"mode": value} for value in (*NO_MODES, None)],
    "dump": [{"dump": value} for value in (1, True, [], b"x", "", "void.pth", "void.pth/graphs")],
}


def compile_rows() -> Iterator[Row]:
    def call(**changes: Any) -> object:
        inputs = {"model": nn.Linear(4, 4), "example": torch.rand(2, 4), "backend": "eager"}
        with torch.no_grad():
            return mvc.compile_model(**inputs | changes)

    models = [None, 1, "tiny", mvc.MambaVision, {}, torch.nn.functional.relu]
    yield from rows("compile_model", "model", lambda v: call(model=v), models)
    examples = {name: value for name, value in NO_IMAGES.items() if name != "numpy"} | {"a tuple": (), "a size": (1, 3)}
    for dynamic in (None, True):
        run = lambda v, d=dynamic: call(model=tiny(), example=v, dynamic=d)  # noqa: E731
        yield from rows("compile_model", "example", run, examples)
    yield from rows("compile_model", "example", lambda v: call(example=v), {"too wide": Made(lambda: torch.rand(2, 5))})
    backends = [None, 1, "MVC", "aot_eager", "", ["mvc"]]
    yield from rows("compile_model", "backend", lambda v: call(backend=v), backends)
    yield from rows("compile_model", "mode", lambda v: call(mode=v), [*NO_MODES, None, "max-autotune"])
    yield from rows("compile_model", "dynamic", lambda v: call(dynamic=v), [v for v in NO_FLAGS if v is not None])
    yield from rows("compile_model", "options", lambda v: call(options=v), [{"frozen": True}, 1])
    for name, values in NO_OPTIONS.items():
        yield from rows("compile_model", name, lambda v: call(backend="mvc", options=v), values)
        yield from rows("Options.parse", name, Options.parse, values)
    yield from rows("Options", "passes", lambda v: Options(passes=v), [1, "some"])
    yield from rows("Options", "inductor", lambda v: Options(inductor=v), [1, None, ["max_autotune"]])
    yield from rows("Options.parse", "mode", lambda v: Options.parse(None, v), NO_MODES)
    for action in (pickle.dumps, copy.copy, copy.deepcopy):
        yield Row("compile_model", f"{action.__name__} of its result", lambda a=action: a(call()[0]), "compiled")

    explained = lambda v: mvc.explain(v, torch.rand(2, 4))  # noqa: E731
    yield from rows("explain", "model", explained, [None, 1, "tiny", mvc.MambaVision, {}])
    for name in ("options", "frozen", "passes"):
        values = NO_OPTIONS[name]
        yield from rows("explain", name, lambda v: mvc.explain(nn.Linear(4, 4), torch.rand(2, 4), options=v), values)
    modes = lambda v: mvc.explain(nn.Linear(4, 4), torch.rand(2, 4), mode=v)  # noqa: E731
    yield from rows("explain", "mode", modes, NO_MODES)
    no_compiled = [None, 1, "tiny", len, {}, Made(tiny), Made(lambda: torch.compile(nn.Linear(2, 2), backend="eager"))]
    no_compiled += [Made(lambda: torch.compile(nn.Linear(2, 2), backend="mvc")), Made(call), Made(lambda: call()[0])]
    yield from rows("refresh", "compiled", refresh, no_compiled)


def profiler_rows() -> Iterator[Row]:
    def call(**changes: Any) -> object:
        return profiler.measure(**{"runs": {"a": int}, "rounds": 1, "device": CPU} | changes)

    yield from rows("profiler.measure", "runs", lambda v: call(runs=v), [None, [], {}, int, [int], {"a": 1}, "a"])
    yield from rows("profiler.measure", "rounds", lambda v: call(rounds=v), NO_WHOLES[:-1])
    yield from rows("profiler.measure", "device", lambda v: call(device=v), [None, 0, "cpu", "gpu"])
    inputs = [None, (), [], "ab", (1, 2), {"a": 1}, np.ones(2)]
    yield from rows("profiler.measure", "inputs", lambda v: call(inputs=v), inputs)
    clocks = [1, True, "Wall", "graph", "events", "kernels", ["wall"]]
    yield from rows("profiler.measure", "clock", lambda v: call(clock=v), clocks)
    yield from rows("profiler.measure", "flush", lambda v: call(flush=v), NO_FLAGS)
    yield from rows("profiler.measure", "seed", lambda v: call(seed=v), [None, "a", 1.5, -1, [], True])
    yield from rows("profiler.scan_replay", "model", lambda v: profiler.scan_replay(v, images()), [None, 1, int])
    share = lambda v: profiler.Timing((1.0, 2.0)).percentile(v)  # noqa: E731
    yield from rows("profiler.Timing.percentile", "share", share, [-1, 2, NAN, "a", None, True])


# --- mamba-ssm's functions, and those beside it


def compat_inputs() -> dict[str, dict[str, Tensor]]:
    def some(**shapes: tuple[int, ...]) -> dict[str, Tensor]:
        return {name: torch.rand(shape) for name, shape in shapes.items()}

    sequence, weights = (2, 6, 5), (2, 4, 5)
    scan = some(u=sequence, delta=sequence, A=(6, 4), B=weights, C=weights, D=(6,), z=sequence, delta_bias=(6,))
    inner = some(xz=(2, 12, 5), conv1d_weight=(6, 1, 3), conv1d_bias=(6,), x_proj_weight=(10, 6), A=(6, 4), D=(6,))
    inner |= some(delta_proj_weight=(6, 2), out_proj_weight=(7, 6), out_proj_bias=(7,), delta_bias=(6,))
    step = some(state=(2, 6, 4), x=(2, 6), dt=(2, 6), A=(6, 4), B=(2, 4), C=(2, 4), D=(6,), z=(2, 6), dt_bias=(6,))
    convolution = some(x=sequence, weight=(6, 3), bias=(6,), initial_states=(2, 6, 2))
    update = some(x=(2, 6), conv_state=(2, 6, 3), weight=(6, 3), bias=(6,))
    norm = some(x=(2, 3, 5), weight=(5,), bias=(5,), residual=(2, 3, 5), x1=(2, 3, 5), weight1=(5,), rowscale=(2, 3))
    grouped = some(u=sequence, delta=sequence, A=(6, 4), B=(2, 3, 4, 5), C=(2, 3, 4, 5), D=(6,), delta_bias=(6,))
    ssd_scan = some(x=(2, 5, 4, 3), dt=(2, 5, 4), A=(4,), B=(2, 5, 2, 6), C=(2, 5, 2, 6), D=(4,), z=(2, 5, 4, 3))
    ssd_scan |= some(dt_bias=(4,), initial_states=(2, 4, 3, 6)) | {"chunk_size": 2}
    ssd_block = some(zxbcdt=(2, 5, 12 + 24 + 4), conv1d_weight=(24, 3), conv1d_bias=(24,), dt_bias=(4,), A=(4,), D=(4,))
    ssd_block |= some(rmsnorm_weight=(12,), outproj_weight=(7, 12), outproj_bias=(7,))
    return {
        "selective_scan_fn": scan,
        "mamba_inner_fn": inner,
        "selective_state_update": step,
        "bimamba_inner_fn": inner | some(A_b=(6, 4)),
        "causal_conv1d_fn": convolution,
        "causal_conv1d_update": update,
        "layer_norm_fn": norm,
        "rmsnorm_fn": some(x=(2, 3, 5), weight=(5,), bias=(5,), z=(2, 3, 5)),
        "mamba_chunk_scan_combined": ssd_scan,
        "mamba_split_conv1d_scan_combined": ssd_block | {"chunk_size": 2, "headdim": 3, "ngroups": 2},
        "oflex.fwd": grouped | {"delta_softplus": True, "nrows": 1, "out_float": True},
        "oflex.bwd": grouped | some(dout=sequence) | {"x": None, "delta_softplus": True, "nrows": 1},
    }


COMPAT = {
    "selective_scan_fn": (mamba_ssm.selective_scan_fn, "delta_softplus", "return_last_state"),
    "mamba_inner_fn": (mamba_ssm.mamba_inner_fn, "delta_softplus"),
    "selective_state_update": (mamba_ssm.selective_state_update, "dt_softplus"),
    "bimamba_inner_fn": (bimamba.bimamba_inner_fn, "delta_softplus"),
    "causal_conv1d_fn": (causal_conv1d.causal_conv1d_fn, "return_final_states"),
    "causal_conv1d_update": (causal_conv1d.causal_conv1d_update,),
    "layer_norm_fn": (layer_norm.layer_norm_fn, "prenorm", "residual_in_fp32", "is_rms_norm"),
    "rmsnorm_fn": (layer_norm_gated.rmsnorm_fn, "norm_before_gate"),
    "mamba_chunk_scan_combined": (ssd.mamba_chunk_scan_combined, "dt_softplus", "return_final_states"),
    "mamba_split_conv1d_scan_combined": (ssd.mamba_split_conv1d_scan_combined, "return_final_states"),
    "oflex.fwd": (selective_scan_cuda_oflex.fwd, "delta_softplus", "out_float"),
    "oflex.bwd": (selective_scan_cuda_oflex.bwd, "delta_softplus"),
}


def compat_rows() -> Iterator[Row]:
    for function, (run, *flags) in COMPAT.items():
        call = lambda v, n, f=function, r=run: r(**compat_inputs()[f] | {n: v})  # noqa: E731
        for name, given in compat_inputs()[function].items():
            if isinstance(given, Tensor):
                values = misfits(lambda f=function, n=name: compat_inputs()[f][n])
                if (function, name) in (("layer_norm_fn", "x"), ("rmsnorm_fn", "x")):
                    del values["of one axis more"]  # then it is the others that have too few
                yield from rows(function, name, lambda v, n=name, c=call: c(v, n), values)
        for name in flags:
            yield from rows(function, name, lambda v, n=name, c=call: c(v, n), NO_FLAGS)
    for function in ("oflex.fwd", "oflex.bwd"):
        call = lambda v, f=function: COMPAT[f][0](**compat_inputs()[f] | {"nrows": v})  # noqa: E731
        yield from rows(function, "nrows", call, [0, 5, True, "1", None, 1.5, []])
    convolve = lambda v: causal_conv1d.causal_conv1d_fn(**compat_inputs()["causal_conv1d_fn"] | {"activation": v})  # noqa: E731
    yield from rows("causal_conv1d_fn", "activation", convolve, ["relu", 1, True, [], Made(lambda: torch.rand(2))])
    ranges = [(1, 0), (0,), None, 1, ("a", "b"), (0, NAN), [0, 1, 2]]
    sizes = {"chunk_size": [0, None, 1.5, True, "2"], "dt_limit": ranges}
    for name, values in sizes.items():
        inputs = compat_inputs()["mamba_chunk_scan_combined"]
        chunked = lambda v, n=name, i=inputs: ssd.mamba_chunk_scan_combined(**i | {n: v})  # noqa: E731
        yield from rows("mamba_chunk_scan_combined", name, chunked, values)
    for name, values in {"eps": ["x", None, -1.0, NAN, []], "dropout_p": ["x", None, -1.0, 1, NAN, []]}.items():
        normalise = lambda v, n=name: layer_norm.layer_norm_fn(**compat_inputs()["layer_norm_fn"] | {n: v})  # noqa: E731
        yield from rows("layer_norm_fn", name, normalise, values)
    inner = lambda **changes: mamba_ssm.mamba_inner_fn(**compat_inputs()["mamba_inner_fn"] | changes)  # noqa: E731
    yield from rows(
        "mamba_inner_fn", "checkpoint_lvl", lambda v: inner(checkpoint_lvl=v), [2, "1", None, True, [], 1.0]
    )
    yield from rows("mamba_inner_fn", "b_c_dt_rms_eps", lambda v: inner(b_c_dt_rms_eps=v), ["x", None, -1.0, NAN, []])
    for name in ("x_proj_weight", "delta_proj_weight", "out_proj_weight"):
        half = {"of half": Made(lambda n=name: compat_inputs()["mamba_inner_fn"][n].half())}
        yield from rows("mamba_inner_fn", name, lambda v, n=name: inner(**{n: v}), half)
    expanded = {"expanded": Made(lambda: torch.rand(1, 6, 4).expand(2, 6, 4))}
    step = compat_inputs()["selective_state_update"]
    update = lambda v: mamba_ssm.selective_state_update(**step | {"state": v})  # noqa: E731
    yield from rows("selective_state_update", "state", update, expanded)


TABLES = (scan_rows, recurrence_rows, offset_rows, config_rows, forward_rows, weight_rows, image_rows, compile_rows)
ROWS = [row for table in (*TABLES, profiler_rows, compat_rows) for row in table()]
