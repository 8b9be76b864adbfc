#include "preprocess.h"

#include <ATen/ops/_upsample_bicubic2d_aa.h>
#include <ATen/ops/tensor.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace {

using Size = std::pair<int64_t, int64_t>;  // height, width

// The smallest size of the photograph's aspect ratio that covers the target, rounded as timm does.
Size covering(Size photograph, Size target) {
  const auto [height, width] = photograph;
  if (target.first == target.second) {
    const int64_t shorter = std::min(height, width);
    return {target.first * height / shorter, target.second * width / shorter};
  }
  const double ratio = std::min(double(height) / target.first, double(width) / target.second);
  return {std::llrint(height / ratio), std::llrint(width / ratio)};
}

at::Tensor crop_centre(const at::Tensor& image, int64_t height, int64_t width) {
  // llrint halves an odd margin to the even side, as Python's round().
  const int64_t top = std::llrint((image.size(2) - height) / 2.0), left = std::llrint((image.size(3) - width) / 2.0);
  return image.narrow(2, top, height).narrow(3, left, width);
}

}  // namespace

at::Tensor preprocess(const at::Tensor& photograph, const Package& package, int64_t height, int64_t width) {
  Size scaled = {std::floor(height / package.crop), std::floor(width / package.crop)};
  if (package.crop_mode == "center") scaled = covering({photograph.size(1), photograph.size(2)}, scaled);
  const at::Tensor image = photograph.unsqueeze(0);
  const at::Tensor resized = at::_upsample_bicubic2d_aa(image, {scaled.first, scaled.second}, /*align_corners=*/false);
  const at::Tensor pixels = crop_centre(resized, height, width).to(at::kFloat).div(255);
  const auto of_channels = [](const std::vector<double>& values) { return at::tensor(values).to(at::kFloat).view({3, 1, 1}); };
  return pixels.sub(of_channels(package.mean)).div(of_channels(package.std)).contiguous();
}
