// The CUDA kernels on the emulated device: threads in their order, and in the reverse one.
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "cuda_kernels.h"
#include "kernel_sets.h"
#include "simt.h"

namespace mamba_export::testing {
namespace {

template <class Params>
using Workspace = std::size_t (*)(const Params&);
template <class Params>
using Launch = cudaError_t (*)(const Params&, void*, cudaStream_t);

// Runs with a workspace full of NaN, of just the size that was asked for.
template <class Params, Workspace<Params> kWorkspace, Launch<Params> kLaunch, bool kReversed>
void run(const Params& p, const ParallelFor&) {
  std::vector<std::max_align_t> workspace(kWorkspace(p) / sizeof(std::max_align_t) + 1);
  std::memset(workspace.data(), 0xff, workspace.size() * sizeof(std::max_align_t));
  simt::set_reversed(kReversed);
  const cudaError_t error = kLaunch(p, workspace.data(), nullptr);
  if (error != cudaSuccess) {
    throw std::runtime_error("a launch failed: error " + std::to_string(error));
  }
}

#define MAMBA_EXPORT_ENTRY(Op, kernel) \
  , run<Op##Params, kernel##_workspace, launch_##kernel, kReversed>

template <bool kReversed>
constexpr Kernels kSimt = {
    kReversed ? "simt_reversed" : "simt" MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_ENTRY),
    /*exact=*/false, /*matrices=*/true};

#undef MAMBA_EXPORT_ENTRY

}  // namespace

std::vector<const Kernels*> kernel_sets() { return {&kSimt<false>, &kSimt<true>}; }

void share_memory(void*, std::size_t) {}

}  // namespace mamba_export::testing
