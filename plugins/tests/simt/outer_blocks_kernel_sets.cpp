// The CUDA kernels on the emulated device, of each launch the outer blocks only: the last ones have
// the largest offsets, the first ones of a sequence hand its state on, and there is no time for all
// blocks of operands of 2^31 elements.
#include <stdexcept>
#include <string>

#include "guarded_memory.h"
#include "kernel_sets.h"
#include "launched_kernels.h"
#include "simt.h"

namespace mamba_export::testing {
namespace {

struct OuterBlocks {
  static constexpr const char* kName = "simt";

  template <class Launch>
  static void run(std::size_t bytes, const Launch& launch) {
    constexpr unsigned kBlocks = 512;  // those of a row, for every op
    GuardedMemory workspace(bytes);
    simt::run_outer_blocks(kBlocks);
    const cudaError_t error = launch(workspace.place(bytes, /*at_end=*/false), nullptr);
    if (error != cudaSuccess) {
      throw std::runtime_error("a launch failed: error " + std::to_string(error));
    }
  }
};

}  // namespace

std::vector<const Kernels*> kernel_sets() { return {&kLaunched<OuterBlocks>}; }

}  // namespace mamba_export::testing
