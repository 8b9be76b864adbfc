// Ends a process on whose processor this library's code cannot run, with a sentence, before any of that code runs.
//
// Newer systems refuse to load the library by the level that its file says it needs. Those that do not look at it
// (glibc before 2.33) get here. An exception would end the process too: none passes through the system's loader.
#pragma once

#if defined(__AVX2__)
#include <cstdio>
#include <cstdlib>

namespace mvc {

// Static initialisers are compiled for the instruction set as well, so this comes before them, and without it.
__attribute__((constructor(101), target("no-avx"))) inline void check_processor() {
  __builtin_cpu_init();
#if defined(__AVX512F__)
  const char* needed = "AVX-512 (F, BW, DQ, VL)";
  const bool is_there = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#else
  const char* needed = "AVX2 and FMA";
  const bool is_there = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  if (is_there) return;
  std::fprintf(stderr, "mvc: code was loaded that needs %s, which this processor lacks; build it for this one\n", needed);
  std::abort();
}

}  // namespace mvc
#endif
