// Sixteen numbers at once, on AVX-512, AVX2, NEON or plain C++. The only file that knows instruction sets.
//
// A word holds two 16-bit integers, or the quantised integers they are taken out of.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(BRAMLEY_PORTABLE)
#elif defined(__AVX512F__) && defined(__AVX512BW__)
#define BRAMLEY_AVX512
#include <immintrin.h>
#elif defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define BRAMLEY_AVX2
#include <immintrin.h>
#elif defined(__aarch64__)
#define BRAMLEY_NEON
#include <arm_neon.h>
#endif

#define BRAMLEY_INLINE inline __attribute__((always_inline))

namespace bramley {

constexpr int kLanes = 16;

// Bit patterns of 16-bit floats as they are stored.
struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

BRAMLEY_INLINE float as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

BRAMLEY_INLINE float to_float(float value) { return value; }

BRAMLEY_INLINE float to_float(BFloat value) { return as_float(static_cast<uint32_t>(value.bits) << 16); }

BRAMLEY_INLINE float to_float(Half value) {
  // Exponent and fraction move into place; the product corrects the exponent's bias, denormals included.
  const uint32_t sign = static_cast<uint32_t>(value.bits & 0x8000) << 16;
  const uint32_t rest = static_cast<uint32_t>(value.bits & 0x7fff) << 13;
  const bool finite = (value.bits & 0x7c00) != 0x7c00;
  const float magnitude = finite ? as_float(rest) * 0x1p112f : as_float(rest | 0x7f800000);
  return sign != 0 ? -magnitude : magnitude;
}

#if defined(BRAMLEY_AVX512)

constexpr const char* kPath = "AVX-512";
constexpr int kMaxBlock = 12;

struct Floats {
  __m512 v;
};
struct Words {
  __m512i v;
};

BRAMLEY_INLINE Floats zero_floats() { return {_mm512_setzero_ps()}; }
BRAMLEY_INLINE Words zero_words() { return {_mm512_setzero_si512()}; }
BRAMLEY_INLINE Floats broadcast(float x) { return {_mm512_set1_ps(x)}; }
BRAMLEY_INLINE Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
BRAMLEY_INLINE Floats load(const Half* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
BRAMLEY_INLINE Floats load(const BFloat* p) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
BRAMLEY_INLINE void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
BRAMLEY_INLINE void store_first(float* p, Floats a, int count) {
  _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), a.v);
}
BRAMLEY_INLINE Floats add(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
BRAMLEY_INLINE Floats multiply(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
BRAMLEY_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }

BRAMLEY_INLINE Words load_words(const void* p) { return {_mm512_loadu_si512(p)}; }
template <int shift>
BRAMLEY_INLINE Words shifted(Words a) {
  return {_mm512_srli_epi32(a.v, shift)};
}
BRAMLEY_INLINE Words masked(Words a, uint32_t mask) {
  return {_mm512_and_si512(a.v, _mm512_set1_epi32(static_cast<int>(mask)))};
}
// Each 16-bit integer below 16 is replaced by the table's entry.
BRAMLEY_INLINE Words look_up(Words a, const uint8_t* table) {
  const __m256i entries = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table)));
  return {_mm512_permutexvar_epi16(a.v, _mm512_broadcast_i64x4(entries))};
}
// Per lane: sums + a.low * b.low + a.high * b.high, where b is one word for all lanes.
BRAMLEY_INLINE Words add_products(Words sums, Words a, int32_t b) {
#if defined(__AVX512VNNI__)
  return {_mm512_dpwssd_epi32(sums.v, a.v, _mm512_set1_epi32(b))};
#else
  return {_mm512_add_epi32(sums.v, _mm512_madd_epi16(a.v, _mm512_set1_epi32(b)))};
#endif
}
#if defined(__AVX512VNNI__)
#define BRAMLEY_BYTE_PRODUCTS
BRAMLEY_INLINE Words broadcast_word(int32_t word) { return {_mm512_set1_epi32(word)}; }
// Per lane: sums + the products of four bytes of a, taken as unsigned, with four of b, taken as signed.
BRAMLEY_INLINE Words add_byte_products(Words sums, Words a, Words b) {
  return {_mm512_dpbusd_epi32(sums.v, a.v, b.v)};
}
template <int shift>
BRAMLEY_INLINE Words shifted_up(Words a) {
  return {_mm512_slli_epi32(a.v, shift)};
}
#endif
BRAMLEY_INLINE Words add_words(Words a, Words b) { return {_mm512_add_epi32(a.v, b.v)}; }
BRAMLEY_INLINE Floats to_floats(Words a) { return {_mm512_cvtepi32_ps(a.v)}; }

#elif defined(BRAMLEY_AVX2)

constexpr const char* kPath = "AVX2";
constexpr int kMaxBlock = 4;

struct Floats {
  __m256 low, high;
};
struct Words {
  __m256i low, high;
};

BRAMLEY_INLINE Floats zero_floats() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
BRAMLEY_INLINE Words zero_words() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
BRAMLEY_INLINE Floats broadcast(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
BRAMLEY_INLINE Floats load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
BRAMLEY_INLINE Floats load(const Half* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}
BRAMLEY_INLINE Floats load(const BFloat* p) {
  const auto* halves = reinterpret_cast<const __m128i*>(p);
  const __m256i low = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves));
  const __m256i high = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves + 1));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))};
}
BRAMLEY_INLINE void store(float* p, Floats a) {
  _mm256_storeu_ps(p, a.low);
  _mm256_storeu_ps(p + 8, a.high);
}
BRAMLEY_INLINE void store_first(float* p, Floats a, int count) {
  float all[kLanes];
  store(all, a);
  std::memcpy(p, all, sizeof(float) * count);
}
BRAMLEY_INLINE Floats add(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
BRAMLEY_INLINE Floats multiply(Floats a, Floats b) {
  return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
BRAMLEY_INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}

BRAMLEY_INLINE Words load_words(const void* p) {
  const auto* words = static_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(words), _mm256_loadu_si256(words + 1)};
}
template <int shift>
BRAMLEY_INLINE Words shifted(Words a) {
  return {_mm256_srli_epi32(a.low, shift), _mm256_srli_epi32(a.high, shift)};
}
BRAMLEY_INLINE Words masked(Words a, uint32_t mask) {
  const __m256i all = _mm256_set1_epi32(static_cast<int>(mask));
  return {_mm256_and_si256(a.low, all), _mm256_and_si256(a.high, all)};
}
BRAMLEY_INLINE Words look_up(Words a, const uint8_t* table) {
  const __m128i entries = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
  const __m256i both = _mm256_broadcastsi128_si256(entries);
  return masked({_mm256_shuffle_epi8(both, a.low), _mm256_shuffle_epi8(both, a.high)}, 0x00ff00ff);
}
BRAMLEY_INLINE Words add_products(Words sums, Words a, int32_t b) {
  const __m256i all = _mm256_set1_epi32(b);
  return {_mm256_add_epi32(sums.low, _mm256_madd_epi16(a.low, all)),
          _mm256_add_epi32(sums.high, _mm256_madd_epi16(a.high, all))};
}
BRAMLEY_INLINE Words add_words(Words a, Words b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
BRAMLEY_INLINE Floats to_floats(Words a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }

#else

// The compiler splits these vectors into whatever the machine has.
typedef float FloatVector __attribute__((vector_size(64)));
typedef int32_t WordVector __attribute__((vector_size(64)));

#if defined(BRAMLEY_NEON)
constexpr const char* kPath = "NEON";
#else
constexpr const char* kPath = "portable";
#endif
constexpr int kMaxBlock = 4;

struct Floats {
  FloatVector v;
};
struct Words {
  WordVector v;
};

BRAMLEY_INLINE Floats zero_floats() { return {FloatVector{}}; }
BRAMLEY_INLINE Words zero_words() { return {WordVector{}}; }
BRAMLEY_INLINE Floats broadcast(float x) { return {x - FloatVector{}}; }
template <class T>
BRAMLEY_INLINE Floats load(const T* p) {
  Floats all;
  for (int i = 0; i < kLanes; ++i) all.v[i] = to_float(p[i]);
  return all;
}
BRAMLEY_INLINE void store_first(float* p, Floats a, int count) { std::memcpy(p, &a.v, sizeof(float) * count); }
BRAMLEY_INLINE void store(float* p, Floats a) { store_first(p, a, kLanes); }
BRAMLEY_INLINE Floats add(Floats a, Floats b) { return {a.v + b.v}; }
BRAMLEY_INLINE Floats multiply(Floats a, Floats b) { return {a.v * b.v}; }
BRAMLEY_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return {a.v * b.v + c.v}; }

BRAMLEY_INLINE Words load_words(const void* p) {
  Words all;
  std::memcpy(&all.v, p, sizeof all.v);
  return all;
}
template <int shift>
BRAMLEY_INLINE Words shifted(Words a) {
  typedef uint32_t Unsigned __attribute__((vector_size(64)));
  return {reinterpret_cast<WordVector>(reinterpret_cast<Unsigned>(a.v) >> shift)};
}
BRAMLEY_INLINE Words masked(Words a, uint32_t mask) { return {a.v & static_cast<int32_t>(mask)}; }
BRAMLEY_INLINE Words look_up(Words a, const uint8_t* table) {
  for (int i = 0; i < kLanes; ++i) a.v[i] = table[a.v[i] & 15] | table[(a.v[i] >> 16) & 15] << 16;
  return a;
}
#if defined(BRAMLEY_NEON)
BRAMLEY_INLINE Words add_products(Words sums, Words a, int32_t b) {
  const int16x8_t all = vreinterpretq_s16_s32(vdupq_n_s32(b));
  for (int quarter = 0; quarter < 4; ++quarter) {
    auto* sum = reinterpret_cast<int32_t*>(&sums.v) + 4 * quarter;
    const int16x8_t pairs = vreinterpretq_s16_s32(vld1q_s32(reinterpret_cast<const int32_t*>(&a.v) + 4 * quarter));
    const int32x4_t low = vmull_s16(vget_low_s16(pairs), vget_low_s16(all));
    const int32x4_t high = vmull_high_s16(pairs, all);
    vst1q_s32(sum, vaddq_s32(vld1q_s32(sum), vpaddq_s32(low, high)));
  }
  return sums;
}
#else
BRAMLEY_INLINE Words add_products(Words sums, Words a, int32_t b) {
  const int32_t low = static_cast<int16_t>(b & 0xffff), high = b >> 16;
  return {sums.v + (a.v & 0xffff) * low + (a.v >> 16) * high};
}
#endif
BRAMLEY_INLINE Words add_words(Words a, Words b) { return {a.v + b.v}; }
BRAMLEY_INLINE Floats to_floats(Words a) { return {__builtin_convertvector(a.v, FloatVector)}; }

#endif

}  // namespace bramley
