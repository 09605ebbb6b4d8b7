// What is wrong with a node: its attributes, its shapes or its element types.
#pragma once

#include <stdexcept>

namespace mamba_export {

struct NodeError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace mamba_export
