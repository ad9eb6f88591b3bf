#pragma once
#include <cstdlib>
#include <new>

// Memory that is kept from call to call. What is not written to costs nothing.
class Workspace {
  public:
    ~Workspace() { std::free(memory_); }

    char* of(size_t bytes) {
        if (bytes > size_) {
            std::free(memory_);
            memory_ = static_cast<char*>(std::malloc(bytes));
            size_ = memory_ ? bytes : 0;
            if (!memory_) throw std::bad_alloc();
        }
        return memory_;
    }

  private:
    char* memory_ = nullptr;
    size_t size_ = 0;
};
