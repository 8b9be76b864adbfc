"""python -m mvc.detect: photographs in, a table, pictures and COCO's results out."""

from __future__ import annotations

import functools
import json
import shutil

import pytest
import torch
from places import DATA

from mvc import detect
from mvc.tasks import command
from mvc.tasks.detection import create_detector

pil = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
mask = pytest.importorskip("pycocotools.mask", reason="pycocotools is not installed")
pytest.importorskip("torchvision", reason="torchvision is not installed")

CAT = DATA / "chelsea.png"  # 451 x 300
EAGER = ["--variant", "tiny", "--no-compile", "--threshold", "0.0129"]  # a little above 1/81


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Narrow heads, and photographs of few pixels."""
    monkeypatch.setattr(detect, "create_detector", functools.partial(create_detector, width=16, window_sizes=(8, 4)))
    monkeypatch.setattr(detect, "DETECTION_BOUNDS", (96, 64))


def test_table_pictures_and_results(tmp_path, capsys):
    out, results = tmp_path / "found" / "here", tmp_path / "r.json"
    assert detect.main([str(CAT), *EAGER, "--output", str(out), "--json", str(results)]) == 0
    printed = capsys.readouterr()
    assert "the weights are random: what is found means nothing" in printed.err
    head, _, *rows = printed.out.splitlines()
    assert head.split() == ["photograph", "object", "score", "x1", "y1", "x2", "y2", "mask", "pixels"]
    found = json.loads(results.read_text())
    assert 0 < len(found) == len(rows) <= 100
    for row, result in zip(rows, found, strict=True):
        assert result["image_id"] == "chelsea.png"
        x, y, width, height = result["bbox"]
        assert 0 <= x <= x + width <= 451.01
        assert 0 <= y <= y + height <= 300.01
        assert result["segmentation"]["size"] == [300, 451]
        assert int(row.split()[-1]) == mask.area(result["segmentation"])
        assert float(row.split()[-6]) == pytest.approx(result["score"], abs=6e-4)
    with pil.open(out / "chelsea.png") as picture, pil.open(CAT) as photograph:
        assert picture.size == photograph.size
        assert picture.tobytes() != photograph.tobytes()


def test_json_alone_is_printed(capsys):
    assert detect.main([str(CAT), *EAGER, "--json", "-", "--quiet"]) == 0
    printed = capsys.readouterr()
    assert len(json.loads(printed.out)) > 0
    assert printed.err == ""


def test_nothing_found_is_said(tmp_path, capsys):
    results = tmp_path / "r.json"
    assert detect.main([str(CAT), *EAGER[:-1], "1", "--json", str(results), "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["chelsea.png", "nothing"]
    assert json.loads(results.read_text()) == []
    assert (tmp_path / "chelsea.png").exists()


def test_a_folder_with_an_unreadable_photograph(tmp_path, capsys):
    photographs, out = tmp_path / "photographs", tmp_path / "out"
    photographs.mkdir()
    for name in ("000000000139.png", "b.PNG"):
        shutil.copy(CAT, photographs / name)
    (photographs / "broken.jpg").write_bytes(b"no picture")
    (photographs / "notes.txt").write_text("not looked at")
    status = detect.main([str(photographs), str(CAT), *EAGER, "--output", str(out), "--json", str(tmp_path / "r.json")])
    assert status == command.UNREAD == 1
    printed = capsys.readouterr()
    assert "error: cannot read image path" in printed.err
    assert "broken.jpg" in printed.err
    assert sorted(path.name for path in out.iterdir()) == ["000000000139.png", "b.png", "chelsea.png"]
    found = json.loads((tmp_path / "r.json").read_text())
    assert {each["image_id"] for each in found} == {139, "b.PNG", "chelsea.png"}


def test_photographs_of_one_name_have_pictures_of_their_own(tmp_path):
    paths = [tmp_path / "a" / "x.png", tmp_path / "b" / "x.jpg", tmp_path / "c" / "x-2.jpg"]
    names = [path.name for path in command.pictures("out", paths).values()]
    assert names == ["x.png", "x-2.png", "x-2-2.png"]


def test_a_photograph_is_never_replaced(tmp_path, capsys):
    shutil.copy(CAT, tmp_path / "a.png")
    assert detect.main([str(tmp_path), *EAGER, "--output", str(tmp_path)]) == 2
    assert f"would replace the photograph {tmp_path / 'a.png'}; name another folder" in capsys.readouterr().err
    assert (tmp_path / "a.png").read_bytes() == CAT.read_bytes()


@pytest.mark.parametrize("kind", ["cascade", "mask_rcnn"])
def test_weights_and_kind(tmp_path, capsys, kind):
    torch.manual_seed(5)
    model = create_detector("tiny", kind=kind, width=16, window_sizes=(8, 4))
    torch.save({"message_hub": {}, "state_dict": model.state_dict()}, tmp_path / "w.pth")
    results = [tmp_path / "random.json", tmp_path / "loaded.json"]
    for target, weights in zip(results, ([], ["--weights", str(tmp_path / "w.pth")]), strict=True):
        assert detect.main([str(CAT), *EAGER, "--kind", kind, *weights, "--json", str(target)]) == 0
        assert ("random" in capsys.readouterr().err) != bool(weights)
    assert results[0].read_text() != results[1].read_text()


def test_the_licence_is_said_at_loading(tmp_path, caplog):
    model = create_detector("tiny", width=16, window_sizes=(8, 4))
    torch.save({"message_hub": {}, "state_dict": model.state_dict()}, tmp_path / "w.pth")
    assert detect.main([str(CAT), *EAGER, "--weights", str(tmp_path / "w.pth")]) == 0
    assert "if it holds them, their licence is CC-BY-NC-SA-4.0 (non-commercial use only)" in caplog.text


def test_half_precision(capsys):
    assert detect.main([str(CAT), *EAGER, "--dtype", "bfloat16"]) == 0
    assert "chelsea.png" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no.png"], "PHOTO no.png does not exist"),
        ([str(DATA / "golden")], "without a photograph"),
        ([str(CAT), "--variant", "XXL"], "unknown variant 'XXL'"),
        ([str(CAT), "--weights", "no.pth"], "cannot open source 'no.pth'"),
        ([str(CAT), "--json", "no/r.json"], "cannot write --json no/r.json"),
        ([str(CAT), "--output", str(CAT)], "cannot make --output"),
    ],
)
def test_unusable_input(arguments, message, capsys):
    assert detect.main([*arguments, *(EAGER if "--variant" not in arguments else EAGER[2:])]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("threshold", ["2", "-0.1", "high", "nan"])
def test_unusable_threshold(threshold, capsys):
    with pytest.raises(SystemExit) as stopped:
        detect.main([str(CAT), f"--threshold={threshold}"])
    assert stopped.value.code == 2
    assert "is not a number from 0 to 1" in capsys.readouterr().err


def test_the_examples_in_the_help_are_understood():
    lines = [line.strip() for line in detect.EXAMPLES.splitlines() if "python -m mvc.detect" in line]
    assert len(lines) == 4
    for line in lines:
        detect._parser().parse_args(line.split()[3:])


def matched(found: list[dict], others: list[dict]) -> float:
    """The share of what was found that has a counterpart: of its class, to 1e-4 of its score, a tenth of a pixel away
    at most."""
    close = [
        any(
            one["category_id"] == other["category_id"]
            and one["score"] == pytest.approx(other["score"], abs=1e-4)
            and one["bbox"] == pytest.approx(other["bbox"], abs=0.1)
            for other in others
        )
        for one in found
    ]
    return sum(close) / len(close)


@pytest.mark.slow
def test_compiled_backbone(tmp_path, fresh_dynamo):
    """By mvc, what eager finds, but for what hangs on which of two nearly equal proposals is better."""
    torch.manual_seed(0)
    model = create_detector("tiny", width=16, window_sizes=(8, 4))
    with torch.no_grad():  # sure of what it sees: equal scores of all classes would have no order
        for head in model.roi_head.bbox_head:
            head.fc_cls.weight.mul_(30)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    common = [str(CAT), "--variant", "tiny", "--weights", str(tmp_path / "w.pth"), "--threshold", "0.3"]
    found = []
    for options in (["--no-compile"], []):
        target = tmp_path / f"{len(found)}.json"
        assert detect.main([*common, *options, "--json", str(target)]) == 0
        found.append(json.loads(target.read_text()))
    eager, compiled = found
    assert len(eager) > 50
    assert min(matched(eager, compiled), matched(compiled, eager)) > 0.95
