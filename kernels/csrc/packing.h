// Weights in oneDNN's own layout, for AOTInductor packages: they call these functions when they are loaded, on the
// processor that runs them. mvc::pack_linear and mvc::pack_convolution are the same calls in Python.

#pragma once

#include <ATen/core/List.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>

#include <cstdint>
#include <vector>

namespace mvc {

inline c10::List<int64_t> listed(const int64_t* values, int64_t count) {
  return c10::List<int64_t>(c10::ArrayRef<int64_t>(values, count));
}

template <typename... Arguments>
AtenTensorHandle packed(const char* op, AtenTensorHandle weight, Arguments... arguments) {
  c10::Stack stack{*torch::aot_inductor::tensor_handle_to_tensor_pointer(weight), arguments...};
  c10::Dispatcher::singleton().findSchemaOrThrow(op, "").callBoxed(stack);
  return torch::aot_inductor::new_tensor_handle(at::Tensor(stack.front().toTensor()));
}

}  // namespace mvc

#define MVC_EXPORTED extern "C" __attribute__((visibility("default")))

MVC_EXPORTED AOTITorchError aoti_torch_cpu_pack_linear(AtenTensorHandle weight, int64_t rows, AtenTensorHandle* packed) {
  AOTI_TORCH_CONVERT_EXCEPTION_TO_ERROR_CODE({ *packed = mvc::packed("mkldnn::_reorder_linear_weight", weight, rows); });
}

MVC_EXPORTED AOTITorchError aoti_torch_cpu_pack_convolution(AtenTensorHandle weight, const int64_t* padding,
                                                            int64_t paddings, const int64_t* stride, int64_t strides,
                                                            const int64_t* dilation, int64_t dilations, int64_t groups,
                                                            const int64_t* input_size, int64_t input_sizes,
                                                            AtenTensorHandle* packed) {
  AOTI_TORCH_CONVERT_EXCEPTION_TO_ERROR_CODE({
    *packed = mvc::packed("mkldnn::_reorder_convolution_weight", weight, mvc::listed(padding, paddings),
                          mvc::listed(stride, strides), mvc::listed(dilation, dilations), groups,
                          mvc::listed(input_size, input_sizes));
  });
}
