"""The memory of generated code: counted by running its wrappers on tensors without storage."""

import dataclasses

import pytest
import torch

from mvc.errors import UserError
from mvc.offline import codegen, device, memory
from mvc.offline.manifest import Manifest, Memory, Request

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
    (tmp_path / "forward.py").write_text(WRAPPER.format(shape=(10,), stride=(1,), body=FORWARD))
    (tmp_path / "backward.py").write_text(WRAPPER.format(shape=(10,), stride=(1,), body=BACKWARD))
    # Saved: buf1 is a view of buf0, and x an input. Most is alive in the backward, when what the forward saved is gone:
    # x, a cotangent, a gradient.
    assert memory.measured(tmp_path, kept=3) == Memory(inputs=40, saved=400, peak=40 + 4 + 2400)


@pytest.mark.slow
def test_a_training_step_on_a_gpu_keeps_less_than_inductors(generated):
    """Under autocast. Without recomputation, what the passes fuse is the only difference."""
    asked = Request("tiny", 8, 64, 64, "float16", training=True, autocast=True)
    requests = (asked, dataclasses.replace(asked, recompute=False), dataclasses.replace(asked, passes="none"))
    ours, kept, stock = (Manifest.read(generated(each, "sm_90", kernels=False)).memory for each in requests)
    model = codegen.build(asked, "meta")
    tensors = [*model.parameters(), *model.buffers()]
    assert {each.dtype for each in tensors} == {torch.float32, torch.int64}
    images = 4 * 8 * 3 * 64 * 64
    assert ours.inputs == kept.inputs == stock.inputs == images + sum(each.nbytes for each in tensors)
    assert ours.saved < 0.9 * kept.saved
    assert ours.saved < 0.9 * stock.saved
    assert ours.peak < min(kept.peak, stock.peak)


@pytest.mark.parametrize(("training", "dtype"), [(False, "float16"), (True, "float32")])
def test_autocast_is_for_training_in_half_precision(training, dtype):
    with pytest.raises(UserError, match="autocast is True; it must be for training in half precision alone"):
        Request("tiny", 1, 64, 64, dtype, training=training, autocast=True)
