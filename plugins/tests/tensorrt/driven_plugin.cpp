#include "driven_plugin.h"

#include <cuda_runtime_api.h>

#include <cstring>
#include <stdexcept>
#include <utility>

#include "creators.h"
#include "expressions.h"
#include "guarded_call.h"

namespace mamba_export::testing {
namespace {

using nvinfer1::DataType;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

void require(bool holds, const std::string& what) {
  if (!holds) throw Failure(what);
}

bool varies(const std::string& axes, std::size_t axis) {
  const char letter = axes[2 * axis];  // axes before K-1 are one letter each
  return letter == 'B' || letter == 'T' || letter == 'R';
}

DataType type_of(const Case& c, const OperandSpec& spec) {
  if (spec.element == "i32") return DataType::kINT32;
  const DataType types[] = {DataType::kFLOAT, DataType::kHALF, DataType::kBF16};
  return types[static_cast<int>(c.element(spec))];
}

nvinfer1::Dims dims_of(const Case& c, const OperandSpec& spec, bool two_leading) {
  nvinfer1::Dims dims{};
  std::vector<std::int64_t> shape = c.shape(spec);
  if (two_leading && spec.axes[0] == 'R') {
    const std::int64_t outer = shape[0] % 2 == 0 ? 2 : shape[0];
    if (shape[0] > 0) shape[0] /= outer;
    shape.insert(shape.begin(), outer);
  }
  for (const std::int64_t extent : shape) dims.d[dims.nbDims++] = extent;
  return dims;
}

template <class T>
std::string bytes_of(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof value);
}

std::string value_of(const Case& c, const std::string& attribute) {
  if (attribute == "activation") return c.silu ? std::string("silu", 5) : std::string("none", 5);
  if (attribute == "dt_min") return bytes_of(c.dt_min);
  if (attribute == "dt_max") return bytes_of(c.dt_max);
  if (attribute == "eps") return bytes_of(c.eps);
  const std::int64_t value = attribute == "dt_softplus"        ? c.dt_softplus
                             : attribute == "gated"            ? c.gated
                             : attribute == "reverse"          ? c.reverse
                             : attribute == "norm_before_gate" ? c.norm_before_gate
                             : attribute == "ngroups"          ? c.size['G']
                             : attribute == "chunk_size"       ? 64
                                                               : -1;
  require(value >= 0, "this harness does not know the attribute " + attribute);
  return bytes_of(static_cast<std::int32_t>(value));
}

std::size_t bytes_in(const PluginField& field) {
  const std::size_t element = field.type == PluginFieldType::kCHAR ? 1 : 4;
  return static_cast<std::size_t>(field.length) * element;
}

}  // namespace

nvinfer1::IPluginCreatorV3One& creator_of(const std::string& op) {
  for (nvinfer1::IPluginCreatorInterface* const creator : trt::creators()) {
    auto& named = static_cast<nvinfer1::IPluginCreatorV3One&>(*creator);
    if (named.getPluginName() == op) return named;
  }
  throw std::runtime_error("there is no plugin " + op);
}

// ---- fields -------------------------------------------------------------------------------------

Fields::Fields(const Case& c) {
  const auto& declared = *creator_of(c.op->name).getFieldNames();
  for (std::int32_t i = 0; i < declared.nbFields; ++i) {
    add(declared.fields[i], value_of(c, declared.fields[i].name));
  }
}

Fields::Fields(const nvinfer1::PluginFieldCollection& fields) {
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    add(field, std::string(static_cast<const char*>(field.data), bytes_in(field)));
  }
}

void Fields::add(const PluginField& field, std::string value) {
  names_.push_back(std::make_unique<std::string>(field.name));
  values_.push_back(std::make_unique<std::string>(std::move(value)));
  const std::string& kept = *values_.back();
  const auto length = field.type == PluginFieldType::kCHAR ? kept.size() : kept.size() / 4;
  fields_.emplace_back(names_.back()->c_str(), kept.data(), field.type,
                       static_cast<std::int32_t>(length));
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

// ---- tensors ------------------------------------------------------------------------------------

Tensors::Tensors(const Case& c, bool two_leading)
    : inputs(static_cast<std::int32_t>(c.op->inputs.size())) {
  for (const auto* specs : {&c.op->inputs, &c.op->outputs}) {
    for (const OperandSpec& spec : *specs) {
      all.push_back({dims_of(c, spec, two_leading), type_of(c, spec), TensorFormat::kLINEAR, 1.0f});
    }
  }
}

std::vector<DynamicPluginTensorDesc> profile(const Case& largest, bool two_leading) {
  std::vector<DynamicPluginTensorDesc> ranges;
  const Tensors tensors(largest, two_leading);
  for (std::size_t i = 0; i < tensors.all.size(); ++i) {
    const std::size_t inputs = largest.op->inputs.size();
    const OperandSpec& spec = i < inputs ? largest.op->inputs[i] : largest.op->outputs[i - inputs];
    DynamicPluginTensorDesc range{tensors.all[i], tensors.all[i].dims, tensors.all[i].dims,
                                  tensors.all[i].dims};
    const auto axes = largest.shape(spec).size();
    const auto first = static_cast<std::size_t>(range.max.nbDims) - axes;
    for (std::size_t axis = 0; axis < axes; ++axis) {
      if (!varies(spec.axes, axis)) continue;
      range.desc.dims.d[first + axis] = -1;
      if (range.max.d[first + axis] > 0) range.min.d[first + axis] = 1;
    }
    ranges.push_back(range);
  }
  return ranges;
}

// ---- the plugin ---------------------------------------------------------------------------------

DrivenPlugin::DrivenPlugin(nvinfer1::IPluginV3* plugin) : plugin_(plugin) {
  require(plugin_ != nullptr, "no plugin was made");
}

DrivenPlugin::DrivenPlugin(const std::string& op, const Fields& fields,
                           nvinfer1::TensorRTPhase phase)
    : DrivenPlugin(creator_of(op).createPlugin("the_layer", fields.get(), phase)) {
  require(core().getPluginName() == op, "a plugin has another name than its creator");
}

nvinfer1::IPluginV3OneCore& DrivenPlugin::core() const {
  return *static_cast<nvinfer1::IPluginV3OneCore*>(
      plugin_->getCapabilityInterface(nvinfer1::PluginCapabilityType::kCORE));
}

nvinfer1::IPluginV3OneBuild& DrivenPlugin::builder() const {
  return *static_cast<nvinfer1::IPluginV3OneBuild*>(
      plugin_->getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
}

nvinfer1::IPluginV3OneRuntime& DrivenPlugin::runtime() const {
  return *static_cast<nvinfer1::IPluginV3OneRuntime*>(
      plugin_->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
}

std::size_t DrivenPlugin::build(const Case& c, const Case& largest, bool two_leading) const {
  const DrivenPlugin network(plugin_->clone());
  const Tensors tensors(c, two_leading);
  require(network.builder().getNbOutputs() == tensors.outputs(), "another number of outputs");
  network.check_types(tensors);
  network.check_shapes(c, tensors);
  network.check_formats(tensors);
  const auto ranges = profile(largest, two_leading);
  const auto* const out = ranges.data() + tensors.inputs;
  require(
      network.builder().configurePlugin(ranges.data(), tensors.inputs, out, tensors.outputs()) == 0,
      "a supported profile is refused");
  require(std::string(network.builder().getTimingCacheID()).find(" kernels=") != std::string::npos,
          "the timing cache would not notice other kernels");
  require(std::string(network.builder().getMetadataString()).find(c.op->name) == 0,
          "the metadata does not name the op");
  return network.builder().getWorkspaceSize(ranges.data(), tensors.inputs, out, tensors.outputs());
}

void DrivenPlugin::check_types(const Tensors& tensors) const {
  std::vector<DataType> in, out(static_cast<std::size_t>(tensors.outputs()));
  for (std::int32_t i = 0; i < tensors.inputs; ++i) in.push_back(tensors.in()[i].type);
  require(
      builder().getOutputDataTypes(out.data(), tensors.outputs(), in.data(), tensors.inputs) == 0,
      "valid types are refused");
  for (std::int32_t i = 0; i < tensors.outputs(); ++i) {
    require(out[static_cast<std::size_t>(i)] == tensors.out()[i].type, "an output of another type");
  }
}

void DrivenPlugin::check_shapes(const Case& c, const Tensors& tensors) const {
  std::vector<std::unique_ptr<Dimension>> dimensions;
  std::vector<nvinfer1::DimsExprs> in, out(static_cast<std::size_t>(tensors.outputs()));
  for (std::int32_t i = 0; i < tensors.inputs; ++i) {
    const OperandSpec& spec = c.op->inputs[static_cast<std::size_t>(i)];
    const nvinfer1::Dims& dims = tensors.in()[i].dims;
    const auto first = dims.nbDims - static_cast<std::int32_t>(c.shape(spec).size());
    nvinfer1::DimsExprs shape{};
    shape.nbDims = dims.nbDims;
    for (std::int32_t axis = 0; axis < dims.nbDims; ++axis) {
      const bool known =
          axis >= first && !varies(spec.axes, static_cast<std::size_t>(axis - first));
      dimensions.push_back(std::make_unique<Dimension>(dims.d[axis], known));
      shape.d[axis] = dimensions.back().get();
    }
    in.push_back(shape);
  }
  NoExpressions expressions;
  require(builder().getOutputShapes(in.data(), tensors.inputs, nullptr, 0, out.data(),
                                    tensors.outputs(), expressions) == 0,
          "valid shapes are refused");
  for (std::int32_t i = 0; i < tensors.outputs(); ++i) {
    const nvinfer1::DimsExprs& shape = out[static_cast<std::size_t>(i)];
    const nvinfer1::Dims& expected = tensors.out()[i].dims;
    require(shape.nbDims == expected.nbDims, "an output of another rank");
    for (std::int32_t axis = 0; axis < expected.nbDims; ++axis) {
      require(static_cast<const Dimension*>(shape.d[axis])->value() == expected.d[axis],
              "an output of another shape");
    }
  }
}

// Tensors from `position` on are not known yet when TensorRT asks for it: they are nonsense here.
void DrivenPlugin::check_formats(const Tensors& tensors) const {
  const auto takes = [&](std::size_t position, DataType type, TensorFormat format) {
    std::vector<DynamicPluginTensorDesc> asked;
    for (std::size_t i = 0; i < tensors.all.size(); ++i) {
      DynamicPluginTensorDesc tensor{};
      tensor.desc = tensors.all[i];
      if (i == position) tensor.desc.type = type;
      if (i == position) tensor.desc.format = format;
      if (i > position) tensor.desc.type = DataType::kINT8;
      if (i > position) tensor.desc.format = TensorFormat::kCHW32;
      asked.push_back(tensor);
    }
    return builder().supportsFormatCombination(static_cast<std::int32_t>(position), asked.data(),
                                               tensors.inputs, tensors.outputs());
  };
  for (std::size_t i = 0; i < tensors.all.size(); ++i) {
    const DataType right = tensors.all[i].type;
    const std::string which = "tensor " + std::to_string(i);
    require(takes(i, right, TensorFormat::kLINEAR), which + " is refused");
    require(!takes(i, right, TensorFormat::kCHW4), which + " is taken in another format");
    for (const DataType wrong : {DataType::kINT8, DataType::kINT64, DataType::kBOOL}) {
      require(!takes(i, wrong, TensorFormat::kLINEAR), which + " is taken in another type");
    }
  }
}

DrivenPlugin DrivenPlugin::from_engine() const {
  const Fields engine(*runtime().getFieldsToSerialize());
  return DrivenPlugin(core().getPluginName(), engine, nvinfer1::TensorRTPhase::kRUNTIME);
}

DrivenPlugin DrivenPlugin::in_context() const {
  return DrivenPlugin(runtime().attachToContext(nullptr));
}

void DrivenPlugin::run(const Case& c, bool two_leading, const std::vector<void*>& operands,
                       void* workspace, cudaStream_t stream) const {
  const Tensors tensors(c, two_leading);
  require(
      runtime().onShapeChange(tensors.in(), tensors.inputs, tensors.out(), tensors.outputs()) == 0,
      "supported shapes are refused");
  require(runtime().enqueue(tensors.in(), tensors.out(), operands.data(),
                            operands.data() + tensors.inputs, workspace, stream) == 0,
          "a valid call fails");
  require(cudaStreamSynchronize(stream) == cudaSuccess, "the kernels fail");
}

}  // namespace mamba_export::testing
