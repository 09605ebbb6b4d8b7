#include "custom_op.h"

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

OrtStatusPtr infer_shapes(const OrtApi& api, const Contract& contract,
                          OrtShapeInferContext* context) noexcept {
  return guarded(api, [&] {
    for (std::size_t i = 0; i < contract.outputs.size; ++i) {
      const std::size_t twin = input_like(contract, contract.outputs[i]);
      OrtTensorTypeAndShapeInfo* info = nullptr;  // stays the runtime's
      require_ok(api, api.ShapeInferContext_GetInputTypeShape(context, twin, &info));
      std::size_t rank = 0;
      require_ok(api, api.GetDimensionsCount(info, &rank));
      if (rank == 0) continue;  // an unknown shape comes as one without axes
      require_ok(api, api.ShapeInferContext_SetOutputTypeShape(context, i, info));
    }
  });
}

}  // namespace mamba_export::ort
