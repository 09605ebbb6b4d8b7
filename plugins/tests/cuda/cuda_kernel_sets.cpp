// The CUDA kernels on a device: launched, and replayed from a captured graph, on the fuzzer's own
// memory, which is registered with the device, its guard pages not; and launched on copies in
// memory of the device, which is what its sanitizers watch.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "kernel_sets.h"
#include "launched_kernels.h"

namespace mamba_export::testing {
namespace {

void require(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

// The stream of all calls.
cudaStream_t stream() {
  static cudaStream_t const only = [] {
    cudaStream_t made = nullptr;
    require(cudaStreamCreateWithFlags(&made, cudaStreamNonBlocking), "a stream");
    return made;
  }();
  return only;
}

void wait() { require(cudaStreamSynchronize(stream()), "the kernels"); }

// Memory of the device; what it holds is nobody's.
class DeviceMemory {
 public:
  explicit DeviceMemory(std::size_t bytes) {
    if (bytes > 0) require(cudaMalloc(&memory_, bytes), "cudaMalloc");
  }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  ~DeviceMemory() { cudaFree(memory_); }

  char* get() const { return static_cast<char*>(memory_); }

 private:
  void* memory_ = nullptr;
};

void fill_with_nan(const DeviceMemory& memory, std::size_t bytes) {
  if (bytes == 0) return;
  require(cudaMemsetAsync(memory.get(), 0xff, bytes, stream()), "cudaMemsetAsync");
}

struct Launched {
  static constexpr const char* kName = "cuda";

  template <class Launch>
  static void run(std::size_t bytes, const Launch& launch) {
    const DeviceMemory workspace(bytes);
    fill_with_nan(workspace, bytes);
    require(launch(workspace.get(), stream()), "a launch");
    wait();
  }
};

struct Replayed {
  static constexpr const char* kName = "cuda_graph";

  template <class Launch>
  static void run(std::size_t bytes, const Launch& launch) {
    const DeviceMemory workspace(bytes);
    fill_with_nan(workspace, bytes);
    // Whatever is not safe to capture is an error here.
    require(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "a capture");
    const cudaError_t launched = launch(workspace.get(), stream());
    cudaGraph_t graph = nullptr;
    require(cudaStreamEndCapture(stream(), &graph), "the end of a capture");
    require(launched, "a captured launch");
    cudaGraphExec_t replay = nullptr;
    require(cudaGraphInstantiate(&replay, graph, 0), "cudaGraphInstantiate");
    require(cudaGraphLaunch(replay, stream()), "a replay");
    wait();
    require(cudaGraphExecDestroy(replay), "cudaGraphExecDestroy");
    require(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
};

// On copies of the operands. Nothing is written to the workspace beforehand: a sanitizer then sees
// who reads what nobody wrote.
struct OnCopies {
  static constexpr const char* kName = "cuda_copies";

  template <class Launch>
  static void run(std::size_t bytes, const Launch& launch) {
    const DeviceMemory workspace(bytes);
    require(launch(workspace.get(), stream()), "a launch");
    wait();
  }
};

// A copy of an operand, of just its size and aligned no better.
class Copy {
 public:
  Copy(void* operand, std::size_t bytes)
      : operand_(operand),
        bytes_(bytes),
        behind_(reinterpret_cast<std::uintptr_t>(operand) % kVectorBytes),
        memory_(behind_ + bytes) {}

  void* get() const { return memory_.get() + behind_; }
  void fill() const { copy(get(), operand_); }
  void bring_back() const { copy(operand_, get()); }

 private:
  static constexpr std::size_t kVectorBytes = 16;  // of the widest load

  void copy(void* to, const void* from) const {
    if (bytes_ == 0) return;
    require(cudaMemcpyAsync(to, from, bytes_, cudaMemcpyDefault, stream()), "a copy");
  }

  void* operand_;
  std::size_t bytes_;
  std::size_t behind_;
  DeviceMemory memory_;
};

}  // namespace

std::vector<const Kernels*> kernel_sets() {
  return {&kLaunched<Launched>, &kLaunched<Replayed>, &kLaunched<OnCopies>};
}

void share_memory(void* memory, std::size_t bytes) {
  require(cudaHostRegister(memory, bytes, cudaHostRegisterMapped), "cudaHostRegister");
  void* there = nullptr;
  require(cudaHostGetDevicePointer(&there, memory, 0), "cudaHostGetDevicePointer");
  if (there != memory) throw std::runtime_error("the device has another address for host memory");
}

void with_operands(const Kernels& kernels, const Case& c, const Pointers& operands,
                   const std::function<void(const Pointers&)>& call) {
  if (&kernels != &kLaunched<OnCopies>) return call(operands);
  const std::size_t inputs = c.op->inputs.size();
  std::map<void*, Copy> copies;  // a new state over the old one is the same
  Pointers there;
  for (std::size_t i = 0; i < operands.size(); ++i) {
    const OperandSpec& spec = i < inputs ? c.op->inputs[i] : c.op->outputs[i - inputs];
    if (c.unused(spec)) {
      there.push_back(operands[i]);
      continue;
    }
    const auto [copy, added] = copies.try_emplace(operands[i], operands[i], c.bytes(spec));
    if (added && i < inputs) copy->second.fill();
    there.push_back(copy->second.get());
  }
  call(there);
  for (const auto& [operand, copy] : copies) copy.bring_back();
  wait();
}

}  // namespace mamba_export::testing
