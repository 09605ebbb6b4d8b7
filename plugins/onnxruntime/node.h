// One node of a graph as an op sees it: attributes when the session is made, tensors when it runs.
// What is wrong is thrown as Ort::Exception; `guarded` turns that into the runtime's status.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <array>
#include <cstdint>
#include <exception>
#include <initializer_list>
#include <optional>
#include <string>

#include "contract.h"

namespace mamba_export::ort {

// Runs `body` and returns what it throws as a status: nothing may cross the C interface.
template <class F>
OrtStatusPtr guarded(const OrtApi& api, const F& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const Ort::Exception& error) {
    return api.CreateStatus(error.GetOrtErrorCode(), error.what());
  } catch (const std::exception& error) {
    return api.CreateStatus(ORT_FAIL, error.what());
  } catch (...) {
    return api.CreateStatus(ORT_FAIL, "an exception of an unknown type");
  }
}

// Throws a status of the runtime that is none.
void require_ok(const OrtApi& api, OrtStatus* status);

// The attributes of a node. An adapter must read each one of the contract, and no other.
class Attributes {
 public:
  Attributes(const OrtApi& api, const OrtKernelInfo* info, const Contract& contract);

  bool boolean(const char* name);
  std::int64_t integer(const char* name);
  float real(const char* name);
  std::string one_of(const char* name, std::initializer_list<const char*> choices);

  // Throws what is wrong with an attribute.
  [[noreturn]] void reject(const char* name, const std::string& expected,
                           const std::string& found) const;

  // Throws if the contract has an attribute that was not read.
  void require_all_read() const;

 private:
  void declare_read(const char* name);
  std::optional<std::string> find_text(const char* name) const;

  const OrtApi& api_;
  const OrtKernelInfo* info_;
  const Contract& contract_;
  std::array<bool, 16> read_ = {};
};

// A shape, without an allocation of ours. Of one with too many axes only the rank is right.
struct Shape {
  std::size_t rank = 0;
  std::array<std::int64_t, kMaxRank> dims = {};
};

// The sizes of a node's tensors, each with the input that had it first.
class Sizes {
 public:
  std::int64_t operator[](char letter) const { return of_[index(letter)].size; }

  // All leading axes together.
  std::int64_t rows() const;

  // Adds those of an input. Throws if its shape does not fit the contract, or the other inputs.
  void add(const TensorSpec& spec, const Shape& shape);

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

// The tensors of one run of a node. Stores where they are in the op's Params.
class Tensors {
 public:
  Tensors(const OrtApi& api, OrtKernelContext* context, const Contract& contract)
      : api_(api), context_(context), contract_(contract) {}

  // Returns all sizes, after checking the shape of every input against the contract.
  Sizes bind_inputs(void* params) const;

  // Lets the runtime allocate the outputs.
  void bind_outputs(const Sizes& sizes, void* params) const;

 private:
  const OrtApi& api_;
  OrtKernelContext* context_;
  const Contract& contract_;
};

// The runtime's threads, lent to one run of a kernel.
class Threads {
 public:
  Threads(const OrtApi& api, const OrtKernelContext* context) : api_(api), context_(context) {}
  Threads(const Threads&) = delete;
  Threads& operator=(const Threads&) = delete;
  ~Threads() { api_.ReleaseStatus(status_); }

  ParallelFor parallel_for() { return {&run, this}; }

  // Throws if a loop did not run.
  void finish();

 private:
  static void run(void* threads, std::size_t items, ParallelFor::Body body, void* context);

  const OrtApi& api_;
  const OrtKernelContext* context_;
  OrtStatus* status_ = nullptr;
};

}  // namespace mamba_export::ort
