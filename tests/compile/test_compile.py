"""python -m mvc.compile as a user runs it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import golden
import pytest
import torch
from places import DATA, ROOT

from mvc import create_model, load_weights
from mvc.cli import write_json
from mvc.compile import __main__ as compiling, report, torch_private
from mvc.compile.__main__ import main
from mvc.compile.compiler import CompileReport
from mvc.errors import UserError
from mvc.measure.ladder import Rung
from mvc.model.image import load_image, preprocess, top_classes

PHOTO = DATA / "chelsea.png"
QUICK = ["--variant", "tiny", "--batch", "2", "--size", "64", "--repeats", "2", "--backend", "eager"]


def flattened(facts: dict, prefix: str = "") -> set[str]:
    keys = set()
    for key, value in facts.items():
        keys |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key}
    return keys


@pytest.fixture(scope="module")
def inductor_run(tmp_path_factory):
    """One cold run with Inductor: its exit status and facts."""
    path = tmp_path_factory.mktemp("run") / "facts.json"
    status = main(["--variant", "tiny", "--batch", "2", "--size", "64", "--repeats", "3", "--json", str(path)])
    return status, json.loads(path.read_text())


@pytest.mark.slow
def test_inductor_run_passes_in_one_graph(inductor_run):
    status, facts = inductor_run
    assert status == 0
    assert facts["schema"] == report.SCHEMA
    assert facts["check"]["passed"]
    assert facts["compile"]["graphs"] == 1
    assert facts["compile"]["recompiles"] == 0
    assert facts["compile"]["scans"] == 2
    assert facts["compile"]["frozen"]
    assert facts["compile"]["seconds"] > 0
    assert facts["model"]["parameters"] == sum(p.numel() for p in create_model("tiny").parameters())


@pytest.mark.slow
def test_json_is_documented(inductor_run):
    assert flattened(inductor_run[1]) == set(report.FIELDS)


@pytest.mark.slow
def test_explained_frozen_run(tmp_path, capsys):
    arguments = ["--variant", "tiny", "--batch", "2", "--size", "64", "--repeats", "1", "--regions"]
    dump = tmp_path / "graphs"
    assert main([*arguments, "--explain", "--verify", "--dump", str(dump), "--json", str(tmp_path / "facts.json")]) == 0
    out = capsys.readouterr().out
    for text in ("pass", "lower_scan", "nodes before", "launches", "read and written"):
        assert text in out
    explanation = json.loads((tmp_path / "facts.json").read_text())["explanation"]
    (graph,) = explanation["graphs"]
    matches = {record["name"]: record["matches"] for record in graph["passes"] if not record["region"]}
    assert matches["lower_scan"] == 2
    assert (dump / "graph_0").is_dir()
    assert sum(explanation["launches"].values()) > 0


def test_ladder_operators_trace_and_picture(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib, of the extra `plot`, is not installed")
    files = {name: tmp_path / f"facts.{name}" for name in ("json", "svg", "trace")}
    ladder = ["--ladder", "reference", "eager", "reference"]
    arguments = [*ladder, "--operators", "--inputs", "2", "--json", str(files["json"])]
    assert main([*QUICK, *arguments, "--plot", str(files["svg"]), "--trace", str(files["trace"])]) == 0
    out = capsys.readouterr().out
    for text in ("reference", "over eager", "2 inputs in turn", "of matmul's rate", "wall time of one call"):
        assert text in out
    facts = json.loads(files["json"].read_text())
    assert [row["name"] for row in facts["ladder"]] == ["eager", "compiled", "reference"], "each once"
    assert all(row.keys() == {"name", "compile_seconds", *report.ROW} for row in facts["ladder"])
    assert sum(row["seconds"] for row in facts["operators"]["rows"]) > 0
    assert all(path.is_file() for path in files.values())


@pytest.mark.parametrize(
    ("arguments", "rung", "same"),
    [
        (["--backend", "inductor"], "inductor", True),
        (["--backend", "inductor", "--dynamic"], "inductor", False),
        (["--backend", "mvc"], "mvc", False),
        (["--backend", "mvc"], "frozen", True),
        (["--backend", "mvc", "--frozen"], "frozen", True),
        (["--backend", "mvc", "--no-frozen"], "mvc", True),
        (["--backend", "mvc", "--passes", "lower_scan"], "mvc:lower_scan", False),
        (["--backend", "mvc", "--no-frozen", "--passes", "lower_scan"], "mvc:lower_scan", True),
        (["--backend", "eager"], "reference", False),
    ],
)
def test_a_rung_that_is_what_was_compiled_is_not_built_again(arguments, rung, same, monkeypatch):
    """Compiled and rungs are the model itself here; what counts is which are asked for."""
    built = []
    seconds = CompileReport("eager", "default", None, None)
    monkeypatch.setattr(compiling, "compile_model", lambda model, x, **options: (model, seconds))
    monkeypatch.setattr(compiling, "build", lambda name, model, x, **options: built.append(name) or Rung(name, model))
    monkeypatch.setattr(compiling, "measure", lambda *arguments, **options: None)
    monkeypatch.setattr(compiling, "Results", lambda **facts: facts)
    facts = compiling.run(compiling._parser().parse_args([*QUICK, "--quiet", *arguments, "--ladder", rung]))
    assert built == ([] if same else [rung])
    assert [each.name for each in facts["rungs"]] == ["eager", "compiled", rung]


@pytest.mark.parametrize(
    ("arguments", "how"),
    [
        ("", "mvc (default, frozen)"),
        ("--no-frozen", "mvc (default, not frozen)"),
        ("--train", "mvc (default, not frozen)"),
        ("--backend inductor", "inductor (default)"),
    ],
)
def test_inference_is_frozen_unless_asked_otherwise(arguments, how, monkeypatch, capsys):
    """Nothing is generated here: the graph runs as the passes leave it."""
    monkeypatch.setattr(torch_private, "inductor", lambda graph_module, *_, **__: graph_module.forward)
    assert main(["--variant", "tiny", "--batch", "2", "--size", "32", "--repeats", "1", *arguments.split()]) == 0
    assert f"compiled with {how} in " in capsys.readouterr().out


@pytest.mark.slow
def test_generated_kernels_have_names_and_bytes_in_the_operators(capsys):
    assert main([*QUICK, "--backend", "mvc", "--operators", "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    generated = [row for row in facts["operators"]["rows"] if row["name"].startswith("cpp_fused")]
    assert generated
    assert all(row["bytes"] > 0 for row in generated)
    rate = facts["operators"]["flop_rate"]
    assert 0 < rate <= facts["timing"]["ceiling_flops"], "a matrix product's, of the same run"


def test_table_and_progress_say_what_was_measured(capsys):
    assert main([*QUICK, "--image", str(PHOTO)]) == 0
    out, err = capsys.readouterr()
    for text in ("MambaVision-tiny, inference, batch 2, 64 x 64, float32", "check passed", "1 graph(s)", "speed-up"):
        assert text in out
    assert "the weights are random" in out
    for step in ("building the model", "compiling with eager", "checking against eager", "measuring 2 rounds"):
        assert step in err


def test_json_on_standard_output_is_alone_there(capsys):
    assert main([*QUICK, "--quiet", "--json", "-"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["model"]["variant"] == "tiny"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training(dtype, capsys):
    assert main([*QUICK, "--train", "--dtype", dtype, "--json", "-"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["model"]["training"]
    assert facts["check"]["passed"]
    inference_flops = 2e9 * facts["model"]["gmacs"] * facts["model"]["batch"]
    eager = facts["timing"]["eager"]
    flops = eager["share_of_ceiling"] * facts["timing"]["ceiling_flops"] * eager["median_seconds"]
    assert flops == pytest.approx(3 * inference_flops, rel=0.1), "forward and backward are three times the forward"


def test_json_is_whole_or_absent(tmp_path):
    facts = {"a": 1.5}
    write_json(facts, str(tmp_path / "facts.json"))
    assert json.loads((tmp_path / "facts.json").read_text()) == facts
    with pytest.raises(UserError, match="cannot write --json"):
        write_json(facts, str(tmp_path))
    write_json(facts, os.devnull)
    assert [path.name for path in tmp_path.iterdir()] == ["facts.json"]
    assert not Path(os.devnull).is_file()


@pytest.mark.parametrize("more", [[], ["--train"]], ids=["inference", "training"])
def test_dynamic_serves_another_batch_with_one_graph(more, capsys):
    assert main([*QUICK, *more, "--dynamic", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["compile"]["graphs"] == 1


def test_failed_check_is_exit_status_1(monkeypatch, capsys):
    compile_exactly = torch.compile

    def compile_wrongly(model, **options):
        compiled = compile_exactly(model, **options)
        return lambda x: compiled(x) * (1 + 1e-4)

    monkeypatch.setattr(torch, "compile", compile_wrongly)
    assert main(QUICK) == 1
    assert "check FAILED" in capsys.readouterr().out


@pytest.fixture(scope="module")
def published_t(tmp_path_factory):
    """The golden T weights in a file of the published format."""
    path = tmp_path_factory.mktemp("weights") / "mambavision_tiny_1k.pth.tar"
    golden.save_published(golden.weights("T"), path)
    return path


def test_photo_and_published_weights_give_eager_classes(published_t, capsys, caplog):
    arguments = ["--variant", "T", "--backend", "eager", "--batch", "1", "--repeats", "1"]
    assert main([*arguments, "--weights", str(published_t), "--image", str(PHOTO), "--json", "-"]) == 0
    out = capsys.readouterr().out
    assert "CC-BY-NC" in caplog.text
    model = create_model("T").eval()
    load_weights(model, published_t)
    with torch.no_grad():
        scores = model(preprocess(load_image(PHOTO), model.config))
    classes = json.loads(out)["classes"]
    assert [name for name, _ in classes] == [name for name, _ in top_classes(scores)]
    assert [p for _, p in classes] == pytest.approx([p for _, p in top_classes(scores)], rel=1e-4)


# Arguments in which {tmp} is a folder with notes.txt, no photograph, and cut.pth, a truncated checkpoint.
ERRORS = {
    "unknown variant": (["--variant", "Q"], "unknown variant 'Q'"),
    "near variant": (["--variant", "L3-512"], "did you mean L3-512-21K"),
    "missing image": (["--image", "{tmp}/no.png"], "no.png"),
    "not an image": (["--image", "{tmp}/notes.txt"], "notes.txt"),
    "missing weights": (["--weights", "{tmp}/no.pth"], "no.pth"),
    "damaged weights": (["--weights", "{tmp}/cut.pth"], "cut.pth"),
    "image and train": (["--image", str(PHOTO), "--train"], "--train"),
    "huge size": (["--size", "3000000000"], "out of memory"),
    "frozen training": (["--train", "--frozen"], "--frozen is for inference"),
    "frozen without passes": (["--frozen"], "options is {'frozen': True}, which is for a compiler"),
    "unknown pass": (["--backend", "mvc", "--passes", "raise_lop"], "passes has 'raise_lop'"),
    "mode without Inductor": (["--mode", "max-autotune"], "mode is 'max-autotune', which is for a compiler"),
    "unknown rung": (["--ladder", "stock"], "'stock' is no rung of the ladder"),
    "frozen rung in training": (["--train", "--ladder", "frozen"], "'frozen' is for inference"),
    "picture of another kind": (["--plot", "{tmp}/ladder.pdf"], "is neither .png nor .svg"),
    "clock of a GPU": (["--clock", "events", "--device", "cpu"], "clock is 'events', which needs CUDA"),
    "cache of a GPU": (["--flush-l2", "--device", "cpu"], "flushing the L2 cache needs CUDA"),
    "trace nowhere": (["--trace", "{tmp}/no/trace.json"], "cannot write --trace"),
    "json nowhere": (["--json", "{tmp}/no/facts.json"], "cannot write --json"),
    "picture nowhere": (["--plot", "{tmp}/no/ladder.svg"], "cannot write --plot"),
    "json in a folder's place": (["--json", "{tmp}"], "it is a folder; name a file"),
    "graphs of graphs": (["--clock", "graph", "--mode", "reduce-overhead"], "--mode reduce-overhead captures itself"),
    "graphs of tuned graphs": (["--clock", "graph", "--mode", "max-autotune"], "--mode max-autotune captures itself"),
}
EARLY = [case for case in ERRORS if case.endswith("nowhere") or "place" in case or "graphs" in case]


@pytest.mark.parametrize("case", ERRORS)
def test_error_is_one_sentence_and_exit_status_2(case, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no photograph")
    checkpoint = tmp_path / "cut.pth"
    torch.save(create_model("tiny").state_dict(), checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    arguments, fragment = ERRORS[case]
    assert main([*QUICK, "--quiet", *(argument.format(tmp=tmp_path) for argument in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert fragment in err


@pytest.mark.parametrize("case", EARLY)
def test_what_would_fail_after_long_work_fails_before(case, tmp_path, monkeypatch):
    monkeypatch.setattr("mvc.compile.__main__.create_model", lambda *arguments, **options: pytest.fail("it began"))
    assert main([*QUICK, *(argument.format(tmp=tmp_path) for argument in ERRORS[case][0])]) == 2


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--size", "16"], "below the least size"),
        (["--size", "64x"], "neither a number of pixels nor HxW"),
        (["--seed", "99999999999999999999"], "not a whole number from 0 to"),
        (["--batch", "0"], "not a whole number of at least 1"),
        (["--backend", "tvm"], "invalid choice: 'tvm'"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_unusable_argument_is_named(arguments, fragment, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert fragment in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_no_gpu_is_one_sentence(capsys):
    assert main([*QUICK, "--quiet", "--device", "cuda"]) == 2
    assert "no CUDA device; use --device cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory; use a smaller --batch"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), "out of memory"),
        (NotImplementedError("\"conv\" not implemented for 'Half'"), "use --dtype float32"),
    ],
    ids=["cuda", "cpu", "dtype"],
)
def test_what_the_machine_lacks_is_one_sentence(raised, sentence, monkeypatch, capsys):
    def fail(*arguments, **options):
        raise raised

    monkeypatch.setattr("mvc.compile.__main__.compile_model", fail)
    assert main([*QUICK, "--quiet"]) == 2
    assert sentence in capsys.readouterr().err


def command(*arguments: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "mvc.compile", "--variant", "tiny", "--size", "64", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored where the tests run in background
    )


def test_no_compiler_is_one_sentence():
    process = command("--quiet", "--device", "cpu", CXX="/nonexistent/g++")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2, err
    assert err.startswith("error: Inductor needs a C++ compiler")


@pytest.mark.slow
def test_interrupt_leaves_nothing_behind(tmp_path):
    process = command(TMPDIR=str(tmp_path))
    deadline = time.monotonic() + 120
    while not list(tmp_path.rglob("*.cpp")):  # the C++ compiler is at work
        assert time.monotonic() < deadline, "no code was generated"
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())
