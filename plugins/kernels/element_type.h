// Element types of activations. The recurrent state and all arithmetic are float32.
#pragma once

#include <cstddef>
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

constexpr std::size_t size_of(ElementType type) { return type == ElementType::kFloat32 ? 4 : 2; }

// Calls f with a value of the type that `type` names, and returns what it does.
template <class F>
auto with_element(ElementType type, const F& f) {
  switch (type) {
    case ElementType::kFloat16:
      return f(Float16{});
    case ElementType::kBFloat16:
      return f(BFloat16{});
    default:
      return f(float{});
  }
}

}  // namespace mamba_export
