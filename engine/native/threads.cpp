// The pool behind threads.hpp. Helpers spin for a moment after each operation, then sleep until the next one.
#include "threads.hpp"

#include <nanobind/nanobind.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <thread>

namespace bramley {
namespace {

// Operations of one forward pass follow each other within this time; waking a sleeper takes about as long.
constexpr auto kSpin = std::chrono::microseconds(60);
constexpr int kPausesPerLook = 32;

void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

template <class Condition>
bool spin_until(Condition condition) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < kPausesPerLook; ++i) {
      if (condition()) return true;
      pause();
    }
  } while (std::chrono::steady_clock::now() < end);
  return condition();
}

class Pool {
 public:
  void resize(int number) {
    std::lock_guard lock(owner_);
    wanted_ = std::max(number, 1);
  }

  int size() const { return wanted_; }

  void run(int parts, void (*body)(void*, int), void* context) {
    std::unique_lock lock(owner_, std::try_to_lock);
    if (parts < 2 || !lock || wanted_ == 1) {
      for (int part = 0; part < parts; ++part) body(context, part);
      return;
    }
    start_helpers();
    body_.store(body, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    parts_.store(parts, std::memory_order_relaxed);
    undone_.store(parts, std::memory_order_relaxed);
    job_.store(((job_.load() >> 32) + 1) << 32 | static_cast<uint32_t>(parts));
    signal_.fetch_add(1);
    signal_.notify_all();
    while (work_on_one_part()) {
    }
    wait_for_others();
  }

 private:
  // The upper half of `job_` counts jobs, the lower half its parts that nobody has taken. A part is taken by exchanging
  // the whole word, which fails when the job has changed: what was read about the job before is then not used.
  bool work_on_one_part() {
    uint64_t job = job_.load(std::memory_order_acquire);
    while (static_cast<uint32_t>(job) != 0) {
      const auto body = body_.load(std::memory_order_relaxed);
      const auto context = context_.load(std::memory_order_relaxed);
      const int parts = parts_.load(std::memory_order_relaxed);
      if (job_.compare_exchange_weak(job, job - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        body(context, parts - static_cast<int>(static_cast<uint32_t>(job)));
        if (undone_.fetch_sub(1, std::memory_order_acq_rel) == 1) undone_.notify_all();
        return true;
      }
    }
    return false;
  }

  void wait_for_others() {
    if (spin_until([&] { return undone_.load(std::memory_order_acquire) == 0; })) return;
    for (int left = undone_.load(); left != 0; left = undone_.load()) undone_.wait(left);
  }

  void start_helpers() {
    for (; started_ < wanted_ - 1; ++started_) {
      std::thread([this, number = started_] { help(number); }).detach();
    }
  }

  void help(int number) {
    for (;;) {
      const uint32_t seen = signal_.load();
      if (number >= wanted_ - 1 || !work_on_one_part()) {
        if (!spin_until([&] { return signal_.load(std::memory_order_relaxed) != seen; })) signal_.wait(seen);
      }
    }
  }

  std::mutex owner_;
  std::atomic<int> wanted_{1};
  int started_ = 0;
  std::atomic<void (*)(void*, int)> body_{nullptr};
  std::atomic<void*> context_{nullptr};
  std::atomic<int> parts_{0};
  alignas(64) std::atomic<uint64_t> job_{0};
  alignas(64) std::atomic<int> undone_{0};
  alignas(64) std::atomic<uint32_t> signal_{0};
};

// Never destroyed: helpers outlive static objects.
Pool& pool() {
  static Pool& instance = *new Pool;
  return instance;
}

}  // namespace

void set_threads(int number) { pool().resize(number); }
int threads() { return pool().size(); }
void run_parts(int parts, void (*body)(void*, int), void* context) { pool().run(parts, body, context); }

void bind_threads(nanobind::module_& module) {
  module.def("set_threads", &set_threads, nanobind::arg("number"), "Set how many threads compute one operation.");
  module.def("threads", &threads, "How many threads compute one operation.");
}

}  // namespace bramley
