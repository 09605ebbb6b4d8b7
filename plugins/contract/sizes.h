// Shapes, and the sizes behind their letters.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

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

// How much is known of the size of an axis; more is greater.
enum class Known : std::uint8_t { kNothing, kName, kSize };

struct InputAxis {
  std::size_t input;
  std::size_t axis;
};

// Returns for each axis of an output where its size is among the axes of all inputs: of those that
// the contract says are the same, the first of which most is known. Returns none if nothing is
// known of one. An input whose rank does not fit the contract, as of an unknown shape, says
// nothing.
std::optional<std::vector<InputAxis>> axes_of(const Contract& contract, const TensorSpec& output,
                                              const std::vector<std::vector<Known>>& inputs);

// The first input with the element type of an output.
std::size_t input_with(const Contract& contract, Element element);

}  // namespace mamba_export
