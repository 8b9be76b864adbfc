// In place of nv/target, which comes with no package of torch or triton: CUDA's headers of half precision ask it which code
// is for the device. For a C++ compiler none is.
#pragma once

#define NV_IF_ELSE_TARGET(condition, on_device, ...) { __VA_ARGS__ }
