"""`examples/cpp`: built with CMake against the installed torch, it says of photographs and tensors what Python says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from places import ROOT

import mvc
from mvc.export import isa
from mvc.model.image import class_names, load_image, preprocess, top_classes

pytestmark = pytest.mark.slow

SOURCES = ROOT / "examples" / "cpp"
LIBRARIES = {".ppm": "", ".jpg": "libjpeg", ".png": "libpng"}  # that decode them
PRINTED = 0.5e-4  # a probability is printed in hundredths of a per cent
LEVELS = 5e-3  # of probabilities, where some pixels differ by one level of 255


@pytest.fixture(scope="module")
def runner(tmp_path_factory) -> Path:
    """The program, built."""
    cmake = shutil.which("cmake", path=str(Path(sys.executable).parent)) or shutil.which("cmake")
    if cmake is None or shutil.which(os.environ.get("CXX", "c++")) is None:
        pytest.skip("there is no CMake or no C++ compiler")
    build = tmp_path_factory.mktemp("build")
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    for command in ([cmake, "-S", str(SOURCES), "-B", str(build), prefix], [cmake, "--build", str(build)]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning:" not in done.stdout + done.stderr
    return build / "classify"


@pytest.fixture(scope="module")
def model() -> mvc.MambaVision:
    """With 1,000 classes of clearly different probabilities."""
    torch.manual_seed(0)
    made = mvc.create_model("tiny", num_classes=1000, crop=0.875).eval()
    with torch.no_grad():
        made.get_parameter("head.weight").mul_(100)
    return made


@pytest.fixture(scope="module")
def package(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("package") / "tiny.pt2"
    mvc.export_model(model, torch.randn(2, 3, 64, 64), path, dynamic={"batch": (1, 8)})
    return path


@pytest.fixture(scope="module")
def photograph():
    """Coloured squares, wider than high."""
    image = pytest.importorskip("PIL.Image", reason="Pillow, of the extra `image`, is not installed")
    squares = np.random.default_rng(0).integers(0, 256, (6, 8, 3))
    return image.fromarray(np.kron(squares, np.ones((50, 50, 1))).astype(np.uint8))


def run(runner: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess:
    command = [str(runner), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def linked(runner: Path) -> str:
    return subprocess.run(["ldd", str(runner)], capture_output=True, text=True, check=True).stdout


def classes(output: str) -> list[list[tuple[str, float]]]:
    """What was printed of each image: names and probabilities."""
    images = []
    for line in output.splitlines():
        if found := re.fullmatch(r" +([\d.]+) %  (.+)", line):
            images[-1].append((found[2], float(found[1]) / 100))
        elif not line.startswith("loaded in "):
            images.append([])
    return images


def assert_agree(printed: list[tuple[str, float]], scores: torch.Tensor, tolerance: float) -> None:
    every = top_classes(scores, count=len(class_names()))
    best, *_ = every
    assert len(printed) == 5
    assert printed[0][0] == best[0]
    for (name, probability), (_, expected_here) in zip(printed, every, strict=False):
        nearest = min(abs(probability - expected) for other, expected in every if other == name)
        assert nearest <= tolerance, f"{name}: {probability:.4f}"
        assert abs(probability - expected_here) <= tolerance, f"{name} is printed out of order"


def with_metadata(package: Path, path: Path, **changes: str) -> Path:
    """A copy of the package that says something else of itself."""
    with zipfile.ZipFile(package) as source, zipfile.ZipFile(path, "w") as copy:
        for each in source.infolist():
            content = source.read(each)
            if each.filename.endswith("_metadata.json"):
                for key, value in changes.items():
                    content = re.sub(rb'("mvc\.%s": )"[^"]*"' % key.encode(), rb'\1"%s"' % value.encode(), content)
            copy.writestr(each, content)
    return path


@pytest.mark.parametrize("name", ["a.ppm", "a.jpg", "a.png", "turned.jpg", "see-through.png", "grey.png"])
def test_a_photograph(runner, package, model, photograph, tmp_path, name):
    library = LIBRARIES[Path(name).suffix]
    if library not in linked(runner):
        pytest.skip(f"{library} is not installed")
    options = {}
    if name == "turned.jpg":
        options["exif"] = photograph.getexif()
        options["exif"][0x0112] = 6
    elif name == "see-through.png":
        photograph = photograph.copy()
        photograph.putalpha(photograph.getchannel("G"))
    elif name == "grey.png":
        photograph = photograph.convert("L")
    path = tmp_path / name
    photograph.save(path, **options)
    done = run(runner, package, path)
    assert done.returncode == 0, done.stderr
    (printed,) = classes(done.stdout)
    with torch.no_grad():
        assert_agree(printed, model(preprocess(load_image(path), model.config)), LEVELS)


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_raw_tensor(runner, package, model, tmp_path, batch):
    x = torch.randn(batch, 3, 64, 64)
    x.numpy().tofile(tmp_path / "x.raw")
    done = run(runner, package, tmp_path / "x.raw")
    assert done.returncode == 0, done.stderr
    printed = classes(done.stdout)
    assert len(printed) == batch
    with torch.no_grad():
        for each, scores in zip(printed, model(x), strict=True):
            assert_agree(each, scores, 3 * PRINTED)


def test_a_free_size_is_named(runner, package, tmp_path):
    free = with_metadata(package, tmp_path / "free.pt2", sizes="1:8 3 64:96 64:96")
    torch.zeros(1, 3, 64, 64).numpy().tofile(tmp_path / "x.raw")
    reasons = {(): "a height of 64 to 96; name the size with --size", ("--size", "64x97"): "64 to 96, not 97"}
    for size, reason in reasons.items():
        done = run(runner, free, *size, tmp_path / "x.raw")
        assert done.returncode == 2
        assert reason in done.stderr
    assert run(runner, free, "--size", "64x64", tmp_path / "x.raw").returncode == 0


def test_no_python_in_the_process(runner, package, tmp_path):
    torch.zeros(1, 3, 64, 64).numpy().tofile(tmp_path / "x.raw")
    done = run(runner, package, tmp_path / "x.raw", LD_DEBUG="files")
    assert done.returncode == 0, done.stderr
    libraries = re.findall(r"calling init: (\S+)", done.stderr)
    assert any(path.endswith("libtorch_cpu.so") for path in libraries)
    assert any("libmvc" in path for path in libraries), "the package's own library of C++ ops"
    assert [path for path in libraries if "python" in Path(path).name] == []


def test_a_package_for_another_processor_is_refused(runner, package, tmp_path):
    torch.zeros(1, 3, 64, 64).numpy().tofile(tmp_path / "x.raw")
    other = with_metadata(package, tmp_path / "other.pt2", isa="vector_of_tomorrow")
    done = run(runner, other, tmp_path / "x.raw", LD_DEBUG="files")
    assert done.returncode == 2
    assert f"{other} cannot run here: its code needs vector_of_tomorrow, which this processor lacks" in done.stderr
    assert f"--isa {isa.here()}\n" in done.stderr
    assert "aotinductor_" not in "".join(re.findall(r"calling init: (\S+)", done.stderr)), "code was loaded"


def test_instruction_sets_are_those_of_the_export():
    text = (SOURCES / "package.cpp").read_text()
    rows = re.findall(r'\{"(\w+)", \{("[^}]*)?\}\}', text[text.index("kInstructionSets =") :])
    flags: set[str] = set()
    table = {}
    for name, needed in rows:
        flags |= set(re.findall(r"\w+", needed))
        table[name] = set(flags)
    assert table == {name: set(each.flags) for name, each in isa.X86.items()}


def test_a_package_for_a_gpu_needs_one(runner, package, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one here")
    torch.zeros(1, 3, 64, 64).numpy().tofile(tmp_path / "x.raw")
    done = run(runner, with_metadata(package, tmp_path / "gpu.pt2", device="sm_90"), tmp_path / "x.raw")
    assert done.returncode == 2
    assert "is for a CUDA card of sm_90" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((), "a package and at least one file are needed"),
        (("PACKAGE",), "a package and at least one file are needed"),
        (("PACKAGE", "--bogus", "x.raw"), "unknown option --bogus"),
        (("PACKAGE", "--size", "64", "x.raw"), "--size wants HEIGHTxWIDTH"),
        (("PACKAGE", "--size", "96x64", "x.raw"), "the package takes a height of 64, not 96"),
        (("missing.pt2", "x.raw"), "there is no package missing.pt2"),
        (("x.raw", "x.raw"), "x.raw is no package of AOTInductor"),
        (("PACKAGE", "missing.ppm"), "cannot read the photograph missing.ppm"),
        (("PACKAGE", "."), "cannot read the photograph ."),
        (("PACKAGE", "cut.ppm"), "cut.ppm is cut short"),
        (("PACKAGE", "words.txt"), "words.txt is in no format"),
        (("PACKAGE", "cut.raw"), "cut.raw has 1000 bytes"),
        (("PACKAGE", *["x.raw"] * 9), "the package takes at most 8 images at once, not 9"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_arguments_are_one_sentence(runner, package, tmp_path, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    x = torch.zeros(1, 3, 64, 64).numpy()
    x.tofile("x.raw")
    Path("cut.raw").write_bytes(x.tobytes()[:1000])
    Path("cut.ppm").write_bytes(b"P6\n# a comment\n40 30 255\n" + bytes(100))
    Path("words.txt").write_text("words")
    done = run(runner, *(package if each == "PACKAGE" else each for each in arguments))
    assert done.returncode == 2
    assert done.stderr.startswith(f"classify: {reason}")
    assert done.stderr.count("\n") == 1
