// The contract of the ops (op_contract.inc) as tables: names, element types and axes, in the order
// of the ONNX node. Each tensor also knows the member of its op's Params that has its name.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <type_traits>

#include "add_rms_norm.h"
#include "causal_conv1d.h"
#include "conv_ssd_state_update.h"
#include "gated_rms_norm.h"
#include "selective_scan.h"
#include "ssd_chunk_scan.h"

namespace mamba_export {

// As in mamba_export/ops/contract.py: `io` is the type of the activations, one for the whole node,
// `residual` that of the residual stream: float32 or the same.
enum class Element : std::uint8_t { io, residual, state, f32, i32 };

// The types that one node has for the first two.
struct Types {
  ElementType io;
  ElementType residual;
};

constexpr std::size_t kMaxRank = 8;

struct Axis {
  char letter = 0;  // the size it belongs to, such as K
  int less = 0;     // by how much the axis is shorter: 1 for K-1

  constexpr bool operator==(const Axis& other) const {
    return letter == other.letter && less == other.less;
  }
};

struct Axes {
  const char* text;       // such as B,C,K-1 or ...,D
  bool leading = false;   // "...": any number of axes, before those with a letter
  std::size_t count = 0;  // of those with a letter
  Axis axis[kMaxRank] = {};

  constexpr Axes(const char* axes) : text(axes) {
    for (const char* at = axes; *at != '\0'; ++at) {
      if (*at == '.') {
        leading = true;
      } else if (*at == '-') {
        axis[count - 1].less = *++at - '0';
      } else if (*at != ',') {
        axis[count++].letter = *at;
      }
    }
  }

  constexpr bool has_rank(std::size_t rank) const {
    return leading ? rank >= count : rank == count;
  }

  // Which of those with a letter is like this one, or `count`.
  constexpr std::size_t find(const Axis& wanted) const {
    std::size_t i = 0;
    while (i < count && !(axis[i] == wanted)) ++i;
    return i;
  }
};

struct OpSpec {
  const char* op;
  const char* version;
};

struct TensorSpec {
  const char* op;
  const char* name;
  Element element;
  Axes axes;
  void (*bind)(void* params, void* data);  // stores where its elements are in the op's Params
};

struct AttributeSpec {
  const char* op;
  const char* name;
  const char* type;  // int, float or string
};

// Stores the address of elements in one member of the Params, which must point to such elements.
template <Element element, class Params, auto member>
struct Member;

// Its owner is the Params or what they extend.
template <Element element, class Params, class Owner, class T, T* Owner::* member>
struct Member<element, Params, member> {
  static constexpr bool kTyped = element == Element::io || element == Element::residual;
  using Single = std::conditional_t<element == Element::i32, std::int32_t, float>;
  using Expected = std::conditional_t<kTyped, void, Single>;
  static_assert(std::is_same_v<std::remove_const_t<T>, Expected>);

  static void bind(void* params, void* data) {
    static_cast<Params*>(params)->*member = static_cast<T*>(data);
  }
};

#define MAMBA_EXPORT_OP(op, root, version) {#op, version},
#define MAMBA_EXPORT_INPUT(op, name, element, axes)
#define MAMBA_EXPORT_OUTPUT(op, name, element, axes)
#define MAMBA_EXPORT_ATTRIBUTE(op, name, type)
constexpr OpSpec kOps[] = {
#include "op_contract.inc"
};
#undef MAMBA_EXPORT_OP
#define MAMBA_EXPORT_OP(op, root, version)

#define MAMBA_EXPORT_TENSOR(op, name, element, axes) \
  {#op, #name, Element::element, axes,               \
   Member<Element::element, op##Params, &op##Params::name>::bind},

#undef MAMBA_EXPORT_INPUT
#define MAMBA_EXPORT_INPUT MAMBA_EXPORT_TENSOR
constexpr TensorSpec kInputs[] = {
#include "op_contract.inc"
};
#undef MAMBA_EXPORT_INPUT
#define MAMBA_EXPORT_INPUT(op, name, element, axes)

#undef MAMBA_EXPORT_OUTPUT
#define MAMBA_EXPORT_OUTPUT MAMBA_EXPORT_TENSOR
constexpr TensorSpec kOutputs[] = {
#include "op_contract.inc"
};
#undef MAMBA_EXPORT_OUTPUT
#define MAMBA_EXPORT_OUTPUT(op, name, element, axes)

#undef MAMBA_EXPORT_ATTRIBUTE
#define MAMBA_EXPORT_ATTRIBUTE(op, name, type) {#op, #name, #type},
constexpr AttributeSpec kAttributes[] = {
#include "op_contract.inc"
};

#undef MAMBA_EXPORT_OP
#undef MAMBA_EXPORT_INPUT
#undef MAMBA_EXPORT_OUTPUT
#undef MAMBA_EXPORT_ATTRIBUTE
#undef MAMBA_EXPORT_TENSOR

// The rows of one op in one of the tables.
template <class Row>
struct Rows {
  const Row* first;
  std::size_t size;

  constexpr const Row* begin() const { return first; }
  constexpr const Row* end() const { return first + size; }
  constexpr const Row& operator[](std::size_t i) const { return first[i]; }
};

template <class Row, std::size_t n>
constexpr Rows<Row> rows_of(std::string_view op, const Row (&table)[n]) {
  std::size_t first = 0;
  while (first < n && table[first].op != op) ++first;
  std::size_t end = first;
  while (end < n && table[end].op == op) ++end;
  return {table + first, end - first};
}

struct Contract {
  const char* op;
  const char* version;
  Rows<TensorSpec> inputs, outputs;
  Rows<AttributeSpec> attributes;
};

constexpr bool has_residual(const Contract& contract) {
  for (const TensorSpec& spec : contract.inputs) {
    if (spec.element == Element::residual) return true;
  }
  return false;
}

constexpr Contract contract_of(const char* op) {
  return {op, rows_of(op, kOps)[0].version, rows_of(op, kInputs), rows_of(op, kOutputs),
          rows_of(op, kAttributes)};
}

}  // namespace mamba_export
