// The checks that the ops' parameters share. Each appends to `problem` only if it is empty, so the
// first problem is the one reported.
#pragma once

#include <cstdint>
#include <string>

namespace mamba_export {

inline void require_sizes(std::string& problem, const char* name, std::int64_t size,
                          std::int64_t low, std::int64_t high) {
  if (!problem.empty() || (size >= low && size <= high)) return;
  problem = std::string(name) + " is " + std::to_string(size) + ", supported are " +
            std::to_string(low) + " to " + std::to_string(high);
}

inline void require_groups(std::string& problem, const char* name, std::int64_t size,
                           std::int64_t groups) {
  if (!problem.empty() || (groups > 0 && size % groups == 0)) return;
  problem = std::string(name) + " is " + std::to_string(size) + ", which " +
            std::to_string(groups) + " groups do not divide";
}

inline void require_epsilon(std::string& problem, float eps) {
  if (!problem.empty() || eps >= 0) return;  // not so for a NaN
  problem = "eps is " + std::to_string(eps) + ", expected 0 or more";
}

// Without lengths there is nothing to check: all are valid, or they lie on a device.
inline void require_lengths(std::string& problem, const std::int32_t* seqlens, std::int64_t batch,
                            std::int64_t seqlen) {
  for (std::int64_t b = 0; seqlens != nullptr && problem.empty() && b < batch; ++b) {
    if (seqlens[b] >= 0 && seqlens[b] <= seqlen) continue;
    problem = "seqlens[" + std::to_string(b) + "] is " + std::to_string(seqlens[b]) +
              ", expected 0 to " + std::to_string(seqlen);
  }
}

}  // namespace mamba_export
