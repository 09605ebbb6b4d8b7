// Shapes, and the sizes behind their letters.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "contract.h"

namespace mamba_export {

// A shape, without an allocation of ours. Of one with too many axes only the rank is right.
struct Shape {
  std::size_t rank = 0;
  std::array<std::int64_t, kMaxRank> dims = {};  // negative: not known yet
};

// The sizes of a node's tensors, each with the input that had it first.
class Sizes {
 public:
  std::int64_t operator[](char letter) const { return of_[index(letter)].size; }

  // All leading axes together.
  std::int64_t rows() const;

  // Adds those of an input. Throws NodeError if its shape does not fit the contract, or the other
  // inputs.
  void add(const TensorSpec& spec, const Shape& shape);

  // In words, such as "B 2, D 64".
  std::string described() const;

  // Returns the shape of a tensor that has these sizes.
  Shape shape_of(const TensorSpec& spec) const;

 private:
  struct Size {
    std::int64_t size = 0;
    const char* input = nullptr;
  };

  static std::size_t index(char letter) { return static_cast<std::size_t>(letter - 'A'); }

  std::array<Size, 26> of_;
  Shape leading_;
  const char* leading_input_ = nullptr;
};

// Where an output has the size of an axis from: an input, and which of its lettered axes it is.
struct AxisSource {
  std::size_t input;
  std::size_t axis;
};

// Both must be of some input.
AxisSource source_of(const Contract& contract, const Axis& axis);
std::size_t input_with(const Contract& contract, Element element);

// Calls take(input, axis) for every axis of an output, with where its size is among the shapes of
// the inputs, which have `rank(input)` axes.
template <class Rank, class Take>
void for_each_axis(const Contract& contract, const TensorSpec& output, const Rank& rank,
                   const Take& take) {
  const auto leading = [&](std::size_t i) { return rank(i) - contract.inputs[i].axes.count; };
  if (output.axes.leading) {
    std::size_t input = 0;
    while (!contract.inputs[input].axes.leading) ++input;
    for (std::size_t axis = 0; axis < leading(input); ++axis) take(input, axis);
  }
  for (std::size_t i = 0; i < output.axes.count; ++i) {
    const AxisSource source = source_of(contract, output.axes.axis[i]);
    take(source.input, leading(source.input) + source.axis);
  }
}

}  // namespace mamba_export
