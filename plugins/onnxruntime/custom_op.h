// The adapter of every op for ONNX Runtime's CPU provider: read, validate, run, report. An op adds
// a class with
//
//   using Params = ...;                  // whose members have the names of inputs and outputs
//   static constexpr const char* kName;  // in the contract
//   static constexpr auto kRun;          // the kernel
//   static void read(Attributes&, Params&);     // once, when the session is made
//   static void resize(const Sizes&, Params&);  // at every run
#pragma once

#include <onnxruntime_cxx_api.h>

#include <string>

#include "node.h"

namespace mamba_export::ort {

// The types that one registration of an op is for.
struct Types {
  ElementType io;
  ElementType residual;
};

ONNXTensorElementDataType onnx_type(Element element, Types types);

// Gives every output the shape and type of the first input that is declared like it.
OrtStatusPtr infer_shapes(const OrtApi& api, const Contract& contract,
                          OrtShapeInferContext* context) noexcept;

template <class Op>
constexpr Contract kContract = contract_of(Op::kName);

template <class Op>
class CpuKernel {
 public:
  CpuKernel(const OrtApi& api, const OrtKernelInfo* info, Types types) : api_(api) {
    Attributes attributes(api, info, kContract<Op>);
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
      if (const std::string problem = validate(params); !problem.empty()) {
        throw Ort::Exception(std::string(Op::kName) + ": " + problem, ORT_INVALID_ARGUMENT);
      }
      tensors.bind_outputs(sizes, &params);
      Threads threads(api_, context);
      Op::kRun(params, threads.parallel_for());
      threads.finish();
    });
  }

 private:
  const OrtApi& api_;
  typename Op::Params params_;  // with nothing but attributes and types
};

// One op for one choice of types.
template <class Op>
class CpuOp : public Ort::CustomOpBase<CpuOp<Op>, CpuKernel<Op>, /*WithStatus=*/true> {
 public:
  CpuOp(const OrtApi* api, Types types) : api_(api), types_(types) {
    this->InferOutputShapeFn = [](const OrtCustomOp* self, OrtShapeInferContext* context) {
      return infer_shapes(*static_cast<const CpuOp*>(self)->api_, kContract<Op>, context);
    };
  }

  const char* GetName() const { return Op::kName; }
  const char* GetExecutionProviderType() const { return "CPUExecutionProvider"; }
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
    return guarded(api, [&] { *kernel = new CpuKernel<Op>(api, info, types_); });
  }

 private:
  const OrtApi* api_;
  Types types_;
};

// Each is defined in the file of its op. The runtime may use it for as long as the process lives.
#define MAMBA_EXPORT_OP(op, root, version) \
  const OrtCustomOp* make_##root(const OrtApi* api, Types types);
#define MAMBA_EXPORT_INPUT(op, name, element, axes)
#define MAMBA_EXPORT_OUTPUT(op, name, element, axes)
#define MAMBA_EXPORT_ATTRIBUTE(op, name, type)
#include "op_contract.inc"
#undef MAMBA_EXPORT_OP
#undef MAMBA_EXPORT_INPUT
#undef MAMBA_EXPORT_OUTPUT
#undef MAMBA_EXPORT_ATTRIBUTE

}  // namespace mamba_export::ort
