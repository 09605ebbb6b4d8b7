// The CUDA kernels by the type of their Params, for adapters of every op.
#pragma once

#include <cstdint>
#include <string>

#include "cuda_kernels.h"
#include "validation.h"

namespace mamba_export {

#define MAMBA_EXPORT_OVERLOADS(Op, kernel)                                                  \
  inline std::size_t workspace_bytes(const Op##Params& p) { return kernel##_workspace(p); } \
  inline std::size_t most_workspace_bytes(const Op##Params& p) {                            \
    return kernel##_most_workspace(p);                                                      \
  }                                                                                         \
  inline cudaError_t launch(const Op##Params& p, void* workspace, cudaStream_t stream) {    \
    return launch_##kernel(p, workspace, stream);                                           \
  }
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_OVERLOADS)
#undef MAMBA_EXPORT_OVERLOADS

template <class Params>
auto forget_lengths(Params& params, int) -> decltype(void(params.seqlens)) {
  params.seqlens = nullptr;
}
template <class Params>
void forget_lengths(Params&, long) {}  // it has none

// What no launch has room for. Where there is less room, which also depends on the operands'
// alignment and on the device, the launch says that its arguments are invalid.
namespace limits {

constexpr std::int64_t kMostBlocks = 0x7fffffff;
constexpr std::int64_t kMostThreads = 0xffffff00;  // of kernels that number them in 32 bits

inline void require_room(std::string& problem, const CausalConv1dUpdateParams& p) {
  constexpr std::int64_t kMostChannels = 8;  // of a thread
  require_sizes(problem, "batch * channels", p.batch * p.channels, 0, kMostChannels * kMostThreads);
}
inline void require_room(std::string& problem, const SelectiveScanParams& p) {
  require_sizes(problem, "seqlen", p.seqlen, 0, 0x7fff0000);
}
inline void require_room(std::string& problem, const SelectiveStateUpdateParams& p) {
  constexpr std::int64_t kMostRows = 2;  // of a thread
  require_sizes(problem, "batch * dim", p.batch * p.dim, 0, kMostRows * kMostThreads);
}
inline void require_room(std::string& problem, const SSDStateUpdateParams& p) {
  constexpr std::int64_t kMostChannels = 0x7fffffff;  // of a row, numbered in 32 bits
  require_sizes(problem, "nheads * headdim", p.nheads * p.headdim, 0, kMostChannels / 2);
  require_sizes(problem, "ngroups * dstate", p.ngroups * p.dstate, 0, kMostChannels / 4);
  require_sizes(problem, "batch * nheads", p.batch * p.nheads, 0, kMostBlocks);
}
inline void require_room(std::string& problem, const ConvSSDStateUpdateParams& p) {
  require_room(problem, recurrence_of(p));
}
template <class NormParams>
void require_row(std::string& problem, const NormParams& p) {
  require_sizes(problem, "dim", p.dim, 0, 0x7fffffff - 2048);
}
inline void require_room(std::string& problem, const AddRMSNormParams& p) {
  require_row(problem, p);
  require_sizes(problem, "the number of rows", p.rows, 0, kMostBlocks);
}
inline void require_room(std::string& problem, const GatedRMSNormParams& p) {
  require_row(problem, p);
  require_sizes(problem, "rows * ngroups", p.rows * p.ngroups, 0, kMostBlocks);
}

}  // namespace limits

// Returns what is wrong with the parameters of a launch, or an empty string. The lengths are on the
// device, where the kernels bound them.
template <class Params>
std::string validate_launch(Params params) {
  forget_lengths(params, 0);
  std::string problem = validate(params);
  limits::require_room(problem, params);
  return problem;
}

}  // namespace mamba_export
