// Runs CUDA kernels on the CPU, to find their mistakes: include it before a .cu file and compile that as C++17.
//
// Each CUDA thread is a fiber. A fiber runs until it meets a barrier, a warp operation or a wait, and the next one
// runs: in order, in reverse, or shuffled, with several blocks in turn. So code that depends on an order, or lacks
// a barrier, gives a wrong result under one of them. What hangs a GPU is reported: a barrier that not all threads of
// the block reach, a warp operation that not all lanes it names reach, a wait that nothing ends.
//
// It knows nothing of time, caches or weak memory order: a missing __threadfence() is not found.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace simt {

constexpr size_t STACK = 128 * 1024;
constexpr int IDLE_TURNS = 5000;  // turns with a wait in them, and nothing that could end it: called for ever

enum class State { RUNS, BARRIER, WARP, DONE };
enum class Order { FORWARD, REVERSE, SHUFFLED };

struct Index {
    unsigned x, y = 0, z = 0;
};

struct Fiber {
    State state;
    Index thread;
    bool waits;             // it ran only to wait once more
    const char* operation;  // of the warp, and the lanes it names
    unsigned mask;
    uint64_t given, taken[32];
    void* stack = nullptr;
#if defined(__x86_64__)
    void* at;
#else
    ucontext_t at;
#endif
};

struct Block {
    unsigned number;
    std::vector<Fiber> fibers;
    std::vector<char> shared;  // its shared memory while another block runs
};

struct Machine {
    Order order = Order::FORWARD;
    uint32_t random = 1;
    Index grid{1}, block_size{1};
    Block* block = nullptr;
    Fiber* fiber = nullptr;
    void (*entry)(void**) = nullptr;
    void** arguments = nullptr;
    std::string error;
    int idle = 0;  // turns with a wait since a barrier was passed, a thread ended, or an atomic came
    std::vector<void*> stacks;
#if defined(__x86_64__)
    void* scheduler = nullptr;
#else
    ucontext_t scheduler;
#endif
    const void* scheduler_stack = nullptr;
    size_t scheduler_size = 0;
};

static Machine machine;

static uint32_t dice() {
    uint32_t& x = machine.random;
    x ^= x << 13, x ^= x >> 17, x ^= x << 5;
    return x;
}

// -- fibers --------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
extern "C" __attribute__((visibility("hidden"))) void simt_switch(void** save, void* load);
asm(R"(
    .text
    .type simt_switch, @function
simt_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");
#endif

static void switch_to_scheduler(bool for_good) {
    [[maybe_unused]] void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &fake, machine.scheduler_stack, machine.scheduler_size);
#endif
    (void)for_good;
    Fiber* self = machine.fiber;
#if defined(__x86_64__)
    simt_switch(&self->at, machine.scheduler);
#else
    swapcontext(&self->at, &machine.scheduler);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

static void run_fiber(Fiber& fiber) {
    machine.fiber = &fiber;
    [[maybe_unused]] void* fake = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(&fake, fiber.stack, STACK);
#endif
#if defined(__x86_64__)
    simt_switch(&machine.scheduler, fiber.at);
#else
    swapcontext(&machine.scheduler, &fiber.at);
#endif
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, nullptr, nullptr);
#endif
}

static void start_fiber() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, &machine.scheduler_stack, &machine.scheduler_size);
#endif
    machine.entry(machine.arguments);
    machine.fiber->state = State::DONE;
    switch_to_scheduler(true);
    std::abort();
}

static void prepare(Fiber& fiber, unsigned thread, void* stack) {
    fiber.state = State::RUNS;
    fiber.thread = {thread};
    fiber.waits = false;
    fiber.stack = stack;
#if defined(__x86_64__)
    // As simt_switch leaves it: six registers, the return address; then the stack is 8 past a multiple of 16, as
    // after a call.
    void** top = reinterpret_cast<void**>(static_cast<char*>(stack) + STACK) - 1;
    *--top = reinterpret_cast<void*>(&start_fiber);
    for (int r = 0; r < 6; ++r) *--top = nullptr;
    fiber.at = top;
#else
    getcontext(&fiber.at);
    fiber.at.uc_stack.ss_sp = stack;
    fiber.at.uc_stack.ss_size = STACK;
    fiber.at.uc_link = nullptr;
    makecontext(&fiber.at, start_fiber, 0);
#endif
}

static void pause(State state) {
    machine.fiber->state = state;
    switch_to_scheduler(false);
}

// -- shared memory -------------------------------------------------------------------------------------------
// All __shared__ variables lie in one section, which is exchanged when another block runs. Instrumented builds run
// one block at a time and leave the section alone: the sanitizers keep notes of their own between variables.

extern "C" {
extern char __start_simt_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_simt_shared[] __attribute__((weak, visibility("hidden")));
}

static size_t shared_size() {
#if defined(__SANITIZE_ADDRESS__)
    return 0;
#else
    return __start_simt_shared ? static_cast<size_t>(__stop_simt_shared - __start_simt_shared) : 0;
#endif
}

static void enter(Block& block) {
    if (machine.block == &block) return;
    if (machine.block && shared_size()) std::memcpy(machine.block->shared.data(), __start_simt_shared, shared_size());
    if (shared_size()) std::memcpy(__start_simt_shared, block.shared.data(), shared_size());
    machine.block = &block;
}

// -- the scheduler -------------------------------------------------------------------------------------------

static std::vector<unsigned> permuted(unsigned count) {
    std::vector<unsigned> order(count);
    for (unsigned i = 0; i < count; ++i) order[i] = machine.order == Order::REVERSE ? count - 1 - i : i;
    if (machine.order == Order::SHUFFLED)
        for (unsigned i = count; i > 1; --i) std::swap(order[i - 1], order[dice() % i]);
    return order;
}

// Lets go the lanes of a warp that have all met the same operation.
static bool release_warp(Fiber* lanes, unsigned count) {
    bool any = false;
    for (unsigned l = 0; l < count; ++l) {
        if (lanes[l].state != State::WARP) continue;
        const unsigned mask = lanes[l].mask;
        bool all = mask >> l & 1;
        for (unsigned m = 0; all && m < 32; ++m)
            if (mask >> m & 1)
                all = m < count && lanes[m].state == State::WARP && lanes[m].mask == mask &&
                      lanes[m].operation == lanes[l].operation;
        if (!all) continue;
        uint64_t given[32] = {};
        for (unsigned m = 0; m < count; ++m) given[m] = lanes[m].given;
        for (unsigned m = 0; m < count; ++m)
            if (mask >> m & 1) {
                std::memcpy(lanes[m].taken, given, sizeof given);
                lanes[m].state = State::RUNS;
            }
        any = true;
    }
    return any;
}

static std::string describe(const Block& block) {
    int barrier = 0, warp = 0, done = 0, runs = 0;
    const char* operation = "";
    for (const Fiber& f : block.fibers) {
        barrier += f.state == State::BARRIER, done += f.state == State::DONE, runs += f.state == State::RUNS;
        if (f.state == State::WARP) ++warp, operation = f.operation;
    }
    char text[200];
    std::snprintf(text, sizeof text, "block %u: %d threads at a barrier, %d in a warp operation %s, %d wait, %d ended",
                  block.number, barrier, warp, operation, runs, done);
    return text;
}

enum class Turn { MOVED, ENDED, STUCK };

// Each thread that can, runs once; then barriers and warp operations that are complete let go.
static Turn turn(Block& block) {
    enter(block);
    bool moved = false, waited = false, ended = false;
    for (const unsigned t : permuted(block.fibers.size())) {
        Fiber& fiber = block.fibers[t];
        if (fiber.state != State::RUNS) continue;
        fiber.waits = false;
        run_fiber(fiber);
        moved = true;
        waited |= fiber.waits;
        ended |= fiber.state == State::DONE;
    }
    size_t barrier = 0, done = 0;
    for (const Fiber& f : block.fibers) barrier += f.state == State::BARRIER, done += f.state == State::DONE;
    if (barrier == block.fibers.size())
        for (Fiber& f : block.fibers) f.state = State::RUNS;
    moved |= barrier == block.fibers.size();
    for (size_t w = 0; w < block.fibers.size(); w += 32)
        moved |= release_warp(&block.fibers[w], static_cast<unsigned>(std::min<size_t>(32, block.fibers.size() - w)));
    machine.idle += waited;
    if (ended || barrier == block.fibers.size()) machine.idle = 0;
    return done == block.fibers.size() ? Turn::ENDED : moved ? Turn::MOVED : Turn::STUCK;
}

static void start(Block& block, unsigned number, size_t slot) {
    block.number = number;
    const size_t threads = machine.block_size.x;
    block.fibers.resize(threads);
    block.shared.assign(shared_size(), '\xA5');
    while (machine.stacks.size() < (slot + 1) * threads) machine.stacks.push_back(std::malloc(STACK));
    for (size_t t = 0; t < threads; ++t)
        prepare(block.fibers[t], static_cast<unsigned>(t), machine.stacks[slot * threads + t]);
    if (machine.block == &block) machine.block = nullptr;
}

static void run_grid() {
#if defined(__SANITIZE_ADDRESS__)
    const size_t residents = 1;
#else
    const size_t residents = machine.order == Order::SHUFFLED ? 3 : 1;
#endif
    const std::vector<unsigned> numbers = permuted(machine.grid.x);
    std::vector<Block> blocks(std::min<size_t>(residents, numbers.size()));
    std::vector<size_t> running;
    size_t next = 0;
    for (; next < blocks.size(); ++next) {
        start(blocks[next], numbers[next], next);
        running.push_back(next);
    }
    while (!running.empty()) {
        const size_t chosen = dice() % running.size();
        Block& block = blocks[running[chosen]];
        const Turn result = turn(block);
        if (result == Turn::STUCK || machine.idle > IDLE_TURNS) {
            machine.error = (result == Turn::STUCK ? "deadlock: " : "waits for ever: ") + describe(block);
            return;
        }
        if (result != Turn::ENDED) continue;
        if (next < numbers.size())
            start(block, numbers[next++], running[chosen]);
        else
            running.erase(running.begin() + static_cast<long>(chosen));
    }
}

// -- operations of a warp ------------------------------------------------------------------------------------

static const uint64_t* exchange(const char* operation, unsigned mask, uint64_t given) {
    Fiber& self = *machine.fiber;
    self.operation = operation, self.mask = mask, self.given = given;
    pause(State::WARP);
    return self.taken;
}

template <class T>
uint64_t bits_of(T x) {
    static_assert(sizeof x <= 8);
    uint64_t bits = 0;
    std::memcpy(&bits, &x, sizeof x);
    return bits;
}

template <class T>
T from_bits(uint64_t bits) {
    T x;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}

template <class T>
T shuffle(const char* operation, unsigned mask, T x, int source) {
    const uint64_t* all = exchange(operation, mask, bits_of(x));
    return source < 0 || source > 31 ? x : from_bits<T>(all[source]);
}

static int lane_id() { return static_cast<int>(machine.fiber->thread.x & 31); }

static unsigned vote(const char* operation, unsigned mask, bool yes) {
    const uint64_t* all = exchange(operation, mask, yes);
    unsigned ballot = 0;
    for (unsigned l = 0; l < 32; ++l) ballot |= (mask >> l & 1 && all[l]) << l;
    return ballot;
}

// Other threads may run before an atomic, where the order is shuffled.
template <class T, class F>
T atomically(T* place, F change) {
    if (machine.order == Order::SHUFFLED && dice() % 8 == 0) pause(State::RUNS);
    machine.idle = 0;
    const T before = *place;
    *place = change(before);
    return before;
}

// -- entries -------------------------------------------------------------------------------------------------

struct Entry {
    const char* name;
    void (*call)(void**);
};

template <class... A, size_t... I>
void call_with(void (*kernel)(A...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<A*>(arguments[I])...);
}

template <class... A>
void call(void (*kernel)(A...), void** arguments) {
    call_with(kernel, arguments, std::index_sequence_for<A...>{});
}

// 0, or 1 with the reason in ``message``.
static int launch(const Entry* entries, size_t count, const char* name, unsigned grid, unsigned block, void** arguments,
                  int order, unsigned seed, char* message, size_t room) {
    machine.entry = nullptr;
    for (size_t e = 0; e < count; ++e)
        if (!std::strcmp(entries[e].name, name)) machine.entry = entries[e].call;
    machine.error = machine.entry ? "" : "no such kernel";
    machine.order = static_cast<Order>(order);
    machine.random = seed * 2654435761u | 1;
    machine.grid = {grid}, machine.block_size = {block};
    machine.arguments = arguments;
    machine.block = nullptr;
    machine.idle = 0;
    if (machine.entry) run_grid();
    std::snprintf(message, room, "%s: %s", name, machine.error.c_str());
    return !machine.error.empty();
}

}  // namespace simt

// -- CUDA's words --------------------------------------------------------------------------------------------

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("simt_shared")))
#define threadIdx (simt::machine.fiber->thread)
#define blockDim (simt::machine.block_size)
#define gridDim (simt::machine.grid)

namespace simt {
static Index block_index() { return {machine.block->number}; }
}  // namespace simt
#define blockIdx (simt::block_index())

struct alignas(16) float4 {
    float x, y, z, w;
};
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }

inline void __syncthreads() { simt::pause(simt::State::BARRIER); }
inline void __syncwarp(unsigned mask = ~0u) { simt::exchange("__syncwarp", mask, 0); }
inline void __threadfence() {}
inline void __nanosleep(unsigned) {
    simt::machine.fiber->waits = true;
    simt::pause(simt::State::RUNS);
}

inline unsigned __ballot_sync(unsigned mask, int yes) { return simt::vote("__ballot_sync", mask, yes); }
inline int __any_sync(unsigned mask, int yes) { return simt::vote("__any_sync", mask, yes) != 0; }
inline int __all_sync(unsigned mask, int yes) { return simt::vote("__all_sync", mask, yes) == mask; }
template <class T>
T __shfl_sync(unsigned mask, T x, int source) {
    return simt::shuffle("__shfl_sync", mask, x, source & 31);
}
template <class T>
T __shfl_up_sync(unsigned mask, T x, unsigned d) {
    return simt::shuffle("__shfl_up_sync", mask, x, simt::lane_id() - static_cast<int>(d));
}
template <class T>
T __shfl_down_sync(unsigned mask, T x, unsigned d) {
    return simt::shuffle("__shfl_down_sync", mask, x, simt::lane_id() + static_cast<int>(d));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T x, int d) {
    return simt::shuffle("__shfl_xor_sync", mask, x, simt::lane_id() ^ d);
}

template <class T>
T atomicAdd(T* p, T x) {
    return simt::atomically(p, [x](T old) { return static_cast<T>(old + x); });
}
template <class T>
T atomicOr(T* p, T x) {
    return simt::atomically(p, [x](T old) { return static_cast<T>(old | x); });
}
template <class T>
T atomicMax(T* p, T x) {
    return simt::atomically(p, [x](T old) { return old < x ? x : old; });
}
template <class T>
T atomicMin(T* p, T x) {
    return simt::atomically(p, [x](T old) { return x < old ? x : old; });
}
template <class T>
T atomicExch(T* p, T x) {
    return simt::atomically(p, [x](T) { return x; });
}
template <class T>
T atomicCAS(T* p, T expected, T x) {
    return simt::atomically(p, [=](T old) { return old == expected ? x : old; });
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(unsigned x) { return __builtin_ffs(static_cast<int>(x)); }
inline int __clz(unsigned x) { return x ? __builtin_clz(x) : 32; }
inline unsigned __float_as_uint(float x) { return static_cast<unsigned>(simt::bits_of(x)); }
inline float __uint_as_float(unsigned x) { return simt::from_bits<float>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
template <class T>
T min(T a, T b) {
    return b < a ? b : a;
}
template <class T>
T max(T a, T b) {
    return a < b ? b : a;
}
