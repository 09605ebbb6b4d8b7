// The TensorRT of this process. Its plugin interfaces are the same in all versions, but those of
// its logger and its registry are not: what is behind a pointer depends on the major version.
#pragma once

#include <string>

namespace mamba_export::trt {

class Runtime {
 public:
  // That whose code is at an address, or else the loaded one: a helper may call for it.
  static Runtime calling(const void* code);

  // That whose symbols are for all, or else one that was loaded under its own name.
  static Runtime loaded();

  // That of our major version which the loader finds, opened so that its symbols are for all.
  static Runtime opened();

  // Whether there is one.
  bool found() const;

  // Returns what keeps this library from calling its logger and its registry, or an empty string.
  std::string problem() const;

  // Returns a function that it exports, or null.
  template <class Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(find(name));
  }

 private:
  explicit Runtime(void* library) : library_(library) {}

  void* find(const char* name) const;

  void* library_;  // null: it is not there
};

}  // namespace mamba_export::trt
