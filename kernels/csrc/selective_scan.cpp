// Registers mvc::selective_scan_cpu and its backward, and mvc::linear_recurrence_cpu: checks, strides and dtypes of tensors,
// then the kernels.

#include <ATen/Dispatch.h>
#include <ATen/core/Tensor.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <initializer_list>
#include <optional>
#include <tuple>

#include "backward.h"
#include "linear_recurrence.h"
#include "packing.h"
#include "processor.h"

namespace mvc {
namespace {

using at::Tensor;
using Optional = const std::optional<Tensor>&;

constexpr auto kInputs =
    "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? D, Tensor? z, Tensor? delta_bias, "
    "Tensor? initial_state, Tensor? reset, bool delta_softplus, bool reverse";

// Of sequences and weights; states and A are float32 alone.
bool is_taken(at::ScalarType type) { return type == at::kFloat || type == at::kHalf || type == at::kBFloat16; }

// Forward-mode AD goes through torch's own operations: an op that is called as such would lose a tangent.
void refuse_tangents(const char* op, std::initializer_list<std::optional<Tensor>> tensors) {
  for (Optional t : tensors)
    TORCH_CHECK_NOT_IMPLEMENTED(!t || !t->_fw_grad(0).defined(), "torch.ops.mvc.", op,
                                " was given a forward-mode tangent, which an op cannot pass on; call mvc.selective_scan or "
                                "mvc.linear_recurrence, inside the dual level, in its place");
}

// The tensors of a call, checked, and in the dtypes that the kernels take.
struct Arguments {
  Sizes sizes;
  at::ScalarType dtype;
  Tensor u, delta, A, B, C, D, z, delta_bias, initial_state, reset;  // undefined where absent
  bool softplus, reverse;

  Arguments(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, Optional D, Optional z,
            Optional delta_bias, Optional initial_state, Optional reset, bool softplus, bool reverse)
      : softplus(softplus), reverse(reverse) {
    refuse_tangents("selective_scan_cpu", {u, delta, A, B, C, D, z, delta_bias, initial_state});
    TORCH_CHECK_VALUE(u.dim() == 3, "u must be (batch, length, dim), got shape ", u.sizes());
    TORCH_CHECK_VALUE(A.dim() == 2, "A must be (dim, N), got shape ", A.sizes());
    sizes = {u.size(0), u.size(1), u.size(2), A.size(1), 1};
    TORCH_CHECK_VALUE(1 <= sizes.states && sizes.states <= 256, "A has ", sizes.states, " states; N must be from 1 to 256");
    dtype = u.scalar_type();
    this->u = sequence("u", u, u.sizes());
    this->delta = sequence("delta", delta, u.sizes());
    this->z = z ? sequence("z", *z, u.sizes()) : Tensor();
    this->B = weights("B", B);
    this->C = weights("C", C);
    TORCH_CHECK_VALUE(B.dim() != 4 || C.dim() != 4 || B.size(2) == C.size(2), "B and C must have the same number of groups, got ",
                      B.sizes(), " and ", C.sizes());
    if (B.dim() == 4 || C.dim() == 4) sizes.groups = B.dim() == 4 ? B.size(2) : C.size(2);
    for (auto* t : {&this->u, &this->delta, &this->z, &this->B, &this->C})
      if (t->defined()) *t = t->to(dtype);
    this->A = parameter("A", A, {sizes.dim, sizes.states}, false);
    this->D = D ? parameter("D", *D, {sizes.dim}, true) : Tensor();
    this->delta_bias = delta_bias ? parameter("delta_bias", *delta_bias, {sizes.dim}, true) : Tensor();
    if (initial_state)
      this->initial_state = parameter("initial_state", *initial_state, {sizes.batch, sizes.dim, sizes.states}, false);
    if (reset) {
      TORCH_CHECK_TYPE(reset->scalar_type() == at::kBool, "reset must be bool, got ", reset->scalar_type());
      check("reset", *reset, {sizes.batch, sizes.length});
      this->reset = *reset;
    }
  }

  bool empty() const { return sizes.batch == 0 || sizes.length == 0 || sizes.dim == 0; }

  template <typename T>
  Inputs<T> inputs() const {
    Inputs<T> in;
    in.sizes = sizes;
    in.u = as_sequence<const T>(u);
    in.delta = as_sequence<const T>(delta);
    in.z = as_sequence<const T>(z);
    in.B = as_weights<T>(B);
    in.C = as_weights<T>(C);
    in.reset = as_sequence<const bool>(reset);
    in.A = pointer(A);
    in.D = pointer(D);
    in.delta_bias = pointer(delta_bias);
    in.initial_state = pointer(initial_state);
    in.softplus = softplus;
    in.reverse = reverse;
    return in;
  }

  template <typename T>
  Sequence<T> as_sequence(const Tensor& t) const {
    if (!t.defined()) return {};
    T* data;
    if constexpr (std::is_const_v<T>)
      data = t.const_data_ptr<std::remove_const_t<T>>();
    else
      data = t.mutable_data_ptr<T>();
    const int64_t step = t.stride(1);
    return {reverse ? data + (sizes.length - 1) * step : data, t.stride(0), reverse ? -step : step,
            t.dim() == 3 ? t.stride(2) : 0};
  }

 private:
  static void check(const char* name, const Tensor& t, at::IntArrayRef shape) {
    TORCH_CHECK_VALUE(t.sizes() == shape, name, " must have shape ", shape, ", got ", t.sizes());
    TORCH_CHECK_VALUE(t.device().is_cpu(), name, " must be on the CPU, got ", t.device());
  }

  Tensor sequence(const char* name, const Tensor& t, at::IntArrayRef shape) {
    check(name, t, shape);
    const auto type = t.scalar_type();
    TORCH_CHECK_TYPE(is_taken(type), name, " must be float32, float16 or bfloat16, got ", type,
                     "; the chunked scan takes float64");
    if (type != dtype) dtype = at::kFloat;  // mixed: all of them go through float32
    return t;
  }

  Tensor weights(const char* name, const Tensor& t) {
    if (t.dim() == 2) return sequence(name, t, {sizes.dim, sizes.states});
    TORCH_CHECK_VALUE(t.dim() == 4, name, " must be (batch, length, groups, N) or constant (dim, N), got shape ", t.sizes());
    const int64_t groups = t.size(2);
    TORCH_CHECK_VALUE(groups > 0 && sizes.dim % groups == 0, name, " has ", groups,
                      " groups; their number must divide u's dim ", sizes.dim);
    return sequence(name, t, {sizes.batch, sizes.length, groups, sizes.states});
  }

  static Tensor parameter(const char* name, const Tensor& t, at::IntArrayRef shape, bool any_dtype) {
    check(name, t, shape);
    TORCH_CHECK_TYPE(any_dtype ? is_taken(t.scalar_type()) : t.scalar_type() == at::kFloat, name, " must be float32",
                     any_dtype ? ", float16 or bfloat16" : "", ", got ", t.scalar_type());
    return t.to(at::kFloat).contiguous();
  }

  static const float* pointer(const Tensor& t) { return t.defined() ? t.const_data_ptr<float>() : nullptr; }

  template <typename T>
  Weights<const T> as_weights(const Tensor& t) const {
    const T* data = t.const_data_ptr<T>();
    if (t.dim() == 2) return {data, 0, 0, t.stride(0), t.stride(1), true};
    const int64_t step = t.stride(1);
    return {reverse ? data + (sizes.length - 1) * step : data, t.stride(0), reverse ? -step : step, t.stride(2), t.stride(3), false};
  }
};

#define REAL_CASES(...) AT_DISPATCH_CASE(at::kFloat, __VA_ARGS__) AT_DISPATCH_CASE_REDUCED_FLOATING_TYPES(__VA_ARGS__)
#define DISPATCH(dtype, ...) AT_DISPATCH_SWITCH(dtype, "selective_scan", REAL_CASES(__VA_ARGS__))
#define DISPATCH_WITH_COMPLEX(dtype, ...) \
  AT_DISPATCH_SWITCH(dtype, "linear_recurrence", REAL_CASES(__VA_ARGS__) AT_DISPATCH_CASE_COMPLEX_TYPES(__VA_ARGS__))

std::tuple<Tensor, Tensor> selective_scan(const Tensor& u, const Tensor& delta, const Tensor& A, const Tensor& B,
                                          const Tensor& C, Optional D, Optional z, Optional delta_bias,
                                          Optional initial_state, Optional reset, bool delta_softplus, bool reverse) {
  const Arguments args(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse);
  const Sizes& sizes = args.sizes;
  Tensor y = at::empty({sizes.batch, sizes.length, sizes.dim}, u.options().dtype(args.dtype));
  Tensor last_state = at::zeros({sizes.batch, sizes.dim, sizes.states}, u.options().dtype(at::kFloat));
  if (args.empty()) {
    if (initial_state) last_state.copy_(*initial_state);
  } else {
    DISPATCH(args.dtype, [&] {
      forward(args.inputs<scalar_t>(), args.as_sequence<scalar_t>(y), last_state.mutable_data_ptr<float>());
    });
  }
  return {y.to(u.scalar_type()), last_state};
}

using NineTensors = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor>;

NineTensors selective_scan_backward(const Tensor& grad_y, const Tensor& grad_last_state, const Tensor& u,
                                    const Tensor& delta, const Tensor& A, const Tensor& B, const Tensor& C, Optional D,
                                    Optional z, Optional delta_bias, Optional initial_state, Optional reset,
                                    bool delta_softplus, bool reverse) {
  const Arguments args(u, delta, A, B, C, D, z, delta_bias, initial_state, reset, delta_softplus, reverse);
  const Sizes& sizes = args.sizes;
  refuse_tangents("selective_scan_cpu_backward", {grad_y, grad_last_state});
  TORCH_CHECK_VALUE(grad_y.sizes() == u.sizes(), "grad_y must have shape ", u.sizes(), ", got ", grad_y.sizes());
  const std::vector<int64_t> state_shape{sizes.batch, sizes.dim, sizes.states};
  TORCH_CHECK_VALUE(grad_last_state.sizes() == state_shape, "grad_last_state must have shape ", state_shape, ", got ",
                    grad_last_state.sizes());
  const auto floats = u.options().dtype(at::kFloat);
  auto like = [](const Tensor& sum, const Tensor& input) { return sum.to(input.scalar_type()).contiguous(); };
  auto if_given = [&](const Tensor& sum, Optional input) { return input ? like(sum, *input) : at::empty({0}, grad_y.options()); };
  if (args.empty()) {
    auto zeros = [](const Tensor& t) { return at::zeros(t.sizes(), t.options()); };
    auto zeros_if = [&](Optional t) { return t ? zeros(*t) : at::empty({0}, grad_y.options()); };
    return {zeros(u), zeros(delta), zeros(A), zeros(B), zeros(C), zeros_if(D), zeros_if(z), zeros_if(delta_bias),
            if_given(grad_last_state.clone(), initial_state)};
  }
  const Plan plan(sizes, max_ranges(sizes, c10::elementSize(args.dtype)), 0);
  const int64_t rows = sizes.batch * plan.segments;
  const Tensor grad_out = grad_y.to(args.dtype), grad_last = grad_last_state.to(at::kFloat).contiguous();
  auto sequence = [&] { return at::empty(u.sizes(), u.options().dtype(args.dtype)); };
  auto weights = [&](const Tensor& t) {
    if (t.dim() == 2) return at::empty({rows, sizes.dim, sizes.states}, floats);
    return at::empty({sizes.batch, sizes.length, sizes.groups, sizes.states}, floats);
  };
  auto shared = [&] { return at::empty({plan.ranges - 1, sizes.batch, sizes.length, sizes.states}, floats); };
  const Tensor grad_u = sequence(), grad_delta = sequence(), grad_z = z ? sequence() : Tensor();
  const Tensor grad_A = at::empty({rows, sizes.dim, sizes.states}, floats), grad_B = weights(B), grad_C = weights(C);
  const Tensor shared_B = shared(), shared_C = shared();
  const Tensor grad_D = at::empty({rows, sizes.dim}, floats), grad_bias = at::empty({rows, sizes.dim}, floats);
  const Tensor grad_initial = at::empty(state_shape, floats);
  DISPATCH(args.dtype, [&] {
    Gradients<scalar_t> out;
    out.u = args.as_sequence<scalar_t>(grad_u);
    out.delta = args.as_sequence<scalar_t>(grad_delta);
    out.z = args.as_sequence<scalar_t>(grad_z);
    out.A = grad_A.mutable_data_ptr<float>();
    out.B = grad_B.mutable_data_ptr<float>();
    out.C = grad_C.mutable_data_ptr<float>();
    out.shared_B = shared_B.mutable_data_ptr<float>();
    out.shared_C = shared_C.mutable_data_ptr<float>();
    out.D = grad_D.mutable_data_ptr<float>();
    out.delta_bias = grad_bias.mutable_data_ptr<float>();
    out.initial_state = grad_initial.mutable_data_ptr<float>();
    backward(args.inputs<scalar_t>(), args.as_sequence<const scalar_t>(grad_out), grad_last.const_data_ptr<float>(), plan, out);
  });
  auto summed = [](const Tensor& sums, const Tensor& input) { return input.dim() == 2 ? sums.sum(0) : sums; };
  return {like(grad_u, u), like(grad_delta, delta), grad_A.sum(0), like(summed(grad_B, B), B), like(summed(grad_C, C), C),
          if_given(grad_D.sum(0), D), z ? like(grad_z, *z) : at::empty({0}, grad_y.options()),
          if_given(grad_bias.sum(0), delta_bias), if_given(grad_initial, initial_state)};
}

Tensor linear_recurrence(const Tensor& a, const Tensor& b, Optional initial, int64_t dim, bool reverse) {
  refuse_tangents("linear_recurrence_cpu", {a, b, initial});
  auto dtype = a.scalar_type();  // of the kernel: real ones that are mixed go through float32
  auto result = dtype;
  auto check = [&](const char* name, const Tensor& t) {  // in the words of kernels/recurrence/checks.py
    const auto type = t.scalar_type();
    TORCH_CHECK_TYPE(is_taken(type) || type == at::kDouble || type == at::kComplexFloat || type == at::kComplexDouble, name,
                     " must be torch.float32 or torch.float16 or torch.bfloat16 or torch.float64 or torch.complex64 or "
                     "torch.complex128, got torch.", c10::getDtypeNames(type).first);
    TORCH_CHECK_VALUE(t.device() == a.device(), name, " must be on a's device ", a.device(), ", got ", t.device());
    if (type != dtype) dtype = at::kFloat;
    result = c10::promoteTypes(result, type);
  };
  check("a", a);
  check("b", b);
  if (initial) check("initial", *initial);
  TORCH_CHECK_TYPE(result != at::kDouble,
                   "the result is torch.float64, which impl='cpp' does not accept; use 'chunked' or 'reference'");
  if (c10::isComplexType(result)) dtype = result;
  const auto shape = broadcast_shape(a, b);
  const auto rank = static_cast<int64_t>(shape.size());
  TORCH_CHECK_VALUE(0 <= dim && dim < rank, "dim is ", dim, "; it must be an axis of a and b broadcast, from 0 to ", rank - 1);
  TORCH_CHECK_VALUE(!initial || initial->dim() < rank, "initial has ", initial->dim(), " axes; a and b broadcast have ",
                    rank - 1, " without dim");
  auto lanes = shape;
  lanes.erase(lanes.begin() + dim);
  const Tensor start = checked_initial(initial, lanes, c10::isComplexType(dtype) ? dtype : at::kFloat);
  const Tensor h = at::empty(shape, a.options().dtype(dtype));
  if (h.numel() != 0) {
    DISPATCH_WITH_COMPLEX(dtype, [&] {
      run_recurrence<scalar_t>(h, a.to(dtype).expand(shape), b.to(dtype).expand(shape), start, dim, reverse);
    });
  }
  return h.to(result);
}

// A process may load several builds of this library, mvc's own and those of packages: the first one's ops serve all.
const bool kFirst = !c10::Dispatcher::singleton().findSchema({"mvc::selective_scan_cpu", ""}).has_value();

}  // namespace

TORCH_LIBRARY_FRAGMENT(mvc, library) {
  if (!kFirst) return;
  const std::string inputs = kInputs;
  const std::vector<at::Tag> tags{at::Tag::pt2_compliant_tag, at::Tag::flexible_layout};
  library.def(("selective_scan_cpu(" + inputs + ") -> (Tensor, Tensor)").c_str(), tags);
  library.def(("selective_scan_cpu_backward(Tensor grad_y, Tensor grad_last_state, " + inputs +
               ") -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)")
                  .c_str(),
              tags);
  library.def("linear_recurrence_cpu(Tensor a, Tensor b, Tensor? initial, int dim, bool reverse) -> Tensor", tags);
}

TORCH_LIBRARY_IMPL(mvc, CPU, library) {
  if (!kFirst) return;
  library.impl("selective_scan_cpu", selective_scan);
  library.impl("selective_scan_cpu_backward", selective_scan_backward);
  library.impl("linear_recurrence_cpu", linear_recurrence);
}

}  // namespace mvc
