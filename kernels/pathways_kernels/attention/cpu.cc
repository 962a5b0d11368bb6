// Attention over an interval of keys per query, for CPUs: the blocks of FlashAttention-2 (Dao 2023, arXiv:2307.08691,
// algorithms 1 and 2), with products that keep their sums in registers. `cpu.py` calls it through XLA's foreign function
// interface; hatch_build.py compiles it, once per instruction set (-DLEVEL=NAME, vectors as wide as that set has) and
// once for the handlers (-DHANDLERS), which choose among the sets at run time.
//
// One task is one row of the batch and one query head, so results do not depend on the number of threads.

#include <cstdint>

struct Shape {
  int B, T, S, H, K, D;  // D is a multiple of 16
  float scale, soft_cap;  // soft_cap 0: none
};

struct Inputs {  // q, out, d_out [B, T, H, D]; k, v [B, S, K, D]; start, stop [B, T]; lse [B, T, H]
  const float *q, *k, *v;
  const int32_t *start, *stop;
  const float *out, *lse, *d_out;  // of the backward pass
};

struct Outputs {
  float *out, *lse;         // forward: [B, T, H, D], [B, T, H]
  float *d_q, *d_k, *d_v;  // backward: [B, T, H, D], and [B, S, H, D] of every query head, to be summed over groups
};

struct Level {  // the code for one instruction set
  long (*forward_floats)(const Shape&), (*backward_floats)(const Shape&);  // size of a task's scratch memory
  void (*forward)(const Shape&, int task, const Inputs&, const Outputs&, float* scratch);
  void (*backward)(const Shape&, int task, const Inputs&, const Outputs&, float* scratch);
};

#define FOR_LEVEL_(name) level_##name
#define FOR_LEVEL(name) FOR_LEVEL_(name)

#ifdef LEVEL

#include <cmath>
#include <cstring>

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kTileRows = 8;
#else
constexpr int kVectorBytes = 32, kTileRows = 4;
#endif
constexpr int kLanes = kVectorBytes / 4;
constexpr int kPanel = 2 * kLanes;  // columns of a tile of kTileRows rows that is summed in registers
constexpr int kQueries = 32;        // of a block
constexpr int kKeys = 128;          // of a block; a multiple of kPanel

typedef float Vec __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));
typedef int32_t Mask __attribute__((vector_size(kVectorBytes), aligned(4), may_alias));

#define INLINE inline __attribute__((always_inline))

INLINE Vec load(const float* p) { return *reinterpret_cast<const Vec*>(p); }
INLINE void store(float* p, Vec x) { *reinterpret_cast<Vec*>(p) = x; }
INLINE Vec filled(float x) { return Vec{} + x; }
INLINE int least(int a, int b) { return a < b ? a : b; }
INLINE int largest(int a, int b) { return a > b ? a : b; }

INLINE Mask lane_numbers() {
  Mask lanes{};
  for (int i = 0; i < kLanes; i++) lanes[i] = i;
  return lanes;
}

// Fold a vector into one number, by halves.
template <int n = kLanes, typename Fold>
INLINE float fold_lanes(Vec x, Fold fold) {
  if constexpr (n == 1) {
    return x[0];
  } else {
#ifdef __clang__
    Vec y;
    for (int i = 0; i < kLanes; i++) y[i] = x[i ^ (n / 2)];
#else
    const Vec y = __builtin_shuffle(x, lane_numbers() ^ (n / 2));
#endif
    return fold_lanes<n / 2>(fold(x, y), fold);
  }
}

// e^x to 2e-7 relative for x <= 88; 0 below -87, NaN for NaN. Cephes' polynomial on [-ln(2)/2, ln(2)/2].
INLINE Vec exponential(Vec x) {
  const Vec y = x < -87.0f ? filled(-87.0f) : x;
  const Vec shifted = y * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the last bits are the nearest integer to y / ln(2)
  const Vec n = shifted - 12582912.0f;
  const Vec r = (y - n * 0.693359375f) + n * 2.12194440e-4f;
  Vec p = filled(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  const Vec scaled = (Vec)(((Mask)shifted << 23) + (Mask)p);
  return x != x ? x : x < -87.0f ? Vec{} : scaled;
}

// tanh to 2e-7, absolute
INLINE Vec tanh_of(Vec x) {
  const Vec y = x > 20.0f ? filled(20.0f) : x;
  return 1.0f - 2.0f / (exponential(y + y) + 1.0f);
}

// C[R, V vectors] (+)= A[R, k] B[k, V vectors]. A's elements are `a_row` and `a_k` apart: a transposed A costs nothing.
template <int R, int V>
INLINE void tile(int k, const float* a, long a_row, long a_k, const float* b, long b_k, float* c, long c_row, bool add) {
  Vec sums[R][V];
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) sums[r][v] = add ? load(c + r * c_row + v * kLanes) : Vec{};
  for (int i = 0; i < k; i++) {
    Vec row[V];
    for (int v = 0; v < V; v++) row[v] = load(b + i * b_k + v * kLanes);
    for (int r = 0; r < R; r++)
      for (int v = 0; v < V; v++) sums[r][v] += a[r * a_row + i * a_k] * row[v];
  }
  for (int r = 0; r < R; r++)
    for (int v = 0; v < V; v++) store(c + r * c_row + v * kLanes, sums[r][v]);
}

template <int R>
INLINE void tiles(int n, int k, const float* a, long a_row, long a_k, const float* b, float* c) {
  int j = 0;
  for (; j + kPanel <= n; j += kPanel) tile<R, 2>(k, a, a_row, a_k, b + j, n, c + j, n, true);
  for (; j < n; j += kLanes) tile<R, 1>(k, a, a_row, a_k, b + j, n, c + j, n, true);
}

// C[m, n] += A[m, k] B[k, n]; B and C are contiguous, n is a multiple of kLanes.
void add_product(int m, int n, int k, const float* a, long a_row, long a_k, const float* b, float* c) {
  int i = 0;
  for (; i + kTileRows <= m; i += kTileRows) tiles<kTileRows>(n, k, a + i * a_row, a_row, a_k, b, c + long(i) * n);
  for (; i < m; i++) tiles<1>(n, k, a + i * a_row, a_row, a_k, b, c + long(i) * n);
}

// Rows [S, D] that are `row` apart -> panels [S / kPanel, D, kPanel], padded with zeros.
void pack(int S, int D, const float* x, long row, float* panels) {
  constexpr int n = 8;  // divides kPanel and D
  for (int s = 0; s < S; s += n)
    for (int d = 0; d < D; d += n) {
      float* panel = panels + long(s / kPanel) * kPanel * D + s % kPanel;
      float square[n][n] = {};
      for (int i = 0; i < least(n, S - s); i++) std::memcpy(square[i], x + (s + i) * row + d, sizeof square[i]);
      for (int i = 0; i < n; i++)
        for (int j = 0; j < n; j++) panel[(d + i) * kPanel + j] = square[j][i];
    }
  const int rest = (S + n - 1) / n * n;
  if (rest % kPanel)
    for (int d = 0; d < D; d++)
      std::memset(panels + long(rest / kPanel) * kPanel * D + d * kPanel + rest % kPanel, 0,
                  sizeof(float) * (kPanel - rest % kPanel));
}

// scores[m, keys of n panels] = rows[m, D] panels; rows of scores are kKeys long.
void multiply_panels(int m, int n, int D, const float* rows, const float* panels, float* scores) {
  for (int p = 0; p < n; p++, panels += long(D) * kPanel, scores += kPanel) {
    int i = 0;
    for (; i + kTileRows <= m; i += kTileRows)
      tile<kTileRows, 2>(D, rows + i * D, D, 1, panels, kPanel, scores + i * kKeys, kKeys, false);
    for (; i < m; i++) tile<1, 2>(D, rows + i * D, D, 1, panels, kPanel, scores + i * kKeys, kKeys, false);
  }
}

INLINE void copy_rows(int m, int D, const float* from, long from_row, float* to, long to_row, float factor = 1) {
  for (int i = 0; i < m; i++)
    for (int d = 0; d < D; d += kLanes) store(to + i * to_row + d, load(from + i * from_row + d) * factor);
}

// Where the rows of a task's row of the batch and head are.
struct Place {
  long q, kv, d_kv, ends, lse;  // first elements
  long q_row, kv_row;           // from one position to the next, of q and of k
  Place(const Shape& s, int task) {
    const int b = task / s.H, h = task % s.H;
    q_row = long(s.H) * s.D, kv_row = long(s.K) * s.D;
    q = long(b) * s.T * q_row + long(h) * s.D;
    kv = long(b) * s.S * kv_row + long(h / (s.H / s.K)) * s.D;
    d_kv = long(b) * s.S * q_row + long(h) * s.D;
    ends = long(b) * s.T;
    lse = long(b) * s.T * s.H + h;
  }
};

// The keys that a block of queries sees: some of [low, high), all of [inner_low, inner_high).
struct Keys {
  int low, high, inner_low = 0, inner_high;
  Keys(const int32_t* start, const int32_t* stop, int m, int S) : low(S), high(0), inner_high(S) {
    for (int i = 0; i < m; i++) {
      const int first = largest(start[i], 0), end = least(stop[i], S);
      inner_low = largest(inner_low, first), inner_high = least(inner_high, end);
      if (first < end) low = least(low, first), high = largest(high, end);
    }
    low = low / kPanel * kPanel;
  }
};

long panel_floats(const Shape& s) { return (s.S + kPanel - 1L) / kPanel * kPanel * s.D; }

// Scratch: packed k, v, scores, queries, sums of weighted values.
long forward_floats(const Shape& s) { return panel_floats(s) + (long(s.S) + 2 * kQueries) * s.D + kQueries * kKeys; }

void forward(const Shape& s, int task, const Inputs& in, const Outputs& to, float* scratch) {
  const Place at(s, task);
  const int32_t *start = in.start + at.ends, *stop = in.stop + at.ends;
  const int D = s.D;
  float* k = scratch;
  float* v = k + panel_floats(s);
  float* scores = v + long(s.S) * D;
  float* q = scores + kQueries * kKeys;
  float* sums = q + kQueries * D;
  pack(s.S, D, in.k + at.kv, at.kv_row, k);
  copy_rows(s.S, D, in.v + at.kv, at.kv_row, v, D);
  const Mask lanes = lane_numbers();
  const auto add = [](Vec a, Vec b) { return a + b; };
  const auto larger = [](Vec a, Vec b) { return a > b ? a : b; };
  for (int i0 = 0; i0 < s.T; i0 += kQueries) {
    const int m = least(s.T - i0, kQueries);
    const Keys keys(start + i0, stop + i0, m, s.S);
    float maximum[kQueries], total[kQueries];
    for (int i = 0; i < m; i++) maximum[i] = -INFINITY, total[i] = 0;
    std::memset(sums, 0, sizeof(float) * m * D);
    copy_rows(m, D, in.q + at.q + i0 * at.q_row, at.q_row, q, D, s.scale);
    for (int j0 = keys.low; j0 < keys.high; j0 += kKeys) {
      const int n = least(keys.high - j0, kKeys), panels = (n + kPanel - 1) / kPanel, padded = panels * kPanel;
      multiply_panels(m, panels, D, q, k + long(j0) * D, scores);
      const bool inside = j0 >= keys.inner_low && j0 + padded <= keys.inner_high;
      for (int i = 0; i < m; i++) {
        float* row = scores + i * kKeys;
        const int first = largest(start[i0 + i], 0) - j0, end = least(stop[i0 + i], s.S) - j0;
        if (least(end, padded) <= largest(first, 0)) {
          std::memset(row, 0, sizeof(float) * padded);
          continue;
        }
        Vec highest = filled(-INFINITY);
        for (int j = 0; j < padded; j += kLanes) {
          Vec x = load(row + j);
          if (s.soft_cap != 0) store(row + j, x = s.soft_cap * tanh_of(x / s.soft_cap));
          if (!inside) store(row + j, x = ((lanes + j >= first) & (lanes + j < end)) ? x : filled(-INFINITY));
          highest = larger(highest, x);
        }
        const float before = maximum[i], block_maximum = fold_lanes(highest, larger);
        const float now = block_maximum > before ? block_maximum : before;
        const float shift = now == -INFINITY ? 0 : now;  // all logits -inf, or NaN, which stays NaN
        Vec weights{};
        for (int j = 0; j < padded; j += kLanes) {
          const Vec x = exponential(load(row + j) - shift);
          store(row + j, x);
          weights += x;
        }
        if (before != now && before != -INFINITY) {
          const float rescale = std::exp(before - now);
          total[i] *= rescale;
          for (int d = 0; d < D; d += kLanes) store(sums + i * D + d, load(sums + i * D + d) * rescale);
        }
        total[i] += fold_lanes(weights, add);
        maximum[i] = now;
      }
      add_product(m, D, n, scores, kKeys, 1, v + long(j0) * D, sums);
    }
    for (int i = 0; i < m; i++) {
      const float inverse = total[i] == 0 ? 0 : 1 / total[i];
      copy_rows(1, D, sums + i * D, D, to.out + at.q + (i0 + i) * at.q_row, at.q_row, inverse);
      to.lse[at.lse + long(i0 + i) * s.H] = total[i] == 0 ? 0 : maximum[i] + std::log(total[i]);
    }
  }
}

// Scratch: packed k and v, k, the gradients of k and v, weights and their gradients, and of a block of queries q,
// d_out and d_q.
long backward_floats(const Shape& s) {
  return 2 * panel_floats(s) + (3 * long(s.S) + 3 * kQueries) * s.D + 2 * kQueries * kKeys;
}

void backward(const Shape& s, int task, const Inputs& in, const Outputs& to, float* scratch) {
  const Place at(s, task);
  const int32_t *start = in.start + at.ends, *stop = in.stop + at.ends;
  const int D = s.D;
  float* packed_k = scratch;
  float* packed_v = packed_k + panel_floats(s);
  float* k = packed_v + panel_floats(s);
  float* d_k = k + long(s.S) * D;
  float* d_v = d_k + long(s.S) * D;
  float* weights = d_v + long(s.S) * D;
  float* d_logits = weights + kQueries * kKeys;
  float* q = d_logits + kQueries * kKeys;
  float* d_out = q + kQueries * D;
  float* d_q = d_out + kQueries * D;
  pack(s.S, D, in.k + at.kv, at.kv_row, packed_k);
  pack(s.S, D, in.v + at.kv, at.kv_row, packed_v);
  copy_rows(s.S, D, in.k + at.kv, at.kv_row, k, D);
  std::memset(d_k, 0, sizeof(float) * s.S * D);
  std::memset(d_v, 0, sizeof(float) * s.S * D);
  const Mask lanes = lane_numbers();
  const auto add = [](Vec a, Vec b) { return a + b; };
  for (int i0 = 0; i0 < s.T; i0 += kQueries) {
    const int m = least(s.T - i0, kQueries);
    const Keys keys(start + i0, stop + i0, m, s.S);
    const long rows = at.q + i0 * at.q_row;
    copy_rows(m, D, in.q + rows, at.q_row, q, D, s.scale);
    copy_rows(m, D, in.d_out + rows, at.q_row, d_out, D);
    std::memset(d_q, 0, sizeof(float) * m * D);
    float delta[kQueries], lse[kQueries];
    for (int i = 0; i < m; i++) {
      Vec products{};
      for (int d = 0; d < D; d += kLanes) products += load(in.out + rows + i * at.q_row + d) * load(d_out + i * D + d);
      delta[i] = fold_lanes(products, add);
      lse[i] = in.lse[at.lse + long(i0 + i) * s.H];
    }
    for (int j0 = keys.low; j0 < keys.high; j0 += kKeys) {
      const int n = least(keys.high - j0, kKeys), panels = (n + kPanel - 1) / kPanel, padded = panels * kPanel;
      multiply_panels(m, panels, D, q, packed_k + long(j0) * D, weights);
      multiply_panels(m, panels, D, d_out, packed_v + long(j0) * D, d_logits);
      const bool inside = j0 >= keys.inner_low && j0 + padded <= keys.inner_high;
      for (int i = 0; i < m; i++) {
        float *row = weights + i * kKeys, *d_row = d_logits + i * kKeys;
        const int first = largest(start[i0 + i], 0) - j0, end = least(stop[i0 + i], s.S) - j0;
        for (int j = 0; j < padded; j += kLanes) {
          Vec logits = load(row + j), slope = filled(1);
          if (s.soft_cap != 0) {
            const Vec t = tanh_of(logits / s.soft_cap);
            logits = s.soft_cap * t, slope = 1.0f - t * t;
          }
          const Vec x = exponential(logits - lse[i]), d_x = x * (load(d_row + j) - delta[i]) * slope;
          const Mask seen = inside ? Mask{} == 0 : (lanes + j >= first) & (lanes + j < end);
          store(row + j, seen ? x : Vec{});
          store(d_row + j, seen ? d_x : Vec{});
        }
      }
      add_product(n, D, m, weights, 1, kKeys, d_out, d_v + long(j0) * D);
      add_product(n, D, m, d_logits, 1, kKeys, q, d_k + long(j0) * D);  // q has the scale in it
      add_product(m, D, n, d_logits, kKeys, 1, k + long(j0) * D, d_q);
    }
    copy_rows(m, D, d_q, D, to.d_q + rows, at.q_row, s.scale);
  }
  copy_rows(s.S, D, d_k, D, to.d_k + at.d_kv, at.q_row);
  copy_rows(s.S, D, d_v, D, to.d_v + at.d_kv, at.q_row);
}

}  // namespace

extern const Level FOR_LEVEL(LEVEL);
const Level FOR_LEVEL(LEVEL) = {forward_floats, backward_floats, forward, backward};

#endif  // LEVEL

#ifdef HANDLERS

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>

#include "xla/ffi/api/ffi.h"

namespace {

namespace ffi = xla::ffi;
using Floats = ffi::Buffer<ffi::F32>;
using Integers = ffi::Buffer<ffi::S32>;
using Result = ffi::ResultBuffer<ffi::F32>;

}  // namespace

extern const Level level_avx2, level_avx512;

namespace {

// The widest instruction set that the processor has, or the one that PATHWAYS_KERNELS_CPU names, for tests; or null.
const Level* find_level() {
  const char* name = std::getenv("PATHWAYS_KERNELS_CPU");
  const bool is_narrow = name && std::string_view(name) == "avx2";
  if (!is_narrow && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return &level_avx512;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &level_avx2 : nullptr;
}

const Level* level() {
  static const Level* const found = find_level();
  return found;
}

// Run tasks on the pool's threads and this one. It never waits for a thread that has not begun: the pool's threads may
// all be in here, with other calls. A helper that comes late finds no task left, and touches nothing but `Progress`.
template <typename Run>
ffi::Error run_tasks(ffi::ThreadPool& pool, long tasks, long floats, const Run& run) {
  struct Progress {
    std::atomic<long> next{0}, done{0};
    std::atomic<bool> failed{false};
    std::mutex mutex;
    std::condition_variable all_done;
  };
  auto progress = std::make_shared<Progress>();
  auto work = [progress, tasks, floats, &run] {
    float* scratch = nullptr;
    for (long task; (task = progress->next++) < tasks;) {
      if (!scratch) scratch = static_cast<float*>(std::aligned_alloc(64, (floats * sizeof(float) + 63) / 64 * 64));
      if (scratch) run(task, scratch);
      else progress->failed = true;
      if (++progress->done == tasks) {
        std::lock_guard<std::mutex> lock(progress->mutex);
        progress->all_done.notify_all();
      }
    }
    std::free(scratch);
  };
  for (long helper = 0; helper < pool.num_threads() && helper + 1 < tasks; helper++) pool.Schedule([work] { work(); });
  work();
  std::unique_lock<std::mutex> lock(progress->mutex);
  progress->all_done.wait(lock, [&] { return progress->done == tasks; });
  if (progress->failed) return ffi::Error(ffi::ErrorCode::kResourceExhausted, "attention: no memory for a block");
  return ffi::Error::Success();
}

Shape shape_of(const Floats& q, const Floats& k, float scale, float soft_cap) {
  const auto queries = q.dimensions(), keys = k.dimensions();
  return {int(queries[0]), int(queries[1]), int(keys[1]), int(queries[2]), int(keys[2]), int(queries[3]),
          scale, soft_cap};
}

ffi::Error run_forward(ffi::ThreadPool pool, float scale, float soft_cap, Floats q, Floats k, Floats v,
                       Integers start, Integers stop, Result out, Result lse) {
  const Shape s = shape_of(q, k, scale, soft_cap);
  const Inputs in = {q.typed_data(), k.typed_data(), v.typed_data(), start.typed_data(), stop.typed_data()};
  const Outputs to = {out->typed_data(), lse->typed_data()};
  return run_tasks(pool, long(s.B) * s.H, level()->forward_floats(s),
                   [&](int task, float* scratch) { level()->forward(s, task, in, to, scratch); });
}

ffi::Error run_backward(ffi::ThreadPool pool, float scale, float soft_cap, Floats q, Floats k, Floats v,
                        Integers start, Integers stop, Floats out, Floats lse, Floats d_out, Result d_q, Result d_k,
                        Result d_v) {
  const Shape s = shape_of(q, k, scale, soft_cap);
  const Inputs in = {q.typed_data(),    k.typed_data(),   v.typed_data(),   start.typed_data(),
                     stop.typed_data(), out.typed_data(), lse.typed_data(), d_out.typed_data()};
  const Outputs to = {nullptr, nullptr, d_q->typed_data(), d_k->typed_data(), d_v->typed_data()};
  return run_tasks(pool, long(s.B) * s.H, level()->backward_floats(s),
                   [&](int task, float* scratch) { level()->backward(s, task, in, to, scratch); });
}

}  // namespace

extern "C" int attention_is_supported() { return level() != nullptr; }
extern "C" const char* attention_source() { return SOURCE; }  // digest of this file

XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_forward, run_forward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<float>("scale").Attr<float>("soft_cap")
                                  .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Integers>().Arg<Integers>()
                                  .Ret<Floats>().Ret<Floats>());

XLA_FFI_DEFINE_HANDLER_SYMBOL(attention_backward, run_backward,
                              ffi::Ffi::Bind().Ctx<ffi::ThreadPool>().Attr<float>("scale").Attr<float>("soft_cap")
                                  .Arg<Floats>().Arg<Floats>().Arg<Floats>().Arg<Integers>().Arg<Integers>()
                                  .Arg<Floats>().Arg<Floats>().Arg<Floats>()
                                  .Ret<Floats>().Ret<Floats>().Ret<Floats>());

#endif  // HANDLERS
