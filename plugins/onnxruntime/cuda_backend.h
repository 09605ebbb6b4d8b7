// Kernels on a CUDA device, on the stream of the runtime's CUDA provider.
#pragma once

#include <string>

#include "cuda_kernels.h"
#include "node.h"

namespace mamba_export::ort {

#define MAMBA_EXPORT_LAUNCH(Op, kernel)                                                     \
  inline std::size_t workspace_bytes(const Op##Params& p) { return kernel##_workspace(p); } \
  inline cudaError_t launch(const Op##Params& p, void* workspace, cudaStream_t stream) {    \
    return launch_##kernel(p, workspace, stream);                                           \
  }
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_LAUNCH)
#undef MAMBA_EXPORT_LAUNCH

class CudaBackend {
 public:
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  CudaBackend(const OrtApi& api, const OrtKernelInfo* info) : api_(api) {
    require_ok(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;
  ~CudaBackend() { api_.ReleaseAllocator(allocator_); }

  // The lengths are on the device: the kernels bound them there.
  template <class Params>
  static std::string problem(Params params) {
    forget_lengths(params, 0);
    return validate(params);
  }

  template <class Params>
  void run(OrtKernelContext* context, const Params& params) const {
    void* stream = nullptr;
    require_ok(api_, api_.KernelContext_GetGPUComputeStream(context, &stream));
    void* workspace = nullptr;
    if (const std::size_t bytes = workspace_bytes(params); bytes > 0) {
      const OrtMemoryInfo* memory = nullptr;
      require_ok(api_, api_.AllocatorGetInfo(allocator_, &memory));
      require_ok(api_, api_.KernelContext_GetScratchBuffer(context, memory, bytes, &workspace));
    }
    const cudaError_t error = launch(params, workspace, static_cast<cudaStream_t>(stream));
    // Whoever gets this memory next uses it on the same stream, after these kernels.
    if (workspace != nullptr) require_ok(api_, api_.AllocatorFree(allocator_, workspace));
    if (error != cudaSuccess) {
      throw Ort::Exception(std::string("CUDA: ") + cudaGetErrorString(error), ORT_EP_FAIL);
    }
  }

 private:
  template <class Params>
  static auto forget_lengths(Params& params, int) -> decltype(void(params.seqlens)) {
    params.seqlens = nullptr;
  }
  template <class Params>
  static void forget_lengths(Params&, long) {}  // it has none

  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;  // the provider's
};

}  // namespace mamba_export::ort
