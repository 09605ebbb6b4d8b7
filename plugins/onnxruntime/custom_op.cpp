#include "custom_op.h"

#include <utility>
#include <vector>

namespace mamba_export::ort {
ONNXTensorElementDataType onnx_type(Element element, Types types) {
  const auto of = [](ElementType type) {
    switch (type) {
      case ElementType::kFloat16:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
      case ElementType::kBFloat16:
        return ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
      case ElementType::kFloat32:
        break;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
  };
  switch (element) {
    case Element::io:
      return of(types.io);
    case Element::residual:
      return of(types.residual);
    case Element::i32:
      return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
    case Element::state:
    case Element::f32:
      break;
  }
  return ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
}

namespace {

// What the runtime knows of a tensor's shape; no axes where it knows nothing.
struct KnownShape {
  ONNXTensorElementDataType type;
  std::vector<std::int64_t> dims;  // -1: not known
  std::vector<const char*> names;  // empty: none

  std::vector<Known> known() const {
    std::vector<Known> known;
    for (std::size_t i = 0; i < dims.size(); ++i) {
      const Known unsized = *names[i] == '\0' ? Known::kNothing : Known::kName;
      known.push_back(dims[i] < 0 ? unsized : Known::kSize);
    }
    return known;
  }
};

KnownShape known_shape(const OrtApi& api, const OrtShapeInferContext* context, std::size_t input) {
  OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the runtime's
  require_ok(api, api.ShapeInferContext_GetInputTypeShape(context, input, &info));
  KnownShape known;
  require_ok(api, api.GetTensorElementType(info, &known.type));
  std::size_t rank = 0;
  require_ok(api, api.GetDimensionsCount(info, &rank));
  known.dims.resize(rank);
  known.names.resize(rank);
  require_ok(api, api.GetDimensions(info, known.dims.data(), rank));
  require_ok(api, api.GetSymbolicDimensions(info, known.names.data(), rank));
  return known;
}

void set_shape(const OrtApi& api, OrtShapeInferContext* context, std::size_t output,
               KnownShape shape) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  require_ok(api, api.CreateTensorTypeAndShapeInfo(&info));
  OrtStatus* status = api.SetTensorElementType(info, shape.type);
  const auto then = [&](OrtStatus* next) {
    if (status == nullptr) {
      status = next;
    } else {
      api.ReleaseStatus(next);
    }
  };
  then(api.SetDimensions(info, shape.dims.data(), shape.dims.size()));
  then(api.SetSymbolicDimensions(info, shape.names.data(), shape.names.size()));
  then(api.ShapeInferContext_SetOutputTypeShape(context, output, info));
  api.ReleaseTensorTypeAndShapeInfo(info);
  require_ok(api, status);
}

}  // namespace

OrtStatusPtr infer_shapes(const OrtApi& api, const Contract& contract,
                          OrtShapeInferContext* context) noexcept {
  return guarded(api, [&] {
    std::vector<KnownShape> inputs;
    std::vector<std::vector<Known>> known;
    for (std::size_t i = 0; i < contract.inputs.size; ++i) {
      inputs.push_back(known_shape(api, context, i));
      known.push_back(inputs.back().known());
    }
    for (std::size_t i = 0; i < contract.outputs.size; ++i) {
      const TensorSpec& spec = contract.outputs[i];
      const auto axes = axes_of(contract, spec, known);
      // The runtime would take an axis of which nothing is known for one of size -1, which agrees
      // with no other; without a shape, what the graph itself declares holds.
      if (!axes) continue;
      KnownShape shape{inputs[input_with(contract, spec.element)].type, {}, {}};
      for (const auto [input, axis] : *axes) {
        shape.dims.push_back(inputs[input].dims[axis]);
        shape.names.push_back(inputs[input].names[axis]);
      }
      set_shape(api, context, i, std::move(shape));
    }
  });
}

}  // namespace mamba_export::ort
