#pragma once

#include <ATen/core/Tensor.h>

#include <string>

// Reads a photograph (binary PPM; JPEG and PNG where the program was built with their libraries) as uint8 (3, height, width),
// upright, transparency laid over white. Throws UserError: missing, damaged, or of another format.
at::Tensor read_photograph(const std::string& path);
