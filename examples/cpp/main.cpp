// Classifies photographs with a package that mvc.export_model wrote, without Python: see README.md beside this file.

#include <ATen/ops/cat.h>
#include <ATen/ops/from_file.h>
#include <c10/core/InferenceMode.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <iostream>

#include "errors.h"
#include "package.h"
#include "photograph.h"
#include "preprocess.h"

namespace {

constexpr auto kUsage = "usage: classify PACKAGE.pt2 [--size HEIGHTxWIDTH] FILE...  (photographs, or float32 tensors as *.raw)";
constexpr int64_t kShown = 5;

struct Arguments {
  std::string package;
  std::vector<std::string> files;
  int64_t height = 0, width = 0;  // 0: the package's own

  Arguments(int count, char** words) {
    std::vector<std::string> paths;
    for (int i = 1; i < count; ++i) {
      const std::string word = words[i];
      if (word == "--size") {
        char rest;
        if (++i == count || std::sscanf(words[i], "%ldx%ld%c", &height, &width, &rest) != 2 || height < 1 || width < 1)
          fail("--size wants HEIGHTxWIDTH in pixels, as 224x224");
      } else if (word.starts_with("-")) {
        fail("unknown option ", word, "; ", kUsage);
      } else {
        paths.push_back(word);
      }
    }
    if (paths.size() < 2) fail("a package and at least one file are needed; ", kUsage);
    package = paths.front();
    files.assign(paths.begin() + 1, paths.end());
  }
};

// The size asked for, or the package's own.
int64_t side(const char* name, int64_t asked, const Range& range) {
  if (!asked && !range.fixed())
    fail("the package takes a ", name, " of ", range.low, " to ", range.high, "; name the size with --size");
  if (asked && !range.holds(asked))
    fail("the package takes a ", name, " of ", range.low, range.fixed() ? "" : " to " + std::to_string(range.high), ", not ", asked);
  return asked ? asked : range.low;
}

bool is_raw(const std::string& path) { return std::filesystem::path(path).extension() == ".raw"; }

// A file of float32 values, (images, channels, height, width) in C order, images any number.
at::Tensor read_raw(const std::string& path, int64_t channels, int64_t height, int64_t width) {
  std::error_code error;
  const auto bytes = std::filesystem::file_size(path, error);
  if (error) fail("cannot read ", path, ": ", error.message());
  const size_t image = size_t(channels * height * width) * sizeof(float);
  if (bytes == 0 || bytes % image)
    fail(path, " has ", bytes, " bytes; images of ", channels, " x ", height, " x ", width, " float32 values have ", image, " each");
  const int64_t images = int64_t(bytes / image);
  return at::from_file(path, /*shared=*/false, images * channels * height * width, at::kFloat).view({images, channels, height, width});
}

at::Tensor read(const std::string& path, const Package& package, int64_t height, int64_t width) {
  if (is_raw(path)) return read_raw(path, package.channels.low, height, width);
  if (package.channels.low != 3) fail("the package takes ", package.channels.low, " channels, and a photograph has 3");
  return preprocess(read_photograph(path), package, height, width);
}

void print_classes(const at::Tensor& scores, const std::vector<std::string>& names) {
  const auto [probabilities, indices] = scores.softmax(0).topk(std::min(kShown, scores.size(0)));
  const bool known = int64_t(names.size()) == scores.size(0);
  for (int64_t i = 0; i < indices.size(0); ++i) {
    const auto index = indices[i].item<int64_t>();
    const std::string name = known ? names[index] : "class " + std::to_string(index);
    std::printf("  %6.2f %%  %s\n", 100 * probabilities[i].item<double>(), name.c_str());
  }
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

void run(const Arguments& arguments) {
  const c10::InferenceMode inference;
  const Package package(arguments.package);
  require_runnable(arguments.package, package);
  const int64_t height = side("height", arguments.height, package.height), width = side("width", arguments.width, package.width);

  std::vector<at::Tensor> images;
  std::vector<std::string> titles;  // of each image
  for (const auto& path : arguments.files) {
    images.push_back(read(path, package, height, width));
    for (int64_t i = 0; i < images.back().size(0); ++i)
      titles.push_back(is_raw(path) ? path + ", image " + std::to_string(i) : path);
  }
  at::Tensor batch = at::cat(images);
  const int64_t count = batch.size(0);
  if (count > package.batch.high) fail("the package takes at most ", package.batch.high, " images at once, not ", count);
  if (count < package.batch.low)  // filled up with copies of the last image, whose classes are not printed
    batch = at::cat({batch, batch.slice(0, count - 1).expand({package.batch.low - count, -1, -1, -1})});
  batch = batch.to(package.device == "cpu" ? at::kCPU : at::kCUDA, package.dtype);

  auto start = std::chrono::steady_clock::now();
  torch::inductor::AOTIModelPackageLoader loader(arguments.package);
  const double load = seconds_since(start);
  start = std::chrono::steady_clock::now();
  const at::Tensor scores = loader.run({batch}).at(0).to(at::kCPU, at::kFloat);
  const double first = seconds_since(start);

  if (scores.dim() != 2) fail("the package returns a tensor of ", scores.sizes(), ", not (images, classes)");
  for (int64_t i = 0; i < count; ++i) {
    std::printf("%s\n", titles[i].c_str());
    print_classes(scores[i], package.classes);
  }
  std::printf("loaded in %.2f s, first run in %.3f s\n", load, first);
}

}  // namespace

int main(int count, char** words) {
  try {
    run(Arguments(count, words));
    return 0;
  } catch (const UserError& error) {
    std::cerr << "classify: " << error.what() << std::endl;
    return 2;
  } catch (const c10::Error& error) {
    std::cerr << "classify: " << error.what_without_backtrace() << std::endl;
  } catch (const std::exception& error) {
    std::cerr << "classify: " << error.what() << std::endl;
  }
  return 1;
}
