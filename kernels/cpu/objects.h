// NumPy's arrays as they lie in memory, so that Python need not ask for each of their properties.
//
// Where library.py has not found them to lie so, `known` stays empty, and no array is as usual.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

// The fields of NumPy's PyArrayObject, on CPython.
struct ArrayObject {
    int64_t references;
    const void* type;
    void* data;
    int32_t nd;
    const int64_t* dimensions;
    const int64_t* strides;
    const void* base;
    const void* dtype;
    int32_t flags;
};

constexpr int32_t CONTIGUOUS = 0x1, ALIGNED = 0x100, WRITEABLE = 0x400;

// Python's objects that an array has to do with: what library.py gives to hpc_know.
struct Known {
    const void *ndarray, *none, *float32, *int32, *int64, *uint8;
};

extern Known known;

template <typename T>
const void* dtype_of() {
    if constexpr (std::is_same_v<T, float>) return known.float32;
    if constexpr (std::is_same_v<T, int32_t>) return known.int32;
    if constexpr (std::is_same_v<T, int64_t>) return known.int64;
    if constexpr (std::is_same_v<T, uint8_t>) return known.uint8;
}

// The arguments of one call, read in their order from slots of 8 bytes. As soon as one is not as usual, `usual`
// is false, and addresses and sizes mean nothing. What is usual for an array: no subclass, one dimension, its
// dtype the very object, no gaps; if it is to be written (T is not const), aligned and writeable.
class Slots {
  public:
    explicit Slots(const char* at) : at_(at), usual_(known.ndarray) {}

    bool usual() const { return usual_; }

    template <typename T>
    T number() {
        T value;
        std::memcpy(&value, at_, sizeof value);
        at_ += 8;
        return value;
    }

    template <typename T>
    T* array(int64_t* size) {
        return look<T>(number<const ArrayObject*>(), size);
    }

    template <typename T>
    T* array_of(int64_t size) {
        int64_t found = 0;
        T* const data = array<T>(&found);
        usual_ = usual_ && found == size;
        return data;
    }

    // The same, or None: null.
    template <typename T>
    T* perhaps(int64_t size) {
        const void* object;
        std::memcpy(&object, at_, sizeof object);
        if (object != known.none) return array_of<T>(size);
        at_ += 8;
        return nullptr;
    }

  private:
    template <typename T>
    T* look(const ArrayObject* object, int64_t* size) {
        constexpr int32_t wanted = std::is_const_v<T> ? CONTIGUOUS : CONTIGUOUS | ALIGNED | WRITEABLE;
        // The type first: only an array has what is behind it.
        usual_ = usual_ && object->type == known.ndarray && object->nd == 1 &&
                 object->dtype == dtype_of<std::remove_const_t<T>>() && (object->flags & wanted) == wanted;
        *size = usual_ ? object->dimensions[0] : 0;
        return usual_ ? static_cast<T*>(object->data) : nullptr;
    }

    const char* at_;
    bool usual_;
};
