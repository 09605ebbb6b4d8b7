// The CUDA kernels on the emulated device: threads in their order, and in the reverse one.
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

#include "guarded_call.h"
#include "guarded_memory.h"
#include "kernel_sets.h"
#include "launched_kernels.h"
#include "simt.h"

namespace mamba_export::testing {
namespace {

template <bool kReversed>
struct Emulated {
  static constexpr const char* kName = kReversed ? "simt_reversed" : "simt";

  // With a workspace full of NaN, of just the size that was asked for. It ends at a guard page if
  // it is aligned there, else it starts at one.
  template <class Launch>
  static void run(std::size_t bytes, const Launch& launch) {
    constexpr std::size_t kAlignment = 16;
    GuardedMemory memory(bytes);
    char* const workspace = memory.place(bytes, bytes % kAlignment == 0);
    std::memset(workspace, 0xff, bytes);
    simt::device().reversed = kReversed;
    const cudaError_t error = launch(workspace, nullptr);
    if (!memory.margin_intact()) throw Failure("wrote beside the workspace");
    if (error != cudaSuccess) {
      throw std::runtime_error("a launch failed: error " + std::to_string(error));
    }
  }
};

}  // namespace

std::vector<const Kernels*> kernel_sets() {
  return {&kLaunched<Emulated<false>>, &kLaunched<Emulated<true>>};
}

void share_memory(void*, std::size_t) {}

void with_operands(const Kernels&, const Case&, const Pointers& operands,
                   const std::function<void(const Pointers&)>& call) {
  call(operands);
}

}  // namespace mamba_export::testing
