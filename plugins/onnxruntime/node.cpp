#include "node.h"

#include <algorithm>
#include <utility>

namespace mamba_export::ort {
namespace {

Shape shape_of(const OrtApi& api, const OrtValue* tensor) {
  OrtTensorTypeAndShapeInfo* info = nullptr;
  require_ok(api, api.GetTensorTypeAndShape(tensor, &info));
  Shape shape;
  OrtStatus* status = api.GetDimensionsCount(info, &shape.rank);
  if (status == nullptr) {
    status = api.GetDimensions(info, shape.dims.data(), std::min(shape.rank, kMaxRank));
  }
  api.ReleaseTensorTypeAndShapeInfo(info);
  require_ok(api, status);
  return shape;
}

}  // namespace

void require_ok(const OrtApi& api, OrtStatus* status) {
  if (status == nullptr) return;
  std::string message = api.GetErrorMessage(status);
  const OrtErrorCode code = api.GetErrorCode(status);
  api.ReleaseStatus(status);
  throw Ort::Exception(std::move(message), code);
}

// -- attributes ----------------------------------------------------------------------------------

// Every node also has plugin_namespace, which only TensorRT needs.
NodeAttributes::NodeAttributes(const OrtApi& api, const OrtKernelInfo* info,
                               const Contract& contract)
    : Attributes(contract), api_(api), info_(info) {
  require_version();
}

std::optional<std::int64_t> NodeAttributes::find_int(const char* name) const {
  std::int64_t value = 0;
  return found(api_.KernelInfoGetAttribute_int64(info_, name, &value)) ? std::optional(value)
                                                                       : std::nullopt;
}

std::optional<float> NodeAttributes::find_float(const char* name) const {
  float value = 0;
  return found(api_.KernelInfoGetAttribute_float(info_, name, &value)) ? std::optional(value)
                                                                       : std::nullopt;
}

std::optional<std::string> NodeAttributes::find_string(const char* name) const {
  std::size_t size = 0;
  if (!found(api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size))) return std::nullopt;
  std::string value(size, '\0');
  require_ok(api_, api_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
  return value.c_str();  // without the terminating zero
}

std::string NodeAttributes::node_name() const {
  std::size_t size = 0;
  require_ok(api_, api_.KernelInfo_GetNodeName(info_, nullptr, &size));
  std::string name(size, '\0');
  require_ok(api_, api_.KernelInfo_GetNodeName(info_, name.data(), &size));
  return name.c_str();  // without the terminating zero
}

bool NodeAttributes::found(OrtStatus* absent) const {
  if (absent == nullptr) return true;
  api_.ReleaseStatus(absent);
  return false;
}

// -- tensors -------------------------------------------------------------------------------------

Sizes Tensors::bind_inputs(void* params) const {
  Sizes sizes;
  for (std::size_t i = 0; i < contract_.inputs.size; ++i) {
    const TensorSpec& spec = contract_.inputs[i];
    const OrtValue* tensor = nullptr;
    require_ok(api_, api_.KernelContext_GetInput(context_, i, &tensor));
    sizes.add(spec, shape_of(api_, tensor));
    void* data = nullptr;
    // There is no such function for const values; nothing is written.
    require_ok(api_, api_.GetTensorMutableData(const_cast<OrtValue*>(tensor), &data));
    spec.bind(params, data);
  }
  return sizes;
}

void Tensors::bind_outputs(const Sizes& sizes, void* params) const {
  for (std::size_t i = 0; i < contract_.outputs.size; ++i) {
    const TensorSpec& spec = contract_.outputs[i];
    const Shape shape = sizes.shape_of(spec);
    OrtValue* tensor = nullptr;
    require_ok(api_,
               api_.KernelContext_GetOutput(context_, i, shape.dims.data(), shape.rank, &tensor));
    void* data = nullptr;
    require_ok(api_, api_.GetTensorMutableData(tensor, &data));
    spec.bind(params, data);
  }
}

// -- threads -------------------------------------------------------------------------------------

void Threads::run(void* threads, std::size_t items, ParallelFor::Body body, void* context) {
  auto* self = static_cast<Threads*>(threads);
  if (self->status_ != nullptr) return;
  // One batch an item: a thread that is done early takes the next one.
  self->status_ = self->api_.KernelContext_ParallelFor(self->context_, body, items, items, context);
}

void Threads::finish() { require_ok(api_, std::exchange(status_, nullptr)); }

}  // namespace mamba_export::ort
