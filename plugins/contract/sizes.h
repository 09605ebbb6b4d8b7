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

// Returns the first input that is declared like an output: it has the output's shape and type.
std::size_t input_like(const Contract& contract, const TensorSpec& output);

}  // namespace mamba_export
