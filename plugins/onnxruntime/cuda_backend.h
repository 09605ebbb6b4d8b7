// Kernels on a CUDA device, on the stream of the runtime's CUDA provider.
#pragma once

#include <string>

#include "cuda_launch.h"
#include "node.h"

namespace mamba_export::ort {

class CudaBackend {
 public:
  static constexpr const char* kProvider = "CUDAExecutionProvider";

  CudaBackend(const OrtApi& api, const OrtKernelInfo* info) : api_(api) {
    require_ok(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &allocator_));
  }
  CudaBackend(const CudaBackend&) = delete;
  CudaBackend& operator=(const CudaBackend&) = delete;
  ~CudaBackend() { api_.ReleaseAllocator(allocator_); }

  template <class Params>
  static std::string problem(const Params& params) {
    return validate_launch(params);
  }

  template <class Params>
  void run(OrtKernelContext* context, const char* op, const Sizes& sizes,
           const Params& params) const {
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
      throw Ort::Exception(
          std::string(op) + " with " + sizes.described() + ": CUDA: " + cudaGetErrorString(error),
          ORT_EP_FAIL);
    }
  }

 private:
  const OrtApi& api_;
  OrtAllocator* allocator_ = nullptr;  // the provider's
};

}  // namespace mamba_export::ort
