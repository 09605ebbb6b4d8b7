// Kernels on the CPU, on the runtime's threads.
#pragma once

#include <string>

#include "cpu_isa.h"
#include "node.h"

namespace mamba_export::ort {

#define MAMBA_EXPORT_RUN(Op, kernel)                                          \
  inline void run_cpu(const Op##Params& p, const ParallelFor& parallel_for) { \
    kernel##_cpu(p, parallel_for);                                            \
  }
MAMBA_EXPORT_FOR_EACH_OP(MAMBA_EXPORT_RUN)
#undef MAMBA_EXPORT_RUN

class CpuBackend {
 public:
  static constexpr const char* kProvider = "CPUExecutionProvider";

  CpuBackend(const OrtApi& api, const OrtKernelInfo*) : api_(api) {}

  // Returns what is wrong with the parameters of a call, or an empty string.
  template <class Params>
  static std::string problem(const Params& params) {
    return validate(params);
  }

  template <class Params>
  void run(OrtKernelContext* context, const char*, const Sizes&, const Params& params) const {
    Threads threads(api_, context);
    run_cpu(params, threads.parallel_for());
    threads.finish();
  }

 private:
  const OrtApi& api_;
};

}  // namespace mamba_export::ort
