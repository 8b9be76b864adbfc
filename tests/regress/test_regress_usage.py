"""Input of the gate that cannot be used: one sentence each, and a status of its own."""

import pytest

from mvc.errors import UserError
from mvc.regress import cases
from mvc.regress.__main__ import main
from mvc.regress.sources.revisions import resolve


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "no-such-revision", "HEAD"], "'no-such-revision' is no file and no commit"),
        (["compare", __file__, __file__], "is no JSON"),
        (
            ["compare", __file__, "HEAD"],
            "one is a file; give two recordings, a folder of them",
        ),
        (["compare", "HEAD", "HEAD", "--only", "X"], "--only has 'X'; the cases are"),
        (["compare", "HEAD", "HEAD", "--cases", "no-such.toml"], "--cases no-such.toml cannot be read"),
        (["compare", "HEAD", "HEAD", "--rounds", "4"], "5 <= least <= most"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_unusable_input_exits_with_64(arguments, message, capsys):
    assert main([*arguments]) == 64
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["compare"], ["record"], ["compare", "a", "b", "--rounds", "x"]])
def test_wrong_usage_exits_with_64_too(arguments):
    with pytest.raises(SystemExit) as exit:
        main(arguments)
    assert exit.value.code == 64


def test_outside_git_recordings_are_the_remedy(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UserError, match="not a git repository"):
        resolve("HEAD", "HEAD")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no cases"),
        ("[", "is no TOML file"),
        ("x = 1\n[cases.a]", "has 'x'"),
        ("[cases.a]\nspeed = 1", "'speed' is unknown; known are name, kind"),
        ('[cases.a]\nkind = "train"', "kind is 'train'; it must be model or scan"),
        ("[cases.a]\nbatch = 0", "batch is 0; it must be at least 1"),
        ('[cases.a]\nbatch = "2"', "batch is '2'; it must be of type int"),
        ("[cases.a]\nbatch = true", "batch is True; it must be of type int"),
        ('[cases.a]\ntraining = "false"', "training is 'false'; it must be true or false"),
        ('[cases.a]\nmode = "fast"', "mode is 'fast'; it must be default or"),
        ("[cases.a]\n[thresholds]\nrounds = [20.5, 60]", r"rounds is \[20\.5, 60\]; it must be \[int, int\]"),
        ("[cases.a]\n[thresholds]\neffect = 5", "effect is 5; it must lie between 0 and 1"),
        ("[cases.a]\n[thresholds]\nconfidence = 1.5", "confidence is 1.5"),
        ('[cases.a]\n[cases.b]\ndevice = "cuda"', "cases are on cpu and cuda"),
    ],
)
def test_a_wrong_cases_file_is_one_sentence(text, message, tmp_path):
    path = tmp_path / "cases.toml"
    path.write_text(text)
    with pytest.raises(cases.UserError, match=message):
        cases.load(path)


def test_the_default_cases_are_those_under_bench():
    suite = cases.load()
    assert {"scan", "T"} <= {case.name for case in suite.cases}
    assert suite.thresholds == cases.Thresholds()
