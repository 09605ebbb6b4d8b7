// The CUDA kernels and their CPU twins for Python's tests and benchmarks, without a runtime: an op
// by its name, sizes by their letters, operands in the contract's order. Linked with the kernels of
// a device, or with those of the emulated one.
#include "cuda_launch.h"
#include "op_case.h"

namespace mamba_export::testing {
namespace {

// As in benchmarks/cuda/kernel_library.py.
struct KernelCall {
  const char* op;
  std::int64_t sizes[26];  // by letter
  std::int32_t type;
  std::int32_t residual;
  std::int32_t silu, dt_softplus, gated, reverse, norm_before_gate;
  float dt_min, dt_max, eps;
};

Params params_of(const KernelCall& call, void* const* operands) {
  Case c;
  c.op = &op_named(call.op);
  for (char letter = 'A'; letter <= 'Z'; ++letter) c.size[letter] = call.sizes[letter - 'A'];
  c.type = static_cast<ElementType>(call.type);
  c.residual = static_cast<ElementType>(call.residual);
  c.silu = call.silu != 0;
  c.dt_softplus = call.dt_softplus != 0;
  c.gated = call.gated != 0;
  c.reverse = call.reverse != 0;
  c.norm_before_gate = call.norm_before_gate != 0;
  c.dt_min = call.dt_min;
  c.dt_max = call.dt_max;
  c.eps = call.eps;
  const std::size_t count = c.op->inputs.size() + c.op->outputs.size();
  return c.params(std::vector<void*>(operands, operands + count));
}

}  // namespace
}  // namespace mamba_export::testing

// Returns the bytes of the workspace; the largest number for a call that makes no sense.
extern "C" __attribute__((visibility("default"))) std::size_t mamba_workspace(
    const mamba_export::testing::KernelCall* call, void* const* operands) {
  using namespace mamba_export::testing;
  return std::visit([](const auto& p) { return workspace_bytes(p); }, params_of(*call, operands));
}

// Returns CUDA's error code; -1 for a call that makes no sense, which is a bug of the test.
extern "C" __attribute__((visibility("default"))) int mamba_launch(
    const mamba_export::testing::KernelCall* call, void* const* operands, void* workspace,
    void* stream) {
  using namespace mamba_export::testing;
  try {
    return std::visit(
        [&](const auto& p) {
          return static_cast<int>(launch(p, workspace, static_cast<cudaStream_t>(stream)));
        },
        params_of(*call, operands));
  } catch (...) {
    return -1;
  }
}

// Writes what is wrong with a launch, up to `room` bytes with the 0 at their end: nothing if it is
// valid.
extern "C" __attribute__((visibility("default"))) void mamba_launch_problem(
    const mamba_export::testing::KernelCall* call, void* const* operands, char* to,
    std::size_t room) {
  using namespace mamba_export::testing;
  const std::string problem = std::visit(
      [](const auto& p) { return mamba_export::validate_launch(p); }, params_of(*call, operands));
  to[problem.copy(to, room - 1)] = '\0';
}

// Runs the CPU kernel on operands there. Returns 0, or -1 for a call that makes no sense.
extern "C" __attribute__((visibility("default"))) int mamba_run_on_cpu(
    const mamba_export::testing::KernelCall* call, void* const* operands) {
  using namespace mamba_export::testing;
  try {
    run_kernel(mamba_export::cpu_kernels(), params_of(*call, operands), {});
    return 0;
  } catch (...) {
    return -1;
  }
}
