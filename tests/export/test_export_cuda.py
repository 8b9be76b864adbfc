"""Packages for a GPU, generated with a stand-in for the card: what they hold, what they need and when they are refused.

No kernel can run here: that the code is right is shown where there is a card.
"""

import re
import struct
import subprocess
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from export_cases import Squeezes, WithoutLibraries
from small_models import EACH_KIND_ONCE
from torch import nn

import mvc
from mvc.errors import UserError
from mvc.export import cuda, torch_private
from mvc.export.loading import load
from mvc.export.sizes import Sizes
from mvc.offline import child, device
from mvc.offline.targets import find

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not())),
]
CUDA_BINARY = 190  # e_machine of <elf.h>
LATER_ABI = 8  # EI_ABIVERSION from which e_flags has the architecture in its second byte

RUN = """
import sys, torch
run = torch._inductor.aoti_load_package(sys.argv[1])
print([tuple(run(torch.zeros(batch, 40, 16, device="cuda")).shape) for batch in (1, 3, 64)])
"""


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return WithoutLibraries().eval()


@pytest.fixture(scope="module")
def package(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("cuda") / "scan.pt2"
    written = mvc.export_model(model, torch.zeros(8, 40, 16), path, frozen=False, target="sm_90")
    assert (written.device, written.sizes) == ("sm_90", "1:64 40 16")
    return path


def library(package: Path) -> bytes:
    with zipfile.ZipFile(package) as archive:
        (name,) = (each for each in archive.namelist() if each.endswith(".so"))
        return archive.read(name)


def architectures(library: bytes) -> list[int]:
    """Of the kernels' binaries, which lie in the library whole."""
    headers = [match.start() for match in re.finditer(rb"\x7fELF", library)]
    binaries = [at for at in headers if struct.unpack_from("<H", library, at + 18)[0] == CUDA_BINARY]
    return [library[at + 48 + (library[at + 8] >= LATER_ABI)] for at in binaries]


def facts(library: bytes, *command: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".so") as file:
        file.write(library)
        file.flush()
        return subprocess.run([*command, file.name], check=True, capture_output=True, text=True).stdout


def needs_only_the_card(library: bytes) -> None:
    undefined = set(re.findall(r"U (\w+)", facts(library, "nm", "-D", "--undefined-only")))
    assert {"cuModuleLoadData", "cuLaunchKernel"} <= undefined
    assert not {each for each in undefined if each.startswith("aoti_torch_cpu_") or "proxy_executor" in each}
    dynamic = facts(library, "readelf", "-d")
    assert "[libcuda.so.1]" in dynamic
    assert "PATH" not in dynamic  # no folder of the machine that generated it


def test_kernels_of_the_card_lie_in_the_package(package):
    found = architectures(library(package))
    assert len(found) >= 2
    assert set(found) == {90}
    needs_only_the_card(library(package))


def test_weights_lie_in_the_package(model, package):
    assert model.A.detach().numpy().tobytes() in library(package)


def test_package_says_what_it_is_for(package):
    said = torch_private.metadata_of(package)
    assert said.items() >= {"mvc.sizes": "1:64 40 16", "mvc.device": "sm_90", "mvc.isa": cuda.HOST}.items()


def test_every_batch_is_launched(package, tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    arguments = [str(tmp_path / "run.py"), str(package)]
    done = device.run(arguments, find("sm_90"), scratch=tmp_path, timeout=300, launches=True)
    assert done.returncode == 0, child.reason(done)
    assert done.stdout.strip() == "[(1, 40, 16), (3, 40, 16), (64, 40, 16)]"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_loading_without_the_card_is_refused(package):
    with pytest.raises(UserError, match=r"its code is for a GPU \(sm_90\), and torch finds none"):
        load(package)


def test_unknown_card_is_refused(model, tmp_path):
    with pytest.raises(UserError, match="target is 'sm_1'"):
        cuda.write(model, (), tmp_path / "a.pt2", Sizes({}), frozen=True, metadata={}, target="sm_1")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(device.present(find("sm_90")) is not None, reason="there is such a card")
def test_local_class_is_refused(tmp_path):
    class Local(nn.Module):
        pass

    with pytest.raises(UserError, match="Local, whose class the process that generates code cannot import"):
        cuda.write(Local(), (), tmp_path / "a.pt2", Sizes({}), frozen=True, metadata={}, target="sm_90")


@pytest.mark.skipif(device.present(find("sm_90")) is not None, reason="there is such a card")
def test_code_that_computes_something_else_for_one_image_is_refused(tmp_path):
    with pytest.raises(UserError, match="it computes something else for 1x6"):
        mvc.export_model(Squeezes().eval(), torch.ones(4, 6), tmp_path / "a.pt2", target="sm_90")
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
def test_a_model_with_frozen_weights(tmp_path, target):
    torch.manual_seed(0)
    model, path = mvc.create_model("tiny", dtype=torch.float16, **EACH_KIND_ONCE).eval(), tmp_path / "tiny.pt2"
    x = torch.zeros(8, 3, 64, 64, dtype=torch.float16)
    cuda.write(model, (x,), path, Sizes.parse("batch"), frozen=True, metadata={}, target=target)
    assert set(architectures(library(path))) == {find(target).compute_capability}
    needs_only_the_card(library(path))
