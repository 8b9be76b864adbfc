#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

// The sizes from low to high that one dimension of the input may have; one size where they are equal.
struct Range {
  int64_t low, high;
  bool fixed() const { return low == high; }
  bool holds(int64_t size) const { return low <= size && size <= high; }
};

// What a package says of itself, read before any of its code is loaded.
struct Package {
  std::string isa;     // the instruction set that its code needs, as "avx512"
  std::string device;  // "cpu", or a card's architecture, as "sm_90"
  at::ScalarType dtype;
  Range batch, channels, height, width;
  double crop;
  std::string crop_mode;
  std::vector<double> mean, std;
  std::vector<std::string> classes;  // empty where the package names none

  // Throws UserError: no such file, no package of mvc.export_model, or not one of an image classifier.
  explicit Package(const std::string& path);
};

// Throws UserError where the code of the package would not run here.
void require_runnable(const std::string& path, const Package& package);
