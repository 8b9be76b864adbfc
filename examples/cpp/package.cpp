#include "package.h"

#include <ATen/Context.h>
#include <sys/utsname.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <set>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "errors.h"

namespace {

using Metadata = std::unordered_map<std::string, std::string>;

const std::map<std::string, at::ScalarType> kDtypes = {
    {"float32", at::kFloat}, {"float16", at::kHalf}, {"bfloat16", at::kBFloat16}};

// Instruction sets of x86 from small to large, and what Linux lists of a processor that has each, beside what the one before
// it needs: the table of mvc/export/isa.py.
const std::vector<std::pair<std::string, std::vector<std::string>>> kInstructionSets = {
    {"baseline", {}},
    {"avx2", {"avx2", "fma", "f16c", "bmi1", "bmi2", "movbe"}},
    {"avx512", {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}},
};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

Metadata read_metadata(const std::string& path) {
  if (!std::filesystem::is_regular_file(path)) fail("there is no package ", path);
  try {
    return torch::inductor::AOTIModelPackageLoader::load_metadata_from_package(path, "model");
  } catch (const c10::Error& error) {
    fail(path, " is no package of AOTInductor: ", first_line(error.what_without_backtrace()));
  } catch (const std::exception& error) {
    fail(path, " is no package of AOTInductor: ", first_line(error.what()));
  }
}

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) parts.push_back(part);
  return parts;
}

// "224" or "1:64".
Range to_range(const std::string& text) {
  const auto colon = text.find(':');
  const int64_t low = std::stoll(text);
  return {low, colon == std::string::npos ? low : std::stoll(text.substr(colon + 1))};
}

std::vector<double> to_numbers(const std::string& text) {
  std::vector<double> numbers;
  std::istringstream stream(text);
  for (double number; stream >> number;) numbers.push_back(number);
  return numbers;
}

std::set<std::string> processor_flags() {
  std::ifstream cpuinfo("/proc/cpuinfo");
  for (std::string line; std::getline(cpuinfo, line);) {
    if (!line.starts_with("flags")) continue;
    std::istringstream words(line.substr(line.find(':') + 1));
    return {std::istream_iterator<std::string>(words), {}};
  }
  return {};
}

// The instruction sets that this processor has, from small to large. Other than x86 has one, the name of its machine.
std::vector<std::string> instruction_sets() {
  utsname system;
  uname(&system);
  if (std::string(system.machine) != "x86_64") return {system.machine};
  const auto flags = processor_flags();
  const auto has = [&](const std::string& flag) { return flags.contains(flag); };
  std::vector<std::string> sets;
  for (const auto& [set, needed] : kInstructionSets) {
    if (!std::all_of(needed.begin(), needed.end(), has)) break;
    sets.push_back(set);
  }
  return sets;
}

}  // namespace

Package::Package(const std::string& path) {
  const Metadata metadata = read_metadata(path);
  const auto get = [&](const std::string& key) {
    const auto found = metadata.find("mvc." + key);
    if (found == metadata.end()) fail(path, " does not say its ", key, "; write it with mvc.export_model, from a MambaVision");
    return found->second;
  };
  isa = get("isa");
  device = get("device");
  const auto sizes = split(get("sizes"), ' ');
  if (sizes.size() != 4) fail(path, " takes ", get("sizes"), ", not one (batch, channels, height, width)");
  batch = to_range(sizes[0]), channels = to_range(sizes[1]), height = to_range(sizes[2]), width = to_range(sizes[3]);
  const auto found = kDtypes.find(get("dtype"));
  if (found == kDtypes.end()) fail(path, " takes ", get("dtype"), "; float32, float16 and bfloat16 can be read here");
  dtype = found->second;
  if (get("interpolation") != "bicubic") fail(path, " wants ", get("interpolation"), " interpolation; bicubic is done here");
  crop = to_numbers(get("crop")).at(0);
  crop_mode = get("crop_mode");
  mean = to_numbers(get("mean")), std = to_numbers(get("std"));
  if (metadata.contains("mvc.classes")) classes = split(get("classes"), '\n');
}

void require_runnable(const std::string& path, const Package& package) {
  if (package.device != "cpu") {
    if (!at::hasCUDA()) fail(path, " is for a CUDA card of ", package.device, "; torch finds no card here");
    return;
  }
  const auto sets = instruction_sets();
  if (std::find(sets.begin(), sets.end(), package.isa) == sets.end())
    fail(path, " cannot run here: its code needs ", package.isa, ", which this processor lacks; export it again with --isa ",
         sets.back());
}
