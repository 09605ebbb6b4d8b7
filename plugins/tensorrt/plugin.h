// The plugin of one op: its Params, filled, checked and launched.
#pragma once

#include <string>
#include <utility>

#include "cuda_launch.h"
#include "node_error.h"
#include "nodes.h"
#include "plugin_base.h"

namespace mamba_export::trt {

template <class Node>
constexpr Contract kContract = contract_of(Node::kName);

template <class Node>
class Plugin final : public PluginBase {
 public:
  using Params = typename Node::Params;

  // Throws what is wrong with the fields.
  static PluginBase* make(std::string layer, const nvinfer1::PluginFieldCollection& fields) {
    Params params;
    FieldAttributes attributes(kContract<Node>, layer, fields);
    Node::read(attributes, params);
    attributes.require_all_read();
    return new Plugin(std::move(layer), fields, params);
  }

 private:
  Plugin(std::string layer, const nvinfer1::PluginFieldCollection& fields, const Params& params)
      : PluginBase(kContract<Node>, std::move(layer), fields), params_(params) {}

  PluginBase* copy() const override { return new Plugin(*this); }

  std::string problem(const Sizes& sizes, Types types) const override {
    return validate_launch(params_for(sizes, types));
  }

  std::size_t most_workspace(const Sizes& sizes, Types types) const override {
    return most_workspace_bytes(params_for(sizes, types));
  }

  cudaError_t launch(const Sizes& sizes, Types types, const Operands& operands,
                     cudaStream_t stream) const override {
    Params params = params_for(sizes, types);
    const Contract& contract = kContract<Node>;
    for (std::size_t i = 0; i < contract.inputs.size; ++i) {
      // One function stores both kinds; nothing is written through this pointer.
      contract.inputs[i].bind(&params, const_cast<void*>(operands.inputs[i]));
    }
    for (std::size_t i = 0; i < contract.outputs.size; ++i) {
      contract.outputs[i].bind(&params, operands.outputs[i]);
    }
    const std::size_t needed = workspace_bytes(params);
    if (needed > 0 && operands.workspace == nullptr) {
      throw NodeError(std::string(contract.op) + ": the call needs " + std::to_string(needed) +
                      " bytes of workspace, found none: the engine was built without it");
    }
    return mamba_export::launch(params, operands.workspace, stream);
  }

  Params params_for(const Sizes& sizes, Types types) const {
    Params params = params_;
    Node::resize(sizes, params);
    params.type = types.io;
    if constexpr (has_residual(kContract<Node>)) params.residual = types.residual;
    return params;
  }

  Params params_;  // with nothing but attributes
};

}  // namespace mamba_export::trt
