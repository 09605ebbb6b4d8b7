// The CUDA kernels on a device: launched, and replayed from a captured graph. They read and write
// the fuzzer's own memory, which is registered with the device; its guard pages are not.
#include <cuda_runtime_api.h>

#include <stdexcept>
#include <string>

#include "cuda_kernels.h"
#include "kernel_sets.h"

namespace mamba_export::testing {
namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// The device's side of all calls.
class Device {
 public:
  static Device& get() {
    static Device device;
    return device;
  }

  cudaStream_t stream() const { return stream_; }

  // Workspace full of NaN, of at least `bytes`.
  void* workspace(std::size_t bytes) {
    if (bytes > capacity_) {
      require(cudaFree(workspace_), "cudaFree");
      require(cudaMalloc(&workspace_, bytes), "cudaMalloc");
      capacity_ = bytes;
    }
    if (bytes > 0) require(cudaMemsetAsync(workspace_, 0xff, bytes, stream_), "cudaMemsetAsync");
    return workspace_;
  }

 private:
  Device() { require(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream"); }

  cudaStream_t stream_ = nullptr;
  void* workspace_ = nullptr;
  std::size_t capacity_ = 0;
};

template <class Params>
using Workspace = std::size_t (*)(const Params&);
template <class Params>
using Launch = cudaError_t (*)(const Params&, void*, cudaStream_t);

template <class Params, Workspace<Params> kWorkspace, Launch<Params> kLaunch, bool kCaptured>
void run(const Params& p, const ParallelFor&) {
  Device& device = Device::get();
  cudaStream_t const stream = device.stream();
  void* const workspace = device.workspace(kWorkspace(p));
  if (!kCaptured) {
    require(kLaunch(p, workspace, stream), "a launch");
  } else {
    // Whatever is not safe to capture is an error here.
    require(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "a capture");
    const cudaError_t launched = kLaunch(p, workspace, stream);
    cudaGraph_t graph = nullptr;
    require(cudaStreamEndCapture(stream, &graph), "the end of a capture");
    require(launched, "a captured launch");
    cudaGraphExec_t replay = nullptr;
    require(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    require(cudaGraphLaunch(replay, stream), "a replay");
    require(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
    require(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
  require(cudaStreamSynchronize(stream), "the kernels");
}

#define MAMBA_EXPORT_ENTRY(Op, kernel) \
  , run<Op##Params, kernel##_workspace, launch_##kernel, kCaptured>

template <bool kCaptured>
constexpr Kernels kCuda = {
    kCaptured ? "cuda_graph" : "cuda" MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_ENTRY),
    /*exact=*/false, /*matrices=*/true};

#undef MAMBA_EXPORT_ENTRY

}  // namespace

std::vector<const Kernels*> kernel_sets() { return {&kCuda<false>, &kCuda<true>}; }

void share_memory(void* memory, std::size_t bytes) {
  require(cudaHostRegister(memory, bytes, cudaHostRegisterMapped), "cudaHostRegister");
  void* there = nullptr;
  require(cudaHostGetDevicePointer(&there, memory, 0), "cudaHostGetDevicePointer");
  if (there != memory) throw std::runtime_error("the device has another address for host memory");
}

}  // namespace mamba_export::testing
