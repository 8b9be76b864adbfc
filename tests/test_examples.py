"""Every example runs, as a user would run it; those that measure run at small sizes."""

import subprocess
import sys
from importlib.util import find_spec

import pytest
from places import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SIZES = {
    "bidirectional_block": ("--batch=2", "--channels=16", "--length=9"),
    "train_a_detector": ("--steps=2", "--images=1", "--test=2"),
    "train_a_segmenter": ("--steps=2", "--images=2", "--test=2"),
    "transformers_mamba": ("--layers=1", "--hidden=32", "--length=16"),
    "u_mamba": ("--channels=4", "--image=8"),
    "vim": ("--channels=16", "--depth=1", "--image=32"),
    "vm_unet": ("--channels=8", "--image=16"),
}
NEEDS = {
    "train_a_detector": ("torchvision", "pycocotools", "PIL"),
    "train_a_segmenter": ("PIL",),
    "transformers_mamba": ("transformers",),
}


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path):
    for package in NEEDS.get(path.stem, ()):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    command = [sys.executable, str(path), *SIZES.get(path.stem, ())]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_docs_quote_the_example_of_a_pass():
    example = (ROOT / "examples" / "a_pass_of_your_own.py").read_text()
    quoted = example[example.index("@dataclasses") : example.index("def model")].strip()
    assert quoted in (ROOT / "docs" / "backend.md").read_text()
