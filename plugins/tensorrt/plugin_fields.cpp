#include "plugin_fields.h"

#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string_view>

#include "node_error.h"

namespace mamba_export::trt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

// Of all that the plugins are compiled from.
constexpr const char* kKernels = "kernels";
constexpr char kKernelsId[] = MAMBA_EXPORT_KERNELS_ID;

// As the parser passes ONNX attributes.
PluginFieldType field_type(const AttributeSpec& attribute) {
  const std::string_view type = attribute.type;
  return type == "int"     ? PluginFieldType::kINT32
         : type == "float" ? PluginFieldType::kFLOAT32
                           : PluginFieldType::kCHAR;
}

// Of a field with one number.
template <class T>
T number(const PluginField& field) {
  T value;
  std::memcpy(&value, field.data, sizeof value);
  return value;
}

std::string decimal(float value) {
  char digits[32];
  std::snprintf(digits, sizeof digits, "%.9g", static_cast<double>(value));  // all that differ
  return digits;
}

// Of a field of characters, which may or may not end with a zero that counts.
std::string characters(const PluginField& field) {
  std::string value(static_cast<const char*>(field.data), static_cast<std::size_t>(field.length));
  while (!value.empty() && value.back() == '\0') value.pop_back();
  return value;
}

const PluginField* find_field(const nvinfer1::PluginFieldCollection& fields, const char* name,
                              PluginFieldType type) {
  for (std::int32_t i = 0; i < fields.nbFields; ++i) {
    const PluginField& field = fields.fields[i];
    if (std::strcmp(field.name, name) != 0 || field.type != type) continue;
    const bool fits = type == PluginFieldType::kCHAR ? field.length >= 0 : field.length == 1;
    if (fits && field.data != nullptr) return &field;
  }
  return nullptr;
}

}  // namespace

std::vector<PluginField> declared_fields(const Contract& contract) {
  std::vector<PluginField> fields;
  for (const AttributeSpec& attribute : contract.attributes) {
    fields.emplace_back(attribute.name, nullptr, field_type(attribute), 1);
  }
  return fields;
}

void require_same_kernels(const Contract& contract, const std::string& layer,
                          const nvinfer1::PluginFieldCollection& fields) {
  const PluginField* const field = find_field(fields, kKernels, PluginFieldType::kCHAR);
  const std::string found = field == nullptr ? "none" : characters(*field);
  if (found == kKernelsId) return;
  throw NodeError(std::string(contract.op) + " node '" + layer +
                  "': the engine was built with the kernels " + found + ", here are " + kKernelsId +
                  ": build the engine again, or use the plugin library that it was built with");
}

std::optional<std::int64_t> FieldAttributes::find_int(const char* name) const {
  const PluginField* const field = find_field(fields_, name, PluginFieldType::kINT32);
  return field ? std::optional<std::int64_t>(number<std::int32_t>(*field)) : std::nullopt;
}

std::optional<float> FieldAttributes::find_float(const char* name) const {
  const PluginField* const field = find_field(fields_, name, PluginFieldType::kFLOAT32);
  return field ? std::optional(number<float>(*field)) : std::nullopt;
}

std::optional<std::string> FieldAttributes::find_string(const char* name) const {
  const PluginField* const field = find_field(fields_, name, PluginFieldType::kCHAR);
  return field ? std::optional(characters(*field)) : std::nullopt;
}

PluginFields::PluginFields(const Contract& contract, const nvinfer1::PluginFieldCollection& fields)
    : text_(std::string(contract.op) + " v" + contract.version) {
  values_.reserve(contract.attributes.size);  // fields point into them
  for (const AttributeSpec& attribute : contract.attributes) {
    const PluginFieldType type = field_type(attribute);
    const PluginField* const field = find_field(fields, attribute.name, type);
    if (field == nullptr) throw std::logic_error("attributes are checked before they are kept");
    std::string value;
    std::string shown;
    std::int32_t length = 1;
    if (type == PluginFieldType::kCHAR) {
      value = shown = characters(*field);
      length = static_cast<std::int32_t>(value.size()) + 1;  // with its zero
    } else {
      value.assign(static_cast<const char*>(field->data), 4);
      shown = type == PluginFieldType::kINT32 ? std::to_string(number<std::int32_t>(*field))
                                              : decimal(number<float>(*field));
    }
    values_.push_back(std::move(value));
    fields_.emplace_back(attribute.name, values_.back().c_str(), type, length);
    text_ += " " + std::string(attribute.name) + "=" + shown;
  }
  fields_.emplace_back(kKernels, kKernelsId, PluginFieldType::kCHAR,
                       static_cast<std::int32_t>(sizeof kKernelsId));
  collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
}

}  // namespace mamba_export::trt
