// Element types of activations. The recurrent state and all arithmetic are float32.
#pragma once

#include <cstdint>

namespace mamba_export {

enum class ElementType : std::uint8_t { kFloat32, kFloat16, kBFloat16 };

// 16-bit activations as they lie in memory; kernels convert them at load and store.
struct Float16 {
  std::uint16_t bits;
};
struct BFloat16 {
  std::uint16_t bits;
};

}  // namespace mamba_export
