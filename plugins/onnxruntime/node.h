// One node of a graph as an op sees it: attributes when the session is made, tensors when it runs.
// What is wrong is thrown as NodeError or Ort::Exception; `guarded` turns that into a status.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <cstdint>
#include <exception>
#include <optional>
#include <string>

#include "attributes.h"
#include "node_error.h"
#include "sizes.h"

namespace mamba_export::ort {

// Runs `body` and returns what it throws as a status: nothing may cross the C interface.
template <class F>
OrtStatusPtr guarded(const OrtApi& api, const F& body) noexcept {
  try {
    body();
    return nullptr;
  } catch (const NodeError& error) {
    return api.CreateStatus(ORT_INVALID_ARGUMENT, error.what());
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

// The attributes of a node.
class NodeAttributes : public Attributes {
 public:
  NodeAttributes(const OrtApi& api, const OrtKernelInfo* info, const Contract& contract);

 private:
  std::optional<std::int64_t> find_int(const char* name) const override;
  std::optional<float> find_float(const char* name) const override;
  std::optional<std::string> find_string(const char* name) const override;
  std::string node_name() const override;
  bool found(OrtStatus* absent) const;

  const OrtApi& api_;
  const OrtKernelInfo* info_;
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
