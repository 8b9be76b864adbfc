"""`python -m mvc.compile --target`: what it prints and writes, its exit status, and what it refuses."""

import dataclasses
import json

import pytest
from offline_sample import sample

from mvc.compile.__main__ import main
from mvc.errors import UserError
from mvc.offline import command, device, report
from mvc.offline.manifest import Memory
from mvc.offline.targets import TARGETS
from mvc.passes.accuracy import Check

needs_device = pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command with the sample in the place of what it would generate and replay; its exit status."""
    monkeypatch.chdir(tmp_path)
    made = {"manifest": sample(), "replay": Check("scores", 3e-7, 3e-7, 1e-5), "calls": []}

    def generate(request, target, folder, **options):
        folder.mkdir(parents=True, exist_ok=True)
        made["calls"].append((request, target.name, folder, options))
        return dataclasses.replace(made["manifest"], model=request)

    monkeypatch.setattr(command, "generate", generate)
    monkeypatch.setattr(command, "replay", lambda folder: [made["replay"]])

    def run(*arguments):
        return main(["--variant", "T", "--target", "sm_90", "--quiet", *arguments])

    run.made = made
    return run


def test_the_defaults_are_those_of_the_command(run, tmp_path, capsys):
    assert run() == 0
    ((request, target, folder, options),) = run.made["calls"]
    assert (request.variant, request.batch, request.height, request.dtype) == ("T", 8, 224, "float32")
    assert (request.passes, request.kernels, request.frozen, request.training) == ("all", "own", True, False)
    assert (target, str(folder), options) == ("sm_90", "T-sm_90", {"sass": False})
    printed = capsys.readouterr().out
    assert report.NOT_SHOWN in printed
    assert "code, binaries and report: T-sm_90" in printed
    assert (tmp_path / "T-sm_90" / "report.md").is_file()


@pytest.mark.parametrize("arguments", [["--no-frozen"], ["--train"], ["--backend", "inductor"]])
def test_weights_are_not_frozen_where_that_has_no_meaning_or_is_not_wanted(run, arguments):
    assert run(*arguments) == 0
    assert not run.made["calls"][0][0].frozen


def test_a_training_step_under_autocast_says_what_memory_it_takes(run, capsys):
    run.made["manifest"] = sample(memory=Memory(inputs=2**20, saved=3 * 2**20, peak=5 * 2**20))
    assert run("--train", "--dtype", "float16", "--autocast", "--no-recompute") == 0
    ((request, *_),) = run.made["calls"]
    assert (request.training, request.autocast, request.recompute, request.stored) == (True, True, False, "float32")
    printed = capsys.readouterr().out
    assert "training step, batch 8, 224 x 224, float16 by autocast, passes all, recompute False" in printed
    assert "3 MiB kept for the backward, 5 MiB at most" in printed
    assert run("--train", "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["memory"] == {"inputs": 2**20, "saved": 3 * 2**20, "peak": 5 * 2**20}


def test_a_replay_is_at_batch_1(run):
    assert run("--replay", "--output", "out") == 0
    assert [(request.batch, str(folder)) for request, _, folder, _ in run.made["calls"]] == [
        (8, "out"),
        (1, "out/batch-1"),
    ]
    assert run("--replay", "--batch", "1") == 0
    assert len(run.made["calls"]) == 3


def test_a_replay_beyond_its_limit_exits_with_1(run, capsys):
    run.made["replay"] = Check("scores", 2e-5, 3e-7, 1e-5)
    assert run("--replay") == 1
    assert "BEYOND THE LIMIT" in capsys.readouterr().out


def test_a_result_that_is_no_number_is_null_in_json(run, capsys):
    run.made["replay"] = Check("scores", float("nan"), 3e-7, 1e-5)
    assert run("--replay", "--json", "-") == 1
    assert json.loads(capsys.readouterr().out)["replay"]["error"] is None


def test_the_report_stays_where_the_replay_fails(run, tmp_path, monkeypatch, capsys):
    def replay(folder):
        raise UserError("the generated code cannot be replayed: broken")

    monkeypatch.setattr(command, "replay", replay)
    assert run("--replay") == 2
    assert capsys.readouterr().err == "error: the generated code cannot be replayed: broken\n"
    assert (tmp_path / "T-sm_90" / "report.md").is_file()


def test_budgets_are_written_kept_and_not_kept(run, capsys):
    assert run("--update-budget", "budgets") == 0
    assert "budget written: budgets/sm_90.json" in capsys.readouterr().out
    assert run("--check-budget", "budgets") == 0
    assert "budget kept" in capsys.readouterr().out
    run.made["manifest"] = sample(launches=sample().launches[1:])
    assert run("--check-budget", "budgets", "--json", "facts.json") == 1
    assert "budget: launches: 4 allowed, 3 generated" in capsys.readouterr().out
    with open("facts.json") as file:
        facts = json.load(file)
    assert facts["format"] == "mvc.offline/2"
    assert facts["budget"][0] == "budget: launches: 4 allowed, 3 generated"
    assert facts["replay"] is None


def test_a_budget_of_other_versions_is_said_and_not_enforced(run, capsys):
    assert run("--update-budget", "budgets") == 0
    run.made["manifest"] = sample(launches=(), kernels={}, versions={"torch": "2.13.0", "triton": "3.8.0", "mvc": "0"})
    assert run("--check-budget", "budgets") == 0
    assert "not enforced: the budget holds for torch 2.14.1; here is torch 2.13.0" in capsys.readouterr().out


def test_json_alone(run, capsys):
    assert run("--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["target"] == "sm_90"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--backend", "eager"], "--backend eager generates no code; use mvc or inductor with --target"),
        (["--backend", "inductor", "--frozen"], "--passes, --frozen, --recompute and --kernels are of"),
        (["--backend", "inductor", "--kernels", "own"], "--passes, --frozen, --recompute and --kernels are of"),
        (["--kernels", "measured"], "kernels is 'measured'; it must be 'own' or 'library', since nothing can be timed"),
        (["--recompute"], "--recompute is for training; add --train or leave it out"),
        (["--autocast"], "autocast is True; it must be for training in half precision alone"),
        (["--passes", "nosuch"], "passes has 'nosuch'; it must hold passes, or names among raise_loop"),
        (["--frozen", "--train"], "--frozen is for inference; leave it or --train out"),
        (["--repeats", "3"], "--repeats has no meaning with --target; leave it out"),
        (["--device", "cuda"], "--device has no meaning with --target; leave it out"),
        (["--variant", "XS"], "unknown variant 'XS'"),
        (["--check-budget", "nowhere"], "nowhere/sm_90.json cannot be read"),
        (["--check-budget", "--update-budget"], "--update-budget overwrites what --check-budget compares with"),
        (["--target", "sm_70"], "target is 'sm_70'; it must be one of sm_80, sm_90, h200, sm_100"),
    ],
)
def test_what_has_no_meaning_is_refused(run, arguments, sentence, capsys):
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {sentence}")
    assert error.count("\n") == 1


@pytest.mark.parametrize("arguments", [["--sass"], ["--replay"], ["--output", "x"], ["--check-budget"]])
def test_options_of_generated_code_need_a_target(arguments, capsys):
    assert main(["--variant", "T", *arguments]) == 2
    assert f"error: {arguments[0]} is for generated GPU code; name a card with --target" in capsys.readouterr().err


def test_the_help_names_every_card(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    printed = capsys.readouterr().out
    assert all(name in printed for name in TARGETS)


def test_a_machine_that_cannot_is_one_sentence(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(device, "why_not", lambda: "triton is not installed; install it")
    assert main(["--variant", "tiny", "--target", "sm_90", "--output", str(tmp_path / "out"), "--quiet"]) == 2
    assert capsys.readouterr().err == "error: triton is not installed; install it\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_device
def test_the_command_generates_checks_and_reports(tmp_path, capsys):
    arguments = ["--variant", "tiny", "--batch", "2", "--size", "64", "--dtype", "bfloat16", "--quiet"]
    files = ["--output", str(tmp_path / "out"), "--json", str(tmp_path / "out.json")]
    assert main([*arguments, "--target", "sm_80", *files, "--replay", "--update-budget", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    for part in ("sm_80 (NVIDIA A100", "0 with spills", "within the limit", "budget written", report.NOT_SHOWN):
        assert part in printed
    facts = json.loads((tmp_path / "out.json").read_text())
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert facts.items() >= manifest.items()
    assert 0 < facts["replay"]["error"] <= facts["replay"]["limit"]
