"""`python -m mvc.export`: what it writes, says and refuses."""

import json
import subprocess
import sys

import pytest

from mvc.export.__main__ import _points, main

TINY = ("--variant", "tiny", "--size", "64", "--batch", "1:32", "--quiet")


@pytest.mark.slow
def test_a_package_is_written_compared_and_described(tmp_path, capsys):
    path, facts = tmp_path / "tiny.pt2", tmp_path / "tiny.json"
    assert main([*TINY, "--output", str(path), "--json", str(facts)]) == 0
    said = capsys.readouterr().out
    assert f"{path}: " in said
    assert "torch._inductor.aoti_load_package" in said
    read = json.loads(facts.read_text())
    assert [each["batch"] for each in read["compared"]] == [1, 3, 32]
    assert all(each["error"] <= each["limit"] for each in read["compared"])
    assert read["sizes"] == "1:32 3 64 64"
    assert read["bytes"] == path.stat().st_size
    assert read["load_seconds"] > 0


def test_a_file_that_disagrees_with_eager_is_reported(tmp_path, capsys, monkeypatch):
    path = tmp_path / "tiny.exported"
    monkeypatch.setattr("mvc.export.__main__.load", lambda path: lambda x: x.new_zeros((x.shape[0], 10)))
    assert main([*TINY, "--custom-ops", "--output", str(path)]) == 1
    assert "1.0e+00" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--output", "tiny.bin"), "it must be a file that ends in .pt2, .onnx, .exported"),
        (("--output", "no/tiny.pt2"), "there is no folder no"),
        (("--output", "tiny.pt2", "--variant", "Q"), "unknown variant 'Q'"),
        (("--output", "tiny.pt2", "--weights", "missing.pth"), "missing.pth"),
        (("--output", "tiny.onnx", "--isa", "avx2"), "isa is 'avx2', which is for format 'pt2' on a CPU"),
        (
            ("--output", "tiny.pt2", "--isa", "avx2", "--device", "sm_90"),
            "isa is 'avx2', which is for format 'pt2' on a CPU",
        ),
        (("--output", "tiny.onnx", "--device", "sm_90"), "target is 'sm_90', which is for format 'pt2' on a GPU"),
        (("--output", "tiny.onnx", "--custom-ops"), "custom_ops is True"),
        (("--output", "tiny.pt2", "--json", "no/tiny.json"), "cannot write --json no/tiny.json"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, *arguments]) == 2
    message = capsys.readouterr().err.strip()
    assert message.startswith("error: ")
    assert said in message
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--batch", "8:1"), "write 1:8"),
        (("--batch", "0"), "not a whole number of at least 1"),
        (("--size", "16"), "below the least size"),
        (("--size", "64x64x64"), "neither a range of pixels nor HxW"),
        (("--isa", "mmx"), "invalid choice"),
        ((), "--output"),
    ],
)
def test_wrong_options_are_explained(arguments, said, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*arguments, *(("--output", "tiny.pt2") if arguments else ())])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err


def test_batches_that_are_compared_are_the_least_an_odd_one_and_the_largest():
    assert [point["batch"] for point in _points({"batch": (1, 64)})] == [1, 3, 64]
    assert [point["batch"] for point in _points({"batch": (4, 64)})] == [4, 5, 64]
    assert [point["batch"] for point in _points({"batch": (8, 8)})] == [8]


def test_the_help_has_examples():
    done = subprocess.run([sys.executable, "-m", "mvc.export", "--help"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "python -m mvc.export --variant T --output t.pt2" in done.stdout
