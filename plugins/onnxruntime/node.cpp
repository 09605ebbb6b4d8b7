#include "node.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

namespace mamba_export::ort {
namespace {

[[noreturn]] void fail(std::string message) {
  throw Ort::Exception(std::move(message), ORT_INVALID_ARGUMENT);
}

std::string node_name(const OrtApi& api, const OrtKernelInfo* info) {
  std::size_t size = 0;
  require_ok(api, api.KernelInfo_GetNodeName(info, nullptr, &size));
  std::string name(size, '\0');
  require_ok(api, api.KernelInfo_GetNodeName(info, name.data(), &size));
  return name.c_str();  // without the terminating zero
}

std::string text(const Shape& shape) {
  const std::size_t shown = std::min(shape.rank, kMaxRank);
  std::string text = "[";
  for (std::size_t i = 0; i < shown; ++i) {
    text += (i == 0 ? "" : ", ") + std::to_string(shape.dims[i]);
  }
  return text + (shape.rank > shown ? ", ...]" : "]");
}

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

Attributes::Attributes(const OrtApi& api, const OrtKernelInfo* info, const Contract& contract)
    : api_(api), info_(info), contract_(contract) {
  // Every node also has plugin_namespace, which only TensorRT needs.
  const auto version = find_text("plugin_version");
  if (version && *version != contract.version) {
    reject("plugin_version", contract.version, *version);
  }
}

bool Attributes::boolean(const char* name) {
  const std::int64_t value = integer(name);
  if (value != 0 && value != 1) reject(name, "0 or 1", std::to_string(value));
  return value == 1;
}

std::int64_t Attributes::integer(const char* name) {
  declare_read(name);
  std::int64_t value = 0;
  if (OrtStatus* absent = api_.KernelInfoGetAttribute_int64(info_, name, &value)) {
    api_.ReleaseStatus(absent);
    reject(name, "an int", "no int of this name");
  }
  return value;
}

float Attributes::real(const char* name) {
  declare_read(name);
  float value = 0;
  if (OrtStatus* absent = api_.KernelInfoGetAttribute_float(info_, name, &value)) {
    api_.ReleaseStatus(absent);
    reject(name, "a float", "no float of this name");
  }
  return value;
}

std::string Attributes::one_of(const char* name, std::initializer_list<const char*> choices) {
  declare_read(name);
  const auto value = find_text(name);
  std::string expected;
  for (const char* choice : choices) {
    if (value == choice) return choice;
    expected += (expected.empty() ? "'" : " or '") + std::string(choice) + "'";
  }
  reject(name, expected, value ? "'" + *value + "'" : "no string of this name");
}

std::optional<std::string> Attributes::find_text(const char* name) const {
  std::size_t size = 0;
  if (OrtStatus* absent = api_.KernelInfoGetAttribute_string(info_, name, nullptr, &size)) {
    api_.ReleaseStatus(absent);
    return std::nullopt;
  }
  std::string value(size, '\0');
  require_ok(api_, api_.KernelInfoGetAttribute_string(info_, name, value.data(), &size));
  return value.c_str();  // without the terminating zero
}

void Attributes::reject(const char* name, const std::string& expected,
                        const std::string& found) const {
  fail(std::string(contract_.op) + " node '" + node_name(api_, info_) + "': attribute '" + name +
       "' must be " + expected + ", found " + found);
}

void Attributes::declare_read(const char* name) {
  for (std::size_t i = 0; i < contract_.attributes.size; ++i) {
    if (std::strcmp(contract_.attributes[i].name, name) == 0) {
      read_.at(i) = true;
      return;
    }
  }
  throw std::logic_error(std::string(contract_.op) + " has no attribute '" + name + "'");
}

void Attributes::require_all_read() const {
  for (std::size_t i = 0; i < contract_.attributes.size; ++i) {
    if (!read_.at(i)) {
      throw std::logic_error(std::string(contract_.op) + ": attribute '" +
                             contract_.attributes[i].name + "' is not read");
    }
  }
}

// -- sizes ---------------------------------------------------------------------------------------

std::int64_t Sizes::rows() const {
  std::int64_t rows = 1;
  for (std::size_t i = 0; i < leading_.rank; ++i) rows *= leading_.dims[i];
  return rows;
}

void Sizes::add(const TensorSpec& spec, const Shape& shape) {
  const Axes& axes = spec.axes;
  const auto must = [&] {
    return std::string(spec.op) + ": input '" + spec.name + "' must have shape [" + axes.text +
           "], found " + text(shape);
  };
  const auto differs = [&](const std::string& axis, const std::string& found, const char* other,
                           const std::string& expected) {
    fail(must() + ", so " + axis + " = " + found + ", but '" + other + "' has " + axis + " = " +
         expected);
  };
  if (shape.rank > kMaxRank || shape.rank < axes.count ||
      (shape.rank > axes.count && !axes.leading)) {
    fail(must());
  }
  const std::size_t first = shape.rank - axes.count;
  if (axes.leading) {
    Shape found = shape;
    found.rank = first;
    if (leading_input_ == nullptr) {
      leading_ = found;
      leading_input_ = spec.name;
    }
    if (found.rank != leading_.rank ||
        !std::equal(found.dims.begin(), found.dims.begin() + first, leading_.dims.begin())) {
      differs("...", text(found), leading_input_, text(leading_));
    }
  }
  for (std::size_t i = 0; i < axes.count; ++i) {
    const auto [letter, less] = axes.axis[i];
    const std::int64_t found = shape.dims[first + i] + less;
    Size& known = of_[index(letter)];
    if (known.input == nullptr) known = {found, spec.name};
    if (known.size != found) {
      differs(std::string(1, letter), std::to_string(found), known.input,
              std::to_string(known.size));
    }
  }
}

Shape Sizes::shape_of(const TensorSpec& spec) const {
  Shape shape;
  if (spec.axes.leading) shape = leading_;
  for (std::size_t i = 0; i < spec.axes.count; ++i) {
    const auto [letter, less] = spec.axes.axis[i];
    shape.dims[shape.rank++] = (*this)[letter] - less;
  }
  return shape;
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
