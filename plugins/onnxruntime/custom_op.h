// The adapter of every op for ONNX Runtime: read, validate, run, report. What differs between ops
// is in nodes.h.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <string>

#include "cpu_backend.h"
#include "node.h"
#include "nodes.h"
#ifdef MAMBA_EXPORT_CUDA
#include "cuda_backend.h"
#endif

namespace mamba_export::ort {

ONNXTensorElementDataType onnx_type(Element element, Types types);

// Gives the outputs, as far as their shapes are known, those that their axes have in the inputs.
OrtStatusPtr infer_shapes(const OrtApi& api, const Contract& contract,
                          OrtShapeInferContext* context) noexcept;

template <class Op>
constexpr Contract kContract = contract_of(Op::kName);

// What every provider has in common; a backend runs the kernels of one.
template <class Op, class Backend>
class Kernel {
 public:
  Kernel(const OrtApi& api, const OrtKernelInfo* info, Types types)
      : api_(api), backend_(api, info) {
    NodeAttributes attributes(api, info, kContract<Op>);
    Op::read(attributes, params_);
    attributes.require_all_read();
    params_.type = types.io;
    if constexpr (has_residual(kContract<Op>)) params_.residual = types.residual;
  }

  OrtStatusPtr ComputeV2(OrtKernelContext* context) const noexcept {
    return guarded(api_, [&] {
      typename Op::Params params = params_;
      const Tensors tensors(api_, context, kContract<Op>);
      const Sizes sizes = tensors.bind_inputs(&params);
      Op::resize(sizes, params);
      if (const std::string problem = Backend::problem(params); !problem.empty()) {
        throw NodeError(std::string(Op::kName) + ": " + problem);
      }
      tensors.bind_outputs(sizes, &params);
      backend_.run(context, Op::kName, sizes, params);
    });
  }

 private:
  const OrtApi& api_;
  Backend backend_;
  typename Op::Params params_;  // with nothing but attributes and types
};

// One op for one choice of types on one provider.
template <class Op, class Backend>
class CustomOp
    : public Ort::CustomOpBase<CustomOp<Op, Backend>, Kernel<Op, Backend>, /*WithStatus=*/true> {
 public:
  CustomOp(const OrtApi* api, Types types) : api_(api), types_(types) {
    this->InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) {
      return infer_shapes(*static_cast<const CustomOp*>(self)->api_, kContract<Op>, context);
    };
  }

  const char* GetName() const { return Op::kName; }
  const char* GetExecutionProviderType() const { return Backend::kProvider; }
  std::size_t GetInputTypeCount() const { return kContract<Op>.inputs.size; }
  std::size_t GetOutputTypeCount() const { return kContract<Op>.outputs.size; }
  ONNXTensorElementDataType GetInputType(std::size_t i) const {
    return onnx_type(kContract<Op>.inputs[i].element, types_);
  }
  ONNXTensorElementDataType GetOutputType(std::size_t i) const {
    return onnx_type(kContract<Op>.outputs[i].element, types_);
  }

  OrtStatusPtr CreateKernelV2(const OrtApi& api, const OrtKernelInfo* info,
                              void** kernel) const noexcept {
    return guarded(api, [&] { *kernel = new Kernel<Op, Backend>(api, info, types_); });
  }

 private:
  const OrtApi* api_;
  Types types_;
};

enum class Provider : std::uint8_t { kCpu, kCuda };

// Those that this library was built for.
constexpr Provider kProviders[] = {
    Provider::kCpu,
#ifdef MAMBA_EXPORT_CUDA
    Provider::kCuda,
#endif
};

// The runtime may use it for as long as the process lives.
template <class Op>
const OrtCustomOp* make_op(const OrtApi* api, Types types, [[maybe_unused]] Provider provider) {
#ifdef MAMBA_EXPORT_CUDA
  if (provider == Provider::kCuda) return new CustomOp<Op, CudaBackend>(api, types);
#endif
  return new CustomOp<Op, CpuBackend>(api, types);
}

}  // namespace mamba_export::ort
