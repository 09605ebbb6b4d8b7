#include "plugin_base.h"

#include <array>
#include <utility>
#include <vector>

#include "log.h"
#include "node_error.h"
#include "tensor_types.h"

namespace mamba_export::trt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr std::int32_t kOk = 0;
constexpr std::int32_t kFailed = 1;

Shape shape_of(const Dims& dims) {
  Shape shape;
  shape.rank = static_cast<std::size_t>(dims.nbDims);
  for (std::size_t i = 0; i < shape.rank && i < kMaxRank; ++i) shape.dims[i] = dims.d[i];
  return shape;
}

// What is no constant is not known yet.
Shape shape_of(const nvinfer1::DimsExprs& dims) {
  Shape shape;
  shape.rank = static_cast<std::size_t>(dims.nbDims);
  for (std::size_t i = 0; i < shape.rank && i < kMaxRank; ++i) {
    shape.dims[i] = dims.d[i]->isConstant() ? dims.d[i]->getConstantValue() : -1;
  }
  return shape;
}

// Whether all dimensions are known.
bool complete(const Shape& shape) {
  for (std::size_t i = 0; i < shape.rank && i < kMaxRank; ++i) {
    if (shape.dims[i] < 0) return false;
  }
  return true;
}

const PluginTensorDesc& tensor(const PluginTensorDesc& desc) { return desc; }
const PluginTensorDesc& tensor(const DynamicPluginTensorDesc& desc) { return desc.desc; }

// The element types of the first tensors of a node.
template <class Desc>
std::array<DataType, 16> first_types(const Desc* tensors, std::size_t count) {
  std::array<DataType, 16> types{};
  for (std::size_t i = 0; i < count; ++i) types.at(i) = tensor(tensors[i]).type;
  return types;
}

template <class Desc>
Types types_of(const Contract& contract, const Desc* in) {
  return trt::types_of(contract, first_types(in, contract.inputs.size).data());
}

// Returns the sizes behind the shapes that `shape(i)` returns for each input.
template <class F>
Sizes sizes_of(const Contract& contract, const F& shape) {
  Sizes sizes;
  for (std::size_t i = 0; i < contract.inputs.size; ++i) sizes.add(contract.inputs[i], shape(i));
  return sizes;
}

}  // namespace

PluginBase::PluginBase(const Contract& contract, std::string layer,
                       const nvinfer1::PluginFieldCollection& fields)
    : contract_(contract),
      layer_(std::move(layer)),
      fields_(std::make_shared<const PluginFields>(contract, fields)),
      timing_cache_id_(fields_->text() + " kernels=" MAMBA_EXPORT_KERNELS_ID) {}

template <class Result, class F>
Result PluginBase::reported(Result failed, const F& body) const noexcept {
  return guarded(failed, [&] {
    try {
      return body();
    } catch (const NodeError& error) {
      throw NodeError("layer '" + layer_ + "': " + error.what());
    }
  });
}

nvinfer1::IPluginCapability* PluginBase::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE:
      return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD:
      return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME:
      return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

nvinfer1::IPluginV3* PluginBase::clone() noexcept {
  return reported(static_cast<PluginBase*>(nullptr), [&] { return copy(); });
}

nvinfer1::IPluginV3* PluginBase::attachToContext(nvinfer1::IPluginResourceContext*) noexcept {
  return clone();
}

const nvinfer1::PluginFieldCollection* PluginBase::getFieldsToSerialize() noexcept {
  return fields_->collection();
}

// -- what it returns ------------------------------------------------------------------------------

std::int32_t PluginBase::getNbOutputs() const noexcept {
  return static_cast<std::int32_t>(contract_.outputs.size);
}

std::int32_t PluginBase::getOutputDataTypes(DataType* types, std::int32_t outputs,
                                            const DataType* input_types,
                                            std::int32_t inputs) const noexcept {
  return reported(kFailed, [&] {
    require_arity(inputs, outputs);
    const Types found = trt::types_of(contract_, input_types);
    for (std::size_t i = 0; i < contract_.outputs.size; ++i) {
      types[i] = data_type(contract_.outputs[i].element, found);
    }
    return kOk;
  });
}

std::int32_t PluginBase::getOutputShapes(const nvinfer1::DimsExprs* input_shapes,
                                         std::int32_t inputs, const nvinfer1::DimsExprs*,
                                         std::int32_t, nvinfer1::DimsExprs* shapes,
                                         std::int32_t outputs, nvinfer1::IExprBuilder&) noexcept {
  return reported(kFailed, [&] {
    require_arity(inputs, outputs);
    sizes_of(contract_, [&](std::size_t i) { return shape_of(input_shapes[i]); });
    std::vector<std::vector<Known>> known;
    for (std::int32_t i = 0; i < inputs; ++i) {
      known.emplace_back(input_shapes[i].nbDims, Known::kSize);  // or an expression of it
    }
    for (std::size_t i = 0; i < contract_.outputs.size; ++i) {
      const auto axes = axes_of(contract_, contract_.outputs[i], known);
      shapes[i].nbDims = 0;
      for (const auto [input, axis] : axes.value()) {
        shapes[i].d[shapes[i].nbDims++] = input_shapes[input].d[axis];
      }
    }
    return kOk;
  });
}

// -- what it takes --------------------------------------------------------------------------------

bool PluginBase::supportsFormatCombination(std::int32_t position,
                                           const DynamicPluginTensorDesc* tensors,
                                           std::int32_t inputs, std::int32_t outputs) noexcept {
  return reported(false, [&] {
    require_arity(inputs, outputs);
    if (tensors[position].desc.format != nvinfer1::TensorFormat::kLINEAR) return false;
    const auto last = static_cast<std::size_t>(position);
    return fits(contract_, first_types(tensors, last + 1).data(), last);
  });
}

std::int32_t PluginBase::configurePlugin(const DynamicPluginTensorDesc* in, std::int32_t inputs,
                                         const DynamicPluginTensorDesc*,
                                         std::int32_t outputs) noexcept {
  return reported(kFailed, [&] {
    require_arity(inputs, outputs);
    const Types types = types_of(contract_, in);
    const auto require_limit = [&](const Dims DynamicPluginTensorDesc::* limit) {
      bool known = true;
      const Sizes sizes = sizes_of(contract_, [&](std::size_t i) {
        const Shape shape = shape_of(in[i].*limit);
        known = known && complete(shape);
        return shape;
      });
      if (known) require_valid(sizes, types);
    };
    require_limit(&DynamicPluginTensorDesc::max);
    require_bounded(in);
    require_limit(&DynamicPluginTensorDesc::min);
    return kOk;
  });
}

std::size_t PluginBase::getWorkspaceSize(const DynamicPluginTensorDesc* in, std::int32_t inputs,
                                         const DynamicPluginTensorDesc*,
                                         std::int32_t outputs) const noexcept {
  // This interface knows no failure; without a workspace, a call that needs one is refused.
  return reported(std::size_t{0}, [&] {
    require_arity(inputs, outputs);
    const Sizes sizes = sizes_of(contract_, [&](std::size_t i) {
      const Shape shape = shape_of(in[i].max);
      if (complete(shape)) return shape;
      throw NodeError(std::string(contract_.op) + ": input '" + contract_.inputs[i].name +
                      "' has a size without a limit, so no workspace suffices: give its largest "
                      "shape in the optimization profile");
    });
    return most_workspace(sizes, types_of(contract_, in));
  });
}

void PluginBase::require_arity(std::int32_t inputs, std::int32_t outputs) const {
  const auto differ = [&](const char* what, std::size_t expected, std::int32_t found) {
    if (static_cast<std::int32_t>(expected) == found) return;
    throw NodeError(std::string(contract_.op) + " has " + std::to_string(expected) + " " + what +
                    ", found " + std::to_string(found));
  };
  differ("inputs", contract_.inputs.size, inputs);
  differ("outputs", contract_.outputs.size, outputs);
}

void PluginBase::require_valid(const Sizes& sizes, Types types) const {
  const std::string found = problem(sizes, types);
  if (!found.empty()) throw NodeError(std::string(contract_.op) + ": " + found);
}

// The workspace suffices for all batches and sequences, not for other sizes that vary.
void PluginBase::require_bounded(const DynamicPluginTensorDesc* in) const {
  for (std::size_t i = 0; i < contract_.inputs.size; ++i) {
    const TensorSpec& spec = contract_.inputs[i];
    const auto leading = static_cast<std::size_t>(in[i].max.nbDims) - spec.axes.count;
    for (std::size_t k = 0; k < spec.axes.count; ++k) {
      const char letter = spec.axes.axis[k].letter;
      const std::int64_t low = in[i].min.d[leading + k];
      const std::int64_t high = in[i].max.d[leading + k];
      if (low == high || letter == 'B' || letter == 'T') continue;
      throw NodeError(std::string(contract_.op) + ": input '" + spec.name + "' has " + letter +
                      " from " + std::to_string(low) + " to " + std::to_string(high) +
                      " in this profile, but only batch, sequence and leading axes may vary");
    }
  }
}

// -- what it does ---------------------------------------------------------------------------------

std::int32_t PluginBase::onShapeChange(const PluginTensorDesc* in, std::int32_t inputs,
                                       const PluginTensorDesc*, std::int32_t outputs) noexcept {
  return reported(kFailed, [&] {
    require_arity(inputs, outputs);
    const Sizes sizes = sizes_of(contract_, [&](std::size_t i) { return shape_of(in[i].dims); });
    require_valid(sizes, types_of(contract_, in));
    return kOk;
  });
}

std::int32_t PluginBase::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*,
                                 const void* const* inputs, void* const* outputs, void* workspace,
                                 cudaStream_t stream) noexcept {
  return reported(kFailed, [&] {
    const Sizes sizes = sizes_of(contract_, [&](std::size_t i) { return shape_of(in[i].dims); });
    const Types types = types_of(contract_, in);
    require_valid(sizes, types);
    const cudaError_t error = launch(sizes, types, {inputs, outputs, workspace}, stream);
    if (error != cudaSuccess) {
      throw NodeError(std::string(contract_.op) + " with " + sizes.described() +
                      ": CUDA: " + cudaGetErrorString(error));
    }
    return kOk;
  });
}

}  // namespace mamba_export::trt
