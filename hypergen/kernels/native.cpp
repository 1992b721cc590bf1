// One decoding step of a small transformer as one call, the sampling of a token, the loss of training with its gradient,
// and measures of predictions; for processors (see native_step.py, native_sampling.py and native_loss.py, whose structures mirror these).
//
// A product's weights lie in panels of PANEL columns, [panel][in][PANEL], and are read once for a tile of rows. Every
// number is computed by one thread and summed in one order, whatever the rows beside it and the count of threads, so
// neither changes a bit. Weights and cache are fp32 or bf16 (T), everything else is fp32.
//
// Letters: B rows, L tokens so far, C capacity of a cache, D width, I width inside the MLP, H query heads, G key-value
// heads, E width of a head, V vocabulary.

#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 12;  // the sums of a tile fill 24 of 32 registers
#elif defined(__AVX2__)
constexpr int LANES = 8, TILE = 6;  // 12 of 16
#else
constexpr int LANES = 4, TILE = 6;
#endif
constexpr int PANEL = 2 * LANES;  // as in native_step.py

using bf16 = uint16_t;
typedef float Lanes __attribute__((vector_size(4 * LANES)));
typedef uint32_t Bits __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

inline float to_float(float value) { return value; }
inline float to_float(bf16 value) {
  uint32_t bits = uint32_t(value) << 16;
  float wide;
  std::memcpy(&wide, &bits, 4);
  return wide;
}

inline void store(float value, float* to) { *to = value; }
inline void store(float value, bf16* to) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  *to = value != value ? 0x7fc0 : bf16((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

inline Lanes load(const float* from) {
  Lanes lanes;
  std::memcpy(&lanes, from, sizeof lanes);
  return lanes;
}
inline Lanes load(const bf16* from) {
  Halves halves;
  std::memcpy(&halves, from, sizeof halves);
  return (Lanes)(__builtin_convertvector(halves, Bits) << 16);
}

inline float exponential(float x) {  // to 2e-7; plain arithmetic, so that compilers do many at once
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // adding 1.5 * 2^23 rounds
  float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.0f / 5040;
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + c;
  int32_t bits = (int32_t(n) + 127) << 23;
  float power;
  std::memcpy(&power, &bits, 4);
  return p * power;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

}  // namespace

extern "C" {

enum Activation : int64_t { SILU, TANH_GELU, QUICK_GELU };

struct PackedLinear {  // x (in) -> x @ weight + bias (out)
  const void* weight;
  const float* bias;  // or null
  int64_t width_in, width_out;
};

struct Block {
  PackedLinear qkv, out, up, gate, down;  // gate.weight is null where the MLP has none
  float scale;
};

struct Model {
  const void* embedding;           // (num_tokens, D)
  const void* position_embedding;  // (positions, D) or null
  const float* rotary;             // (positions, E / 2, 2) or null
  const Block* blocks;
  PackedLinear head;
  int64_t num_blocks, num_tokens, width, num_heads, num_groups, head_width;
  int64_t activation, is_layer_norm;  // else RMS norm over the sum of squares
  float epsilon;
};

struct Filters {  // of sampling; top_k 0, top_p 1, min_p 0 keep everything
  int64_t num_tokens, top_k;
  float temperature, top_p, min_p;
};

}  // extern "C"

namespace {

constexpr int64_t BLOCK = 64;     // logits whose highest is kept
constexpr int64_t SUMMED = 1024;  // exponentials that are summed in fp32
constexpr int TOP = 5;            // most likely tokens; as in native_loss.py

struct Share {  // of a thread: which of `count` things
  int64_t first, last;
  Share(int64_t count, int thread, int threads)
      : first(count * thread / threads), last(count * (thread + 1) / threads) {}
};

template <class T, int R>
void multiply_tile(const float* x, int64_t in, const T* panel, float (*sums)[PANEL]) {
  Lanes total[R][2] = {};
  for (int64_t i = 0; i < in; ++i, panel += PANEL) {
    if (R > 1) {  // one row needs all the bandwidth there is; several leave some for the panel that comes next
      __builtin_prefetch(panel + in * PANEL, 0, 2);
      __builtin_prefetch(panel + in * PANEL + LANES, 0, 2);
    }
    Lanes low = load(panel), high = load(panel + LANES);
    for (int r = 0; r < R; ++r) {
      Lanes value = x[r * in + i] - Lanes{};
      total[r][0] += value * low;
      total[r][1] += value * high;
    }
  }
  std::memcpy(sums, total, sizeof total);
}

template <class T>
using Tile = void (*)(const float*, int64_t, const T*, float (*)[PANEL]);

template <class T, int... R>
Tile<T> tile_of(int rows, std::integer_sequence<int, R...>) {
  static constexpr Tile<T> tiles[] = {multiply_tile<T, R + 1>...};
  return tiles[rows - 1];
}

// Multiplies x (B, in) by one panel, tile by tile, and calls `take(row, column, sums (PANEL), count of valid columns)`.
template <class T, class Take>
void multiply_panel(const float* x, int64_t rows, const PackedLinear& product, int64_t panel, Take take) {
  const T* weight = static_cast<const T*>(product.weight) + panel * product.width_in * PANEL;
  int64_t column = panel * PANEL, columns = product.width_out - column < PANEL ? product.width_out - column : PANEL;
  int64_t tiles = (rows + TILE - 1) / TILE;
  for (int64_t t = 0; t < tiles; ++t) {
    Share part(rows, int(t), int(tiles));
    float sums[TILE][PANEL];
    tile_of<T>(int(part.last - part.first), std::make_integer_sequence<int, TILE>{})(
        x + part.first * product.width_in, product.width_in, weight, sums);
    for (int64_t row = part.first; row < part.last; ++row) {
      float* given = sums[row - part.first];
      if (product.bias)
        for (int64_t c = 0; c < columns; ++c) given[c] += product.bias[column + c];
      take(row, column, given, columns);
    }
  }
}

inline int64_t panels(const PackedLinear& product) { return (product.width_out + PANEL - 1) / PANEL; }

void normalize(const Model& model, const float* hidden, float* out, int64_t rows) {
  int64_t width = model.width;
  for (int64_t row = 0; row < rows; ++row, hidden += width, out += width) {
    float mean = 0.0f, squares = 0.0f;
    if (model.is_layer_norm) {
#pragma omp simd reduction(+ : mean)
      for (int64_t d = 0; d < width; ++d) mean += hidden[d];
      mean /= width;
    }
#pragma omp simd reduction(+ : squares)
    for (int64_t d = 0; d < width; ++d) squares += (hidden[d] - mean) * (hidden[d] - mean);
    float sum = model.is_layer_norm ? squares / width + model.epsilon : squares + width * model.epsilon;
    float factor = 1.0f / std::sqrt(sum);
    for (int64_t d = 0; d < width; ++d) out[d] = (hidden[d] - mean) * factor;
  }
}

void activate(int64_t kind, float* x, int64_t count) {
  switch (kind) {
    case SILU:
      for (int64_t i = 0; i < count; ++i) x[i] *= sigmoid(x[i]);
      break;
    case TANH_GELU:  // x (1 + tanh(u)) / 2 = x sigmoid(2 u)
      for (int64_t i = 0; i < count; ++i) x[i] *= sigmoid(1.5957691216f * (x[i] + 0.044715f * x[i] * x[i] * x[i]));
      break;
    case QUICK_GELU:
      for (int64_t i = 0; i < count; ++i) x[i] *= sigmoid(1.702f * x[i]);
      break;
  }
}

void rotate(float* head, const float* rotary, int64_t pairs) {
  for (int64_t p = 0; p < pairs; ++p) {
    float a = head[2 * p], b = head[2 * p + 1], c = rotary[2 * p], s = rotary[2 * p + 1];
    head[2 * p] = a * c - b * s;
    head[2 * p + 1] = a * s + b * c;
  }
}

// Scores a query (E) against the keys of tokens `first` to `end`; keys lie [C / LANES][E][LANES], and whole groups of
// LANES are computed.
template <class T>
void score(const float* query, const T* keys, int64_t first, int64_t end, int64_t width, float scale, float* scores) {
  constexpr int AT_ONCE = 4;
  int64_t group = first / LANES, groups = (end + LANES - 1) / LANES;
  for (; group < groups; group += AT_ONCE) {
    Lanes sums[AT_ONCE] = {};
    int64_t steps[AT_ONCE];  // beyond the last group the first is computed again
    for (int g = 0; g < AT_ONCE; ++g) steps[g] = group + g < groups ? g * LANES * width : 0;
    const T* key = keys + group * LANES * width;
    for (int64_t e = 0; e < width; ++e, key += LANES)
      for (int g = 0; g < AT_ONCE; ++g) sums[g] += (query[e] - Lanes{}) * load(key + steps[g]);
    for (int g = 0; g < AT_ONCE && group + g < groups; ++g) {
      Lanes scaled = sums[g] * (scale - Lanes{});
      std::memcpy(scores + (group + g) * LANES, &scaled, sizeof scaled);
    }
  }
}

// Attends with one query (E) to the keys and values of tokens `first` to `end` -> attended (E). `scores` holds C.
template <class T>
void attend(const float* query, const T* keys, const T* values, int64_t first, int64_t end, int64_t width, float scale,
            float* scores, float* attended) {
  score(query, keys, first, end, width, scale, scores);
  float highest = -INFINITY, total = 0.0f;
#pragma omp simd reduction(max : highest)
  for (int64_t l = first; l < end; ++l) highest = scores[l] > highest ? scores[l] : highest;
#pragma omp simd reduction(+ : total)
  for (int64_t l = first; l < end; ++l) total += scores[l] = exponential(scores[l] - highest);
  constexpr int AT_ONCE = 8;
  int64_t e = 0;
  for (; e + LANES <= width; e += LANES) {
    Lanes sums[AT_ONCE] = {};
    int64_t l = first;
    for (; l + AT_ONCE <= end; l += AT_ONCE)
      for (int i = 0; i < AT_ONCE; ++i) sums[i] += (scores[l + i] - Lanes{}) * load(values + (l + i) * width + e);
    for (; l < end; ++l) sums[0] += (scores[l] - Lanes{}) * load(values + l * width + e);
    for (int i = 1; i < AT_ONCE; ++i) sums[0] += sums[i];
    sums[0] /= total - Lanes{};
    std::memcpy(attended + e, sums, sizeof sums[0]);
  }
  for (; e < width; ++e) {
    float sum = 0.0f;
    for (int64_t l = first; l < end; ++l) sum += scores[l] * to_float(values[l * width + e]);
    attended[e] = sum / total;
  }
}

struct Candidate {
  float value;  // logit less the highest, over the temperature
  int64_t token;
  bool operator<(const Candidate& other) const {
    return value > other.value || (value == other.value && token < other.token);
  }
};

// Puts the candidates of one row of logits with a value of at least `floor` into `found`, in no order, and returns how
// many there are. `highest_of` has the highest logit of each BLOCK of them: most blocks have none.
int64_t gather(const float* logits, int64_t count, const float* highest_of, float highest, float factor, float floor,
            std::vector<Candidate>& found) {
  int64_t size = 0;
  if (int64_t(found.size()) < count + 1) found.resize(count + 1);
  for (int64_t first = 0; first < count; first += BLOCK) {
    if (!((highest_of[first / BLOCK] - highest) * factor >= floor)) continue;
    int64_t end = first + BLOCK < count ? first + BLOCK : count;
    for (int64_t i = first; i < end; ++i) {  // without a branch, which could not be predicted
      float value = (logits[i] - highest) * factor;
      found[size] = {value, i};
      size += (value >= floor) & (value > -INFINITY);
    }
  }
  return size;
}

// Samples one token of a row of logits, as `sampling.candidates` and `sampling.sample` of hypergen.decoding do.
int64_t sample_token(const float* logits, const Filters& filters, double uniform, std::vector<float>& highest_of,
                     std::vector<Candidate>& found) {
  int64_t count = filters.num_tokens;
  float highest = -INFINITY, factor = 1.0f / filters.temperature;
  highest_of.resize((count + BLOCK - 1) / BLOCK);
  for (int64_t first = 0; first < count; first += BLOCK) {
    int64_t end = first + BLOCK < count ? first + BLOCK : count;
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = first; i < end; ++i) most = logits[i] > most ? logits[i] : most;
    highest_of[first / BLOCK] = most;
    highest = most > highest ? most : highest;
  }
  double total = 0.0;  // mass that top_p is a share of: of all tokens, or of the k most likely
  if (!filters.top_k && filters.top_p < 1.0f)
    for (int64_t first = 0; first < count; first += SUMMED) {
      int64_t end = first + SUMMED < count ? first + SUMMED : count;
      float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
      for (int64_t i = first; i < end; ++i) sum += exponential((logits[i] - highest) * factor);
      total += sum;
    }
  float lowest = filters.min_p > 0.0f ? std::log(filters.min_p) : -INFINITY;
  int64_t size = 0;
  bool is_bounded = filters.top_k || filters.top_p < 1.0f;  // by more than min_p
  for (float floor = is_bounded ? -1.0f : lowest;; floor = floor < -80.0f ? -INFINITY : 1.5f * floor) {
    if (floor < lowest) floor = lowest;
    size = gather(logits, count, highest_of.data(), highest, factor, floor, found);
    if (floor == lowest) break;
    if (filters.top_k) {
      if (size >= filters.top_k) break;
    } else {
      double mass = 0.0;
      for (int64_t i = 0; i < size; ++i) mass += exponential(found[i].value);
      if (mass >= filters.top_p * total) break;
    }
  }
  if (size == 0) return 0;  // every logit is NaN
  auto first = found.begin(), end = first + size;
  if (filters.top_k && filters.top_k < size) {
    std::nth_element(first, first + filters.top_k, end);
    end = first + filters.top_k;
  }
  std::sort(first, end);
  if (filters.top_k)
    for (auto one = first; one < end; ++one) total += exponential(one->value);
  double mass = 0.0;
  auto last = first;
  for (; last < end && (filters.top_p >= 1.0f || mass < filters.top_p * total); ++last)
    mass += exponential(last->value);
  double aim = uniform * mass, reached = 0.0;
  for (auto one = first; one < last; ++one)
    if ((reached += exponential(one->value)) > aim) return one->token;
  return (last - 1)->token;
}

// Computes the cross-entropy of one row of logits (V) and its gradient, times `scale`, and finds the first of the
// highest logits. The exponentials are computed twice, which is faster than to write them down.
template <class T>
void cross_entropy_row(const T* logits, int64_t count, int64_t label, float scale, T* gradient, float* loss,
                       int64_t* predicted) {
  constexpr float NEGLIGIBLE = 1e-30f;  // smaller products would be denormal, which processors are slow at
  float highest = -INFINITY;
  int64_t highest_block = 0;
  for (int64_t first = 0; first < count; first += BLOCK) {
    int64_t end = first + BLOCK < count ? first + BLOCK : count;
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = first; i < end; ++i) most = to_float(logits[i]) > most ? to_float(logits[i]) : most;
    if (most > highest) highest = most, highest_block = first;
  }
  *predicted = highest_block;
  while (*predicted + 1 < count && to_float(logits[*predicted]) != highest) ++*predicted;
  double total = 0.0;
  for (int64_t first = 0; first < count; first += SUMMED) {
    int64_t end = first + SUMMED < count ? first + SUMMED : count;
    float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = first; i < end; ++i) sum += exponential(to_float(logits[i]) - highest);
    total += sum;
  }
  float factor = scale / float(total);
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    float power = exponential(to_float(logits[i]) - highest);
    store(power < NEGLIGIBLE ? 0.0f : power * factor, gradient + i);
  }
  float distance = to_float(logits[label]) - highest;
  store(exponential(distance) * factor - scale, gradient + label);
  *loss = float(std::log(total) - distance);
}

// Measures the prediction in one row of logits (V): cross-entropy with the label, entropy, and the probability of the
// TOP most likely tokens together, `top[k - 1]` that of k.
template <class T>
void sharpness_row(const T* logits, int64_t count, int64_t label, float* loss, float* entropy, float* top,
                   std::vector<float>& highest_of) {
  constexpr float LEAST = -87.0f;  // of a logit less the highest; below it a token has no share in a sum
  highest_of.resize((count + BLOCK - 1) / BLOCK);
  float highest = -INFINITY, likeliest[TOP];
  std::fill(likeliest, likeliest + TOP, -INFINITY);
  for (int64_t first = 0; first < count; first += BLOCK) {
    int64_t end = first + BLOCK < count ? first + BLOCK : count;
    float most = -INFINITY;
#pragma omp simd reduction(max : most)
    for (int64_t i = first; i < end; ++i) most = to_float(logits[i]) > most ? to_float(logits[i]) : most;
    highest_of[first / BLOCK] = most;
    highest = most > highest ? most : highest;
  }
  for (int64_t first = 0; first < count; first += BLOCK) {
    if (!(highest_of[first / BLOCK] > likeliest[TOP - 1])) continue;
    int64_t end = first + BLOCK < count ? first + BLOCK : count;
    for (int64_t i = first; i < end; ++i) {
      float value = to_float(logits[i]);
      if (!(value > likeliest[TOP - 1])) continue;
      int place = TOP - 1;
      for (; place > 0 && likeliest[place - 1] < value; --place) likeliest[place] = likeliest[place - 1];
      likeliest[place] = value;
    }
  }
  double total = 0.0, weighted = 0.0;  // of exp(distance), and of that times the distance
  for (int64_t first = 0; first < count; first += SUMMED) {
    int64_t end = first + SUMMED < count ? first + SUMMED : count;
    float sum = 0.0f, product = 0.0f;
#pragma omp simd reduction(+ : sum, product)
    for (int64_t i = first; i < end; ++i) {
      float distance = to_float(logits[i]) - highest, power = exponential(distance);
      sum += distance < LEAST ? 0.0f : power;
      product += distance < LEAST ? 0.0f : power * distance;
    }
    total += sum, weighted += product;
  }
  double log_total = std::log(total), mass = 0.0;
  *loss = float(log_total - (to_float(logits[label]) - highest));
  *entropy = float(log_total - weighted / total);
  for (int k = 0; k < TOP; ++k) {
    if (likeliest[k] > -INFINITY) mass += exponential(likeliest[k] - highest) / total;
    top[k] = float(mass);
  }
}

struct Call {
  const Model& model;
  const int64_t* tokens;       // (B)
  const int64_t* num_padding;  // (B) or null
  void* const* caches;         // a block: keys (B, G, C / LANES, E, LANES), then values (B, G, C, E)
  int64_t rows, length, capacity;
  float* logits;  // (B, V)
  float *hidden, *qkv, *attended, *inner;  // (B, D), (B, (H + 2 G) E), (B, H E), (B, I)
};

template <class T>
void attention(const Call& call, const Block& block, void* cache, int thread, int threads, float* scores) {
  const Model& model = call.model;
  int64_t width = model.head_width, of_group = model.num_heads / model.num_groups;
  Share mine(call.rows * model.num_groups, thread, threads);
  for (int64_t n = mine.first; n < mine.last; ++n) {
    int64_t row = n / model.num_groups, group = n % model.num_groups;
    int64_t pad = call.num_padding ? call.num_padding[row] : 0;
    float* qkv = call.qkv + row * (model.num_heads + 2 * model.num_groups) * width;
    float* queries = qkv + group * of_group * width;
    float* key = qkv + (model.num_heads + group) * width;
    const float* value = key + model.num_groups * width;
    if (model.rotary) {
      const float* rotary = model.rotary + (call.length - pad) * width;
      for (int64_t h = 0; h < of_group; ++h) rotate(queries + h * width, rotary, width / 2);
      rotate(key, rotary, width / 2);
    }
    T* keys = static_cast<T*>(cache) + n * call.capacity * width;
    T* values = keys + call.rows * model.num_groups * call.capacity * width;
    T* new_key = keys + call.length / LANES * LANES * width + call.length % LANES;
    for (int64_t e = 0; e < width; ++e) store(key[e], new_key + e * LANES);
    for (int64_t e = 0; e < width; ++e) store(value[e], values + call.length * width + e);
    for (int64_t h = 0; h < of_group; ++h)
      attend(queries + h * width, keys, values, pad, call.length + 1, width, block.scale, scores,
             call.attended + (row * model.num_heads + group * of_group + h) * width);
  }
}

template <class T>
void step(const Call& call, int thread, int threads) {
  const Model& model = call.model;
  int64_t width = model.width;
  thread_local std::vector<float> own;
  own.resize(call.rows * width + call.capacity);
  float *normal = own.data(), *scores = normal + call.rows * width;
  auto add = [&](int64_t row, int64_t column, const float* sums, int64_t columns) {
    float* to = call.hidden + row * width + column;
    for (int64_t c = 0; c < columns; ++c) to[c] += sums[c];
  };
  Share rows(call.rows, thread, threads);
  for (int64_t row = rows.first; row < rows.last; ++row) {
    const T* embedded = static_cast<const T*>(model.embedding) + call.tokens[row] * width;
    const T* position = static_cast<const T*>(model.position_embedding);
    if (position) position += (call.length - (call.num_padding ? call.num_padding[row] : 0)) * width;
    for (int64_t d = 0; d < width; ++d)
      call.hidden[row * width + d] = to_float(embedded[d]) + (position ? to_float(position[d]) : 0.0f);
  }
#pragma omp barrier
  for (int64_t n = 0; n < model.num_blocks; ++n) {
    const Block& block = model.blocks[n];
    normalize(model, call.hidden, normal, call.rows);
    Share of_qkv(panels(block.qkv), thread, threads);
    for (int64_t p = of_qkv.first; p < of_qkv.last; ++p)
      multiply_panel<T>(normal, call.rows, block.qkv, p,
                        [&](int64_t row, int64_t column, const float* sums, int64_t columns) {
                          std::memcpy(call.qkv + row * block.qkv.width_out + column, sums, sizeof(float) * columns);
                        });
#pragma omp barrier
    attention<T>(call, block, call.caches[n], thread, threads, scores);
#pragma omp barrier
    Share of_out(panels(block.out), thread, threads);
    for (int64_t p = of_out.first; p < of_out.last; ++p) multiply_panel<T>(call.attended, call.rows, block.out, p, add);
#pragma omp barrier
    normalize(model, call.hidden, normal, call.rows);
    int64_t inner = block.up.width_out;
    Share of_up(panels(block.up), thread, threads);
    for (int64_t p = of_up.first; p < of_up.last; ++p) {
      auto store_active = [&](int64_t row, int64_t column, float* sums, int64_t columns) {
        activate(model.activation, sums, PANEL);
        std::memcpy(call.inner + row * inner + column, sums, sizeof(float) * columns);
      };
      auto scale_by = [&](int64_t row, int64_t column, const float* sums, int64_t columns) {
        float* to = call.inner + row * inner + column;
        for (int64_t c = 0; c < columns; ++c) to[c] *= sums[c];
      };
      bool is_gated = block.gate.weight != nullptr;
      multiply_panel<T>(normal, call.rows, is_gated ? block.gate : block.up, p, store_active);
      if (is_gated) multiply_panel<T>(normal, call.rows, block.up, p, scale_by);
    }
#pragma omp barrier
    Share of_down(panels(block.down), thread, threads);
    for (int64_t p = of_down.first; p < of_down.last; ++p) multiply_panel<T>(call.inner, call.rows, block.down, p, add);
#pragma omp barrier
  }
  normalize(model, call.hidden, normal, call.rows);
  Share of_head(panels(model.head), thread, threads);
  for (int64_t p = of_head.first; p < of_head.last; ++p)
    multiply_panel<T>(normal, call.rows, model.head, p,
                      [&](int64_t row, int64_t column, const float* sums, int64_t columns) {
                        std::memcpy(call.logits + row * model.head.width_out + column, sums, sizeof(float) * columns);
                      });
}

}  // namespace

extern "C" {

int64_t lanes() { return LANES; }

// Returns 0, or 1 where a token is not in the vocabulary and nothing was computed.
int64_t decode_step(const Model* model, int64_t is_bf16, const int64_t* tokens, const int64_t* num_padding,
                    void* const* caches, int64_t rows, int64_t length, int64_t capacity, float* logits,
                    int64_t threads) {
  for (int64_t row = 0; row < rows; ++row)
    if (tokens[row] < 0 || tokens[row] >= model->num_tokens) return 1;
  int64_t head_width = model->head_width, inner = model->blocks[0].up.width_out;
  int64_t sizes[] = {rows * model->width, rows * (model->num_heads + 2 * model->num_groups) * head_width,
                     rows * model->num_heads * head_width, rows * inner};
  thread_local std::vector<float> shared;
  shared.resize(sizes[0] + sizes[1] + sizes[2] + sizes[3]);
  float* hidden = shared.data();
  Call call{*model, tokens, num_padding, caches, rows, length, capacity, logits, hidden, hidden + sizes[0],
            hidden + sizes[0] + sizes[1], hidden + sizes[0] + sizes[1] + sizes[2]};
#pragma omp parallel num_threads(int(threads))
  {
    int thread = omp_get_thread_num(), count = omp_get_num_threads();
    is_bf16 ? step<bf16>(call, thread, count) : step<float>(call, thread, count);
  }
  return 0;
}

// Computes the losses (B) of logits (B, V) for labels (B), the gradient (B, V) of their sum times `scale`, and the
// predicted tokens (B). Where a label is below 0, loss and gradient are 0. Returns 0, or 1 where a label is not in the
// vocabulary and nothing was computed.
int64_t cross_entropy(const void* logits, int64_t is_bf16, const int64_t* labels, int64_t rows, int64_t num_tokens,
                      float scale, void* gradient, float* losses, int64_t* predicted, int64_t threads) {
  if (std::any_of(labels, labels + rows, [&](int64_t label) { return label >= num_tokens; })) return 1;
  auto compute = [&](auto* from, auto* to, int64_t row) {
    from += row * num_tokens, to += row * num_tokens;
    bool is_ignored = labels[row] < 0;
    cross_entropy_row(from, num_tokens, is_ignored ? 0 : labels[row], scale, to, losses + row, predicted + row);
    if (is_ignored) std::memset(to, 0, num_tokens * sizeof *to), losses[row] = 0.0f;
  };
#pragma omp parallel for num_threads(int(threads))
  for (int64_t row = 0; row < rows; ++row)
    is_bf16 ? compute(static_cast<const bf16*>(logits), static_cast<bf16*>(gradient), row)
            : compute(static_cast<const float*>(logits), static_cast<float*>(gradient), row);
  return 0;
}

// Measures predictions: logits (B, V) and labels (B) -> losses (B), entropies (B), top (B, TOP). Returns 0, or 1 where a
// label is not in the vocabulary and nothing was computed.
int64_t sharpness(const void* logits, int64_t is_bf16, const int64_t* labels, int64_t rows, int64_t num_tokens,
                  float* losses, float* entropies, float* top, int64_t threads) {
  if (std::any_of(labels, labels + rows, [&](int64_t label) { return label < 0 || label >= num_tokens; })) return 1;
#pragma omp parallel num_threads(int(threads))
  {
    thread_local std::vector<float> highest_of;
    auto measure = [&](const auto* from, int64_t row) {
      sharpness_row(from + row * num_tokens, num_tokens, labels[row], losses + row, entropies + row, top + row * TOP,
                    highest_of);
    };
#pragma omp for
    for (int64_t row = 0; row < rows; ++row)
      is_bf16 ? measure(static_cast<const bf16*>(logits), row) : measure(static_cast<const float*>(logits), row);
  }
  return 0;
}

// Filters and samples: logits (B, V) and numbers from 0 to 1 (B) -> tokens (B).
void sample_tokens(const float* logits, const Filters* filters, const double* uniform, int64_t rows, int64_t* tokens,
                   int64_t threads) {
#pragma omp parallel num_threads(int(threads))
  {
    thread_local std::vector<float> highest_of;
    thread_local std::vector<Candidate> found;
    Share mine(rows, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t row = mine.first; row < mine.last; ++row)
      tokens[row] = sample_token(logits + row * filters->num_tokens, *filters, uniform[row], highest_of, found);
  }
}

}  // extern "C"
