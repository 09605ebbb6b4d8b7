// The attributes of a node as TensorRT's plugin fields: those that the parser or an engine hands
// over, and those that go into an engine.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "attributes.h"

namespace mamba_export::trt {

// The fields that a creator takes, without values.
std::vector<nvinfer1::PluginField> declared_fields(const Contract& contract);

// Throws NodeError if the fields are of an engine that was built with other kernels: its workspaces
// may be too small for these.
void require_same_kernels(const Contract& contract, const std::string& layer,
                          const nvinfer1::PluginFieldCollection& fields);

// Reads fields as attributes.
class FieldAttributes : public Attributes {
 public:
  FieldAttributes(const Contract& contract, std::string layer,
                  const nvinfer1::PluginFieldCollection& fields)
      : Attributes(contract), layer_(std::move(layer)), fields_(fields) {}

 private:
  std::optional<std::int64_t> find_int(const char* name) const override;
  std::optional<float> find_float(const char* name) const override;
  std::optional<std::string> find_string(const char* name) const override;
  std::string node_name() const override { return layer_; }

  std::string layer_;
  const nvinfer1::PluginFieldCollection& fields_;
};

// Values of our own, for as long as a plugin lives: the attributes, and which kernels these are.
class PluginFields {
 public:
  // The fields must have all attributes of the contract, with their types.
  PluginFields(const Contract& contract, const nvinfer1::PluginFieldCollection& fields);
  PluginFields(const PluginFields&) = delete;
  PluginFields& operator=(const PluginFields&) = delete;

  const nvinfer1::PluginFieldCollection* collection() const { return &collection_; }

  // Returns "SelectiveScan v1 dt_softplus=1 gated=1 reverse=0".
  const std::string& text() const { return text_; }

 private:
  std::vector<std::string> values_;
  std::vector<nvinfer1::PluginField> fields_;
  nvinfer1::PluginFieldCollection collection_{};
  std::string text_;
};

}  // namespace mamba_export::trt
