// Conversions of bfloat16; see simt.h.
#pragma once

#include "../elements.h"

struct __nv_bfloat16 {
  std::uint16_t bits;
};

inline std::uint16_t __bfloat16_as_ushort(__nv_bfloat16 x) { return x.bits; }
inline __nv_bfloat16 __float2bfloat16_rn(float x) {
  using namespace mamba_export;
  __nv_bfloat16 result;
  if (std::isnan(x)) return {0x7fff};
  testing::encode(ElementType::kBFloat16,
                  static_cast<float>(testing::round_to(ElementType::kBFloat16, x)), &result.bits);
  return result;
}
