#pragma once

#include <ATen/core/Tensor.h>

#include "package.h"

// Resizes, crops and normalises uint8 (3, height, width) as mvc.model.image.preprocess does, to float32 (1, 3, height, width)
// of the given size. Pixels differ from its own by one level of 255 at most, since Pillow rounds in another place.
at::Tensor preprocess(const at::Tensor& photograph, const Package& package, int64_t height, int64_t width);
