"""The memory of generated code: counted by running its wrappers on tensors without storage."""

import json

import pytest

from mvc.offline import device, memory
from mvc.offline.manifest import Manifest, Request

pytestmark = pytest.mark.skipif(device.why_not() is not None, reason=str(device.why_not()))

WRAPPER = """
import torch
from torch._C._dynamo.guards import _empty_strided_cuda as empty_strided_cuda
from torch._C._dynamo.guards import _reinterpret_tensor as reinterpret_tensor
from torch._inductor.async_compile import AsyncCompile
async_compile = AsyncCompile()
kernel = async_compile.triton("kernel", "never compiled", device_str="cuda")

def get_args():
    from torch._dynamo.testing import rand_strided
    return [rand_strided({shape}, {stride}, device="cuda:0", dtype=torch.float32)]

def call(args):
{body}
"""
FORWARD = """
    x, = args
    args.clear()
    with torch.cuda._DeviceGuard(0):
        buf0 = empty_strided_cuda((100,), (1,), torch.float32)
        kernel.run(x, buf0, stream=0)
        buf1 = reinterpret_tensor(buf0, (50,), (1,), 0)
        buf2 = empty_strided_cuda((1000,), (1,), torch.float16)
        del buf2
        buf3 = empty_strided_cuda((1,), (1,), torch.float32)
    return (buf3, x, buf0, buf1)
"""
BACKWARD = """
    x, buf0, buf1, tangents = args
    args.clear()
    del buf0, buf1
    buf4 = empty_strided_cuda((600,), (1,), torch.float32)
    return (buf4,)
"""


def test_views_count_once_and_what_is_deleted_no_more(tmp_path):
    request = Request("tiny", 1, 64, 64, "float32", training=True)
    interfaces = {"forward": {"inputs": ["x"]}, "backward": {"inputs": ["x", "buf0", "buf1", "tangents"]}}
    manifest = Manifest("sm_90", "stand-in", request, {}, (), {}, interfaces, ["x"])
    (tmp_path / "manifest.json").write_text(json.dumps(manifest.as_dict()))
    (tmp_path / "forward.py").write_text(WRAPPER.format(shape=(10,), stride=(1,), body=FORWARD))
    (tmp_path / "backward.py").write_text(WRAPPER.format(shape=(10,), stride=(1,), body=BACKWARD))
    found = memory.measured(tmp_path)
    assert found.inputs == 40
    assert found.saved == 400  # buf1 is a view of it, and x an input
    assert (
        found.peak == 40 + 4 + 2400
    )  # in the backward, when what the forward saved is gone: x, a cotangent, a gradient


@pytest.mark.slow
def test_a_training_step_on_a_gpu_keeps_less_than_inductors(generated):
    ours, stock = (
        memory.measured(
            generated(Request("tiny", 8, 64, 64, "float16", training=True, passes=passes), "sm_90", kernels=False)
        )
        for passes in ("all", "none")
    )
    assert ours.inputs == stock.inputs
    assert ours.saved < 0.8 * stock.saved
    assert ours.peak < stock.peak
