// What the C++ face of mq.h is made of: errors, tensors, strings and callbacks across the boundary.
// SPDX-License-Identifier: MIT OR Apache-2.0

#ifndef MQ_BASE_HPP
#define MQ_BASE_HPP

#if !(defined(_MSVC_LANG) ? _MSVC_LANG >= 201703L : __cplusplus >= 201703L)
#error "mq.hpp needs C++17: compile with -std=c++17 or newer, or include mq.h, which is C99"
#elif !defined(__cpp_exceptions) && !defined(_CPPUNWIND)
#error "mq.hpp throws mq::Error: compile with exceptions, or include mq.h, which returns statuses"
#endif

#include <array>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "../mq.h"

namespace mq {

/// A call that failed: its status, and mq's text about it as what().
class Error : public std::runtime_error {
  public:
    /// An error with a text of its own.
    Error(mq_status status, const std::string &text) : std::runtime_error(text), status_(status) {}
    /// Why it failed.
    mq_status status() const noexcept { return status_; }

  private:
    mq_status status_;
};

namespace detail {

/// What a callback that outlives a call (progress, the forward of a layer) threw on this thread, on
/// its way to the call it ran in.
inline std::exception_ptr &thrown_meanwhile() noexcept {
    thread_local std::exception_ptr thrown;
    return thrown;
}

} // namespace detail

/// Throws the calling thread's last error unless `status` is MQ_OK.
inline void check(mq_status status) {
    if (status == MQ_OK)
        return;
    const std::exception_ptr thrown = std::exchange(detail::thrown_meanwhile(), nullptr);
    if (thrown && status == MQ_ERR_CALLBACK) // it caused the status
        std::rethrow_exception(thrown);
    throw Error(status, mq_last_error_message());
}

/// Version of the library that is loaded, as MQ_VERSION is that of the header.
inline uint32_t version() noexcept { return mq_version(); }

/// Version of its ABI, as MQ_ABI_VERSION is that of the header.
inline uint32_t abi_version() noexcept { return mq_abi_version(); }

/// Name of a status, such as "MQ_ERR_CONFIG".
inline std::string status_name(mq_status status) { return mq_status_name(status); }

// Tensors

/// Element types. The two of 16 bits are carried as uint16_t.
enum class DType { f32, f16, bf16 };

/// Extents of a tensor, held by value: `{rows, columns}`, of any integer type, or a vector.
class Shape {
  public:
    Shape() = default;

    /// Extents one by one: at most MQ_MAX_RANK.
    template <class... Extents, class = std::enable_if_t<(sizeof...(Extents) > 0) &&
                                                         (std::is_integral_v<Extents> && ...)>>
    Shape(Extents... extents)
        : extents_{static_cast<int64_t>(extents)...},
          rank_(static_cast<int32_t>(sizeof...(Extents))) {
        static_assert(sizeof...(Extents) <= MQ_MAX_RANK, "more dimensions than MQ_MAX_RANK");
    }

    /// Extents of a vector; more than MQ_MAX_RANK throw MQ_ERR_INVALID_ARGUMENT.
    Shape(const std::vector<int64_t> &extents) : rank_(static_cast<int32_t>(extents.size())) {
        if (extents.size() > extents_.size())
            throw Error(MQ_ERR_INVALID_ARGUMENT,
                        "invalid argument: rank " + std::to_string(extents.size()) +
                            ", expected 0 to " + std::to_string(MQ_MAX_RANK));
        for (size_t i = 0; i < extents.size(); ++i)
            extents_[i] = extents[i];
    }

    /// The extents.
    const int64_t *data() const noexcept { return extents_.data(); }
    /// How many there are.
    int32_t rank() const noexcept { return rank_; }

  private:
    std::array<int64_t, MQ_MAX_RANK> extents_{};
    int32_t rank_ = 0;
};

/// A tensor that mq reads. Borrows the elements, owns the shape; passes as `const mq_tensor *`.
class ConstTensorRef {
  public:
    /// `device` says where `data` lives.
    ConstTensorRef(const void *data, DType dtype, const Shape &shape,
                   mq_device device = {MQ_DEVICE_CPU, 0})
        : shape_(shape) {
        tensor_.data =
            const_cast<void *>(data); // C has one struct for both; only TensorRef is written to
        tensor_.device = device;
        tensor_.ndim = shape.rank();
        tensor_.dtype.code = dtype == DType::bf16 ? MQ_DTYPE_BFLOAT : MQ_DTYPE_FLOAT;
        tensor_.dtype.bits = dtype == DType::f32 ? 32 : 16;
        tensor_.dtype.lanes = 1;
        tensor_.shape = shape_.data();
    }

    /// A tensor described elsewhere, such as a DLTensor; its shape and strides stay borrowed.
    ConstTensorRef(const mq_tensor &tensor) : tensor_(tensor) {}

    /// A view of the same elements, with a shape of its own.
    ConstTensorRef(const ConstTensorRef &other) : tensor_(other.tensor_), shape_(other.shape_) {
        adopt_shape(other);
    }

    /// Views what `other` views.
    ConstTensorRef &operator=(const ConstTensorRef &other) {
        tensor_ = other.tensor_;
        shape_ = other.shape_;
        adopt_shape(other);
        return *this;
    }

    /// As C sees it; valid as long as this object.
    const mq_tensor *get() const noexcept { return &tensor_; }
    /// As get().
    operator const mq_tensor *() const noexcept { return &tensor_; }

  private:
    // A copy points to its own shape, unless the shape was never ours.
    void adopt_shape(const ConstTensorRef &other) noexcept {
        if (other.tensor_.shape == other.shape_.data())
            tensor_.shape = shape_.data();
    }

    mq_tensor tensor_{};
    Shape shape_;
};

/// A tensor that mq may also write to.
class TensorRef : public ConstTensorRef {
  public:
    /// `device` says where `data` lives.
    TensorRef(void *data, DType dtype, const Shape &shape, mq_device device = {MQ_DEVICE_CPU, 0})
        : ConstTensorRef(data, dtype, shape, device) {}
    /// A tensor described elsewhere, as ConstTensorRef takes it.
    TensorRef(const mq_tensor &tensor) : ConstTensorRef(tensor) {}
};

namespace detail {

inline DType half(DType dtype) {
    if (dtype == DType::f32)
        throw Error(MQ_ERR_INVALID_ARGUMENT,
                    "invalid argument: uint16_t elements are DType::f16 or DType::bf16");
    return dtype;
}

} // namespace detail

/// float32 elements: `tensor(data, {rows, columns})`.
inline TensorRef tensor(float *data, const Shape &shape) { return {data, DType::f32, shape}; }
/// float32 elements that are only read.
inline ConstTensorRef tensor(const float *data, const Shape &shape) {
    return {data, DType::f32, shape};
}

/// float16 or bfloat16 elements: `tensor(data, {rows, columns}, DType::bf16)`.
inline TensorRef tensor(uint16_t *data, const Shape &shape, DType dtype) {
    return {data, detail::half(dtype), shape};
}
/// float16 or bfloat16 elements that are only read.
inline ConstTensorRef tensor(const uint16_t *data, const Shape &shape, DType dtype) {
    return {data, detail::half(dtype), shape};
}

// What crosses the boundary

namespace detail {

/// A string that C copies out: asks for its length, then for its bytes.
template <class CopyOut, class... Args> std::string copied_text(CopyOut copy_out, Args... args) {
    std::string text;
    size_t length = 0;
    check(copy_out(args..., nullptr, size_t{0}, &length));
    do { // another thread may have made it longer meanwhile
        text.resize(length);
        check(copy_out(args..., text.data(), text.size() + 1, &length));
    } while (length > text.size());
    text.resize(length);
    return text;
}

/// Floats that C copies out, as copied_text().
template <class CopyOut, class... Args>
std::vector<float> copied_values(CopyOut copy_out, Args... args) {
    std::vector<float> values;
    size_t count = 0;
    check(copy_out(args..., nullptr, size_t{0}, &count));
    do {
        values.resize(count);
        check(copy_out(args..., values.data(), values.size(), &count));
    } while (count > values.size());
    values.resize(count);
    return values;
}

/// What a verb puts into its last argument: how many quantizers matched.
template <class Verb, class... Args> size_t matched_by(Verb verb, Args... args) {
    size_t matched = 0;
    check(verb(args..., &matched));
    return matched;
}

/// C's NULL for a string that is not given.
inline const char *or_null(const std::string &text) noexcept {
    return text.empty() ? nullptr : text.c_str();
}

/// Calls a callback: one that returns nothing goes on; true, or an int or mq_status other than 0,
/// stops.
template <class Function, class... Args> int32_t outcome(Function &function, Args... args) {
    using Result = std::invoke_result_t<Function &, Args...>;
    static_assert(std::is_void_v<Result> || std::is_same_v<Result, int32_t> ||
                      std::is_same_v<Result, mq_status> || std::is_same_v<Result, bool>,
                  "a callback returns nothing, or a bool, int or mq_status that is 0 to go on");
    if constexpr (std::is_void_v<Result>) {
        std::invoke(function, args...);
        return 0;
    } else {
        return static_cast<int32_t>(std::invoke(function, args...));
    }
}

/// A callable lent to one C call, and what it threw there.
template <class Function> struct Lent {
    Function &function;
    std::exception_ptr thrown;

    template <class Body> int32_t guard(Body body) noexcept {
        try {
            return body(function);
        } catch (...) {
            thrown = std::current_exception();
            return -1;
        }
    }

    /// After the C call: the exception first, for it caused the status.
    void finish(mq_status status) const {
        if (thrown)
            std::rethrow_exception(thrown);
        check(status);
    }
};

/// Runs a verb whose last argument is an mq_forward_fn.
template <class Forward, class Verb, class... Args>
void with_forward(Forward &forward, Verb verb, Args... args) {
    using Lent = detail::Lent<Forward>;
    Lent lent{forward, nullptr};
    const auto call = [](void *data) -> int32_t {
        return static_cast<Lent *>(data)->guard([](Forward &f) { return outcome(f); });
    };
    const mq_forward_fn callback{&lent, call, nullptr};
    lent.finish(verb(args..., &callback));
}

/// Runs a verb on the quantizers that a predicate selects, and counts them.
template <class Predicate, class Verb, class... Args>
size_t with_filter(Predicate &predicate, Verb verb, mq_model *model, Args... args) {
    using Lent = detail::Lent<Predicate>;
    Lent lent{predicate, nullptr};
    const auto call = [](void *data, const char *name, int32_t *selected) -> int32_t {
        return static_cast<Lent *>(data)->guard([&](Predicate &p) -> int32_t {
            *selected = std::invoke(p, name) ? 1 : 0;
            return 0;
        });
    };
    const mq_filter_fn callback{&lent, call, nullptr};
    size_t matched = 0;
    lent.finish(verb(model, &callback, args..., &matched));
    return matched;
}

template <class Function>
using if_predicate = std::enable_if_t<std::is_invocable_r_v<bool, Function &, const char *>>;

} // namespace detail

/// A function of the host's that mq keeps or calls several times: any callable that takes `Args`
/// and returns nothing, or true (or an int or mq_status other than 0) to stop the call it runs in
/// with MQ_ERR_CALLBACK. What it throws stops that call too, and reaches its caller with its own
/// type.
template <class... Args> class Callback {
  public:
    Callback() = default;
    /// No function.
    Callback(std::nullptr_t) noexcept {}

    template <class Function,
              class = std::enable_if_t<!std::is_same_v<std::decay_t<Function>, Callback> &&
                                       std::is_invocable_v<Function &, Args...>>>
    /// Keeps a copy of `function`, or what it is moved from.
    Callback(Function &&function)
        : call_([f = std::forward<Function>(function)](Args... args) mutable {
              return detail::outcome<decltype(f), Args...>(f, args...);
          }) {}

    /// Whether there is a function.
    explicit operator bool() const noexcept { return static_cast<bool>(call_); }
    /// Calls it: 0 to go on, else what stops the call that it runs in.
    int32_t operator()(Args... args) const { return call_(args...); }

  private:
    std::function<int32_t(Args...)> call_;
};

} // namespace mq

#endif // MQ_BASE_HPP
