#include "tensor_types.h"

#include <string>

#include "node_error.h"

namespace mamba_export::trt {
namespace {

using nvinfer1::DataType;

const TensorSpec& tensor(const Contract& contract, std::size_t position) {
  const std::size_t inputs = contract.inputs.size;
  return position < inputs ? contract.inputs[position] : contract.outputs[position - inputs];
}

bool is_activation(DataType type) {
  return type == DataType::kFLOAT || type == DataType::kHALF || type == DataType::kBF16;
}

ElementType element_type(DataType type) {
  return type == DataType::kHALF   ? ElementType::kFloat16
         : type == DataType::kBF16 ? ElementType::kBFloat16
                                   : ElementType::kFloat32;
}

DataType data_type(ElementType type) {
  return type == ElementType::kFloat16    ? DataType::kHALF
         : type == ElementType::kBFloat16 ? DataType::kBF16
                                          : DataType::kFLOAT;
}

std::string name_of(DataType type) {
  switch (type) {
    case DataType::kFLOAT:
      return "float32";
    case DataType::kHALF:
      return "float16";
    case DataType::kBF16:
      return "bfloat16";
    case DataType::kINT32:
      return "int32";
    case DataType::kINT64:
      return "int64";
    default:
      return "TensorRT's type " + std::to_string(static_cast<int>(type));
  }
}

// What `fits` wants of an input that it refuses.
std::string expected(const Contract& contract, const DataType* types, std::size_t position) {
  const Element element = contract.inputs[position].element;
  if (element == Element::i32) return "int32";
  if (element != Element::io && element != Element::residual) return "float32";
  for (std::size_t i = 0; i < position; ++i) {
    const Element other = contract.inputs[i].element;
    if (other != Element::io && other != Element::residual) continue;
    const std::string owner = std::string("'") + contract.inputs[i].name + "'";
    const std::string as = name_of(types[i]) + ", as " + owner + " is";
    return other == element ? as : as + ", or " + owner + " float32";
  }
  return "float32, float16 or bfloat16";
}

}  // namespace

bool fits(const Contract& contract, const DataType* types, std::size_t position) {
  const DataType type = types[position];
  const Element element = tensor(contract, position).element;
  switch (element) {
    case Element::i32:
      return type == DataType::kINT32;
    case Element::state:
    case Element::f32:
      return type == DataType::kFLOAT;
    case Element::io:
    case Element::residual:
      break;
  }
  if (!is_activation(type)) return false;
  for (std::size_t i = 0; i < position; ++i) {
    const Element other = tensor(contract, i).element;
    if (other == element && types[i] != type) return false;
    const bool pair = (other == Element::io && element == Element::residual) ||
                      (other == Element::residual && element == Element::io);
    if (!pair) continue;
    const DataType residual = element == Element::residual ? type : types[i];
    const DataType io = element == Element::residual ? types[i] : type;
    if (residual != DataType::kFLOAT && residual != io) return false;
  }
  return true;
}

Types types_of(const Contract& contract, const DataType* inputs) {
  Types types{ElementType::kFloat32, ElementType::kFloat32};
  for (std::size_t i = 0; i < contract.inputs.size; ++i) {
    const TensorSpec& spec = contract.inputs[i];
    if (!fits(contract, inputs, i)) {
      throw NodeError(std::string(contract.op) + ": input '" + spec.name + "' must be " +
                      expected(contract, inputs, i) + ", found " + name_of(inputs[i]));
    }
    if (spec.element == Element::io) types.io = element_type(inputs[i]);
    if (spec.element == Element::residual) types.residual = element_type(inputs[i]);
  }
  return types;
}

DataType data_type(Element element, Types types) {
  switch (element) {
    case Element::io:
      return data_type(types.io);
    case Element::residual:
      return data_type(types.residual);
    case Element::i32:
      return DataType::kINT32;
    case Element::state:
    case Element::f32:
      break;
  }
  return DataType::kFLOAT;
}

}  // namespace mamba_export::trt
