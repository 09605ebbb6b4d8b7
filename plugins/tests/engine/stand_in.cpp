// A runtime that stands in for TensorRT and CUDA, so that examples/cpp runs where there is neither:
// an engine's plan names an ONNX graph, which ONNX Runtime runs on the CPU, out of "device" memory
// that is full of NaN when it is allocated.
//
// It refuses what TensorRT refuses: shapes outside the profile, tensors without an address, outputs
// over inputs, a captured run of what has not run before. It fails where TensorRT's behaviour is
// undefined: a graph whose context was changed after the capture, or is gone.
//
// A plan is five lines: "stand-in", the graph's path, the longest prefill, "all" or "last" for the
// logits that it returns, and "captured" or "loop", which no capture takes. ONNX Runtime's library
// is named by STAND_IN_ONNXRUNTIME.
#include <NvInferRuntime.h>
#include <cuda_runtime_api.h>
#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

// ---- CUDA ---------------------------------------------------------------------------------------

using Work = std::function<void()>;

// What a program asked for; printed when it ends.
struct Counts {
  int runs = 0, captured = 0, replayed = 0;
  ~Counts() {
    std::fprintf(stderr, "stand-in: runs=%d captured=%d replayed=%d\n", runs, captured, replayed);
  }
} counts;

cudaError_t last_error = cudaSuccess;  // of a call that failed and that nobody asked about

struct CUstream_st {
  std::vector<Work> waiting;
  std::vector<Work>* captured = nullptr;
  bool broken_off = false;  // the capture

  void put(Work work) { (captured == nullptr ? waiting : *captured).push_back(std::move(work)); }
};
struct CUgraph_st {
  std::vector<Work> work;
};
struct CUgraphExec_st {
  std::vector<Work> work;
};

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorLaunchFailure ? "unspecified launch failure" : "invalid argument";
}

cudaError_t cudaGetLastError() { return std::exchange(last_error, cudaSuccess); }

cudaError_t cudaMalloc(void** data, std::size_t bytes) {
  *data = std::malloc(bytes);
  std::memset(*data, 0xff, bytes);
  return cudaSuccess;
}

cudaError_t cudaFree(void* data) {
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  stream->put([=] { std::memcpy(to, from, bytes); });
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream) {
  stream->put([=] { std::memset(to, value, bytes); });
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream->captured != nullptr) return cudaErrorInvalidValue;
  try {
    for (const Work& work : std::exchange(stream->waiting, {})) work();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "stand-in: %s\n", error.what());
    return cudaErrorLaunchFailure;
  }
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->captured = new std::vector<Work>;
  return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const std::unique_ptr<std::vector<Work>> captured(std::exchange(stream->captured, nullptr));
  if (std::exchange(stream->broken_off, false)) {
    *graph = nullptr;
    return last_error = cudaErrorStreamCaptureInvalidated;
  }
  *graph = new CUgraph_st{*captured};
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* replay, cudaGraph_t graph, unsigned long long) {
  *replay = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t replay, cudaStream_t stream) {
  ++counts.replayed;
  stream->put([work = replay->work] {
    for (const Work& each : work) each();
  });
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t replay) {
  delete replay;
  return cudaSuccess;
}

// ---- TensorRT -----------------------------------------------------------------------------------

namespace nvinfer1 {
namespace {

constexpr char kCount[] = "num_logits_to_keep";  // an engine has it as a constant

void require(bool holds, const std::string& problem) {
  if (!holds) throw std::runtime_error(problem);
}

// Runs `body`; logs what it throws, which means failure to TensorRT's callers.
template <class Result, class F>
Result logged(ILogger& logger, Result failed, const F& body) noexcept {
  try {
    return body();
  } catch (const std::exception& error) {
    logger.log(ILogger::Severity::kERROR, error.what());
    return failed;
  }
}

struct Tensor {
  TensorIOMode mode = TensorIOMode::kNONE;
  ONNXTensorElementDataType type = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
  Dims shape{-1, {}};
};

// The graph, and what the plan says beside.
struct Graph {
  explicit Graph(const std::string& plan) {
    std::istringstream lines(plan);
    std::string head, file, logits, captures;
    lines >> head >> file >> longest >> logits >> captures;
    require(head == "stand-in" && !lines.fail(), "the plan's magic tag does not match");
    last = logits == "last";
    loops = captures == "loop";
    session = Ort::Session(env, file.c_str(), Ort::SessionOptions());
    Ort::AllocatorWithDefaultOptions names_by;
    for (std::size_t i = 0; i < session.GetInputCount(); ++i) {
      add(session.GetInputNameAllocated(i, names_by).get(), TensorIOMode::kINPUT,
          session.GetInputTypeInfo(i));
    }
    for (std::size_t i = 0; i < session.GetOutputCount(); ++i) {
      add(session.GetOutputNameAllocated(i, names_by).get(), TensorIOMode::kOUTPUT,
          session.GetOutputTypeInfo(i));
    }
  }

  void add(const std::string& name, TensorIOMode mode, const Ort::TypeInfo& type) {
    const auto info = type.GetTensorTypeAndShapeInfo();
    const std::vector<std::int64_t> shape = info.GetShape();
    Tensor tensor{mode, info.GetElementType(), {static_cast<std::int32_t>(shape.size()), {}}};
    for (std::size_t i = 0; i < shape.size(); ++i) tensor.shape.d[i] = shape[i];
    names.push_back(name);
    tensors[name] = tensor;
  }

  Tensor find(const std::string& name) const {
    const auto found = tensors.find(name);
    return found == tensors.end() ? Tensor{} : found->second;
  }

  Ort::Env env{ORT_LOGGING_LEVEL_ERROR};
  Ort::Session session{nullptr};
  std::vector<std::string> names;
  std::map<std::string, Tensor> tensors;
  std::int64_t longest = 0;
  bool last = false;
  bool loops = false;
};

// What a context was told; a captured graph is good for as long as it is the same.
struct Bound {
  std::map<std::string, Dims> shapes;
  std::map<std::string, void*> places;
  int changes = 0;
};

class Context final : public IExecutionContext {
 public:
  Context(ILogger& logger, std::shared_ptr<Graph> graph)
      : logger_(logger), graph_(std::move(graph)) {}

  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t) noexcept override {
    longest_ = profile == 0 ? graph_->longest : 1;
    ++bound_->changes;
    return profile == 0 || profile == 1;
  }

  bool setInputShape(const char* name, const Dims& shape) noexcept override {
    return logged(logger_, false, [&] {
      const Dims declared = graph_->find(name).shape;
      require(declared.nbDims == shape.nbDims, std::string("another rank of ") + name);
      for (int i = 0; i < shape.nbDims; ++i) {
        const bool varies = declared.d[i] < 0;
        const std::int64_t most = !varies ? declared.d[i] : i == 0 ? 1 : longest_;
        require(shape.d[i] >= (varies ? 1 : most) && shape.d[i] <= most,
                std::string(name) + " is outside of its profile");
      }
      Dims& known = bound_->shapes[name];
      if (std::memcmp(&known, &shape, sizeof shape) != 0) ++bound_->changes;
      known = shape;
      return true;
    });
  }

  Dims getTensorShape(const char* name) const noexcept override {
    if (std::string(name) != "logits") return graph_->find(name).shape;
    Dims shape = graph_->find(name).shape;
    shape.d[0] = 1;
    shape.d[1] = graph_->last ? 1 : bound_->shapes.at("input_ids").d[1];
    return shape;
  }

  bool setTensorAddress(const char* name, void* data) noexcept override {
    void*& known = bound_->places[name];
    if (known != data) ++bound_->changes;
    known = data;
    return graph_->find(name).mode != TensorIOMode::kNONE;
  }

  bool enqueueV3(cudaStream_t stream) noexcept override {
    return logged(logger_, false, [&] {
      require(last_error == cudaSuccess, "an error of an earlier call");
      const auto& [shapes, places, changes] = *bound_;
      for (const std::string& name : graph_->names) {
        require(places.count(name) == 1, name + " has no address");
        const bool is_input = graph_->find(name).mode == TensorIOMode::kINPUT;
        require(!is_input || shapes.count(name) == 1, name + " has no shape");
        for (const auto& [other, place] : places) {
          require(other == name || place != places.at(name), name + " lies over " + other);
        }
      }
      if (stream->captured == nullptr) {
        ++counts.runs;
        ran_at_ = changes;
        stream->put([graph = graph_, bound = *bound_] { run(*graph, bound.shapes, bound.places); });
        return true;
      }
      require(ran_at_ == changes, "what is captured must have run as it is");
      stream->broken_off = graph_->loops;
      require(!graph_->loops, "a loop cannot be captured");
      ++counts.captured;
      stream->put([graph = graph_, context = std::weak_ptr<Bound>(bound_), at = changes] {
        const std::shared_ptr<Bound> bound = context.lock();
        require(bound != nullptr && bound->changes == at, "the graph's context was changed");
        run(*graph, bound->shapes, bound->places);
      });
      return true;
    });
  }

 private:
  static void run(Graph& graph, const std::map<std::string, Dims>& shapes,
                  const std::map<std::string, void*>& places) {
    const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
    std::vector<const char*> inputs;
    std::vector<Ort::Value> values;
    for (const auto& [name, shape] : shapes) {
      std::size_t bytes = size_of(graph.find(name).type);
      for (int i = 0; i < shape.nbDims; ++i) bytes *= static_cast<std::size_t>(shape.d[i]);
      inputs.push_back(name.c_str());
      values.push_back(Ort::Value::CreateTensor(memory, places.at(name), bytes, shape.d,
                                                static_cast<std::size_t>(shape.nbDims),
                                                graph.find(name).type));
    }
    std::int64_t count = graph.last ? 1 : 0;
    inputs.push_back(kCount);
    values.push_back(Ort::Value::CreateTensor<std::int64_t>(memory, &count, 1, nullptr, 0));
    std::vector<const char*> outputs;
    for (const std::string& name : graph.names) {
      if (graph.find(name).mode == TensorIOMode::kOUTPUT) outputs.push_back(name.c_str());
    }
    const auto results = graph.session.Run(Ort::RunOptions(), inputs.data(), values.data(),
                                           values.size(), outputs.data(), outputs.size());
    for (std::size_t i = 0; i < outputs.size(); ++i) {
      const auto info = results[i].GetTensorTypeAndShapeInfo();
      std::memcpy(places.at(outputs[i]), results[i].GetTensorRawData(),
                  info.GetElementCount() * size_of(info.GetElementType()));
    }
  }

  static std::size_t size_of(ONNXTensorElementDataType type) {
    return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64   ? 8
           : type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? 4
                                                         : 2;
  }

  ILogger& logger_;
  std::shared_ptr<Graph> graph_;
  std::shared_ptr<Bound> bound_ = std::make_shared<Bound>();
  std::int64_t longest_ = 0;  // no profile was chosen
  int ran_at_ = -1;           // of the changes
};

class Engine final : public ICudaEngine {
 public:
  Engine(ILogger& logger, const std::string& plan)
      : logger_(logger), graph_(std::make_shared<Graph>(plan)) {}

  IExecutionContext* createExecutionContext() noexcept override {
    return new Context(logger_, graph_);
  }
  std::int32_t getNbIOTensors() const noexcept override {
    return static_cast<std::int32_t>(graph_->names.size());
  }
  const char* getIOTensorName(std::int32_t index) const noexcept override {
    return graph_->names[static_cast<std::size_t>(index)].c_str();
  }
  TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    return graph_->find(name).mode;
  }
  Dims getTensorShape(const char* name) const noexcept override { return graph_->find(name).shape; }
  Dims getProfileShape(const char* name, std::int32_t profile,
                       OptProfileSelector) const noexcept override {
    if (graph_->find(name).mode != TensorIOMode::kINPUT) return {-1, {}};
    return {2, {1, profile == 0 ? graph_->longest : 1}};
  }

 private:
  ILogger& logger_;
  std::shared_ptr<Graph> graph_;
};

class Registry final : public IPluginRegistry {
 public:
  explicit Registry(ILogger& logger) : logger_(logger) {}

  void* loadLibrary(const char* path) noexcept override {
    return logged(logger_, static_cast<void*>(nullptr), [&] {
      void* const library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
      if (library == nullptr || dlsym(library, "getCreators") == nullptr) {
        throw std::runtime_error(dlerror());
      }
      return library;
    });
  }

 private:
  ILogger& logger_;
};

class Runtime final : public IRuntime {
 public:
  explicit Runtime(ILogger& logger) : logger_(logger), registry_(logger) {}

  IPluginRegistry& getPluginRegistry() noexcept override { return registry_; }
  ICudaEngine* deserializeCudaEngine(const void* plan, std::size_t bytes) noexcept override {
    return logged(logger_, static_cast<ICudaEngine*>(nullptr), [&] {
      return new Engine(logger_, std::string(static_cast<const char*>(plan), bytes));
    });
  }

 private:
  ILogger& logger_;
  Registry registry_;
};

}  // namespace

IRuntime* createInferRuntime(ILogger& logger) noexcept {
  return logged(logger, static_cast<IRuntime*>(nullptr), [&] {
    const char* const path = std::getenv("STAND_IN_ONNXRUNTIME");
    void* const library = path == nullptr ? nullptr : dlopen(path, RTLD_NOW);
    require(library != nullptr, "STAND_IN_ONNXRUNTIME names no library of ONNX Runtime");
    auto* const api = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(library, "OrtGetApiBase"))();
    Ort::InitApi(api->GetApi(ORT_API_VERSION));
    return new Runtime(logger);
  });
}

}  // namespace nvinfer1
