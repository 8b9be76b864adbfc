// The scan's own vector exponential in a plain loop over arrays that stay in the cache, to compare its rate with.
#include <ATen/Parallel.h>
#include <torch/library.h>

#include "vector_math.h"

namespace {

// `count` exponentials on each thread.
void exponentials(int64_t count) {
  at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
    constexpr int64_t size = 2048;
    alignas(64) float x[size], y[size];
    for (int64_t i = 0; i < size; ++i) x[i] = -10.f * i / size;
    for (int64_t done = 0; done < count * (end - begin); done += size) {
      for (int64_t i = 0; i < size; i += mvc::W) mvc::exp2(mvc::Vec::loadu(x + i)).store(y + i);
      asm volatile("" : : "r"(y) : "memory");  // the results are used
    }
  });
}

}  // namespace

TORCH_LIBRARY(mvc_bench, library) { library.def("exponentials(int count) -> ()", exponentials); }
