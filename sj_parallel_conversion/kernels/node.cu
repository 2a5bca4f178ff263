// A spiking node in one pass over memory: read the currents, form the level, write its code word or its value.
//
//   total = (x_1 + shift) n + sum_t (x_t - x_1) n / T,   k = clip(floor((total + psi) / v_threshold), min, max)
//
// The order of operations is that of SpikingNode's torch form, and no product and sum may be contracted to one rounding
// (--fmad=false), so that both forms fall on the same side of every step.
//
// Compiled with these macros, which launch.py sets:
//   STORED   float16, bfloat16, float or double: the currents
//   COMPUTE  float, or double for double: the equations and the parameters
//   EMITTED  STORED, int8 or uint8: the output
//   CODE     Sorted, Binary or SignedDigit
//   VECTOR   how many neighbours in memory one thread takes
//   INDEX    uint32, or uint64 for 2^31 elements a step and more
//
// Nothing is included, so that it compiles wherever CuPy does, and with a C++ compiler, which is how the tests run it.

typedef signed char int8;
typedef unsigned char uint8;
typedef unsigned int uint32;
typedef unsigned long long uint64;
struct float16 { unsigned short bits; };
struct bfloat16 { unsigned short bits; };
union Word { uint32 bits; float value; };

__device__ inline float widen(float x) { return x; }
__device__ inline double widen(double x) { return x; }

__device__ inline float widen(bfloat16 x) {
    Word word;
    word.bits = (uint32)x.bits << 16;
    return word.value;
}

__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(double x, double& to) { to = x; }
__device__ inline void narrow(COMPUTE x, int8& to) { to = x == x ? (int8)x : 0; }  // bytes hold no NaN
__device__ inline void narrow(COMPUTE x, uint8& to) { to = x == x ? (uint8)x : 0; }

__device__ inline void narrow(float x, bfloat16& to) {  // to nearest, ties to even
    Word word;
    word.value = x;
    to.bits = x == x ? (unsigned short)((word.bits + 0x7fff + ((word.bits >> 16) & 1)) >> 16) : 0x7fc0;
}

#ifdef __CUDACC__
__device__ inline float widen(float16 x) {
    float to;
    asm("cvt.f32.f16 %0, %1;" : "=f"(to) : "h"(x.bits));
    return to;
}

__device__ inline void narrow(float x, float16& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
#else
union Half { unsigned short bits; _Float16 value; };

inline float widen(float16 x) {
    Half half;
    half.bits = x.bits;
    return half.value;
}

inline void narrow(float x, float16& to) {
    Half half;
    half.value = (_Float16)x;
    to.bits = half.bits;
}
#endif

__device__ inline float round_down(float x) { return floorf(x); }
__device__ inline double round_down(double x) { return floor(x); }

// The codes: encode(k, T) makes the code word of level k, at(left) is the symbol of the step that is left-th from the end.

// A negative level is the train of its size with negative spikes: the second of a pair of trains.

struct Sorted {
    int size, sign;
    __device__ void encode(int k, int) { size = k < 0 ? -k : k, sign = k < 0 ? -1 : 1; }
    __device__ int at(int left) const { return size >= left ? sign : 0; }
};

struct Binary {
    int size, sign;
    __device__ void encode(int k, int) { size = k < 0 ? -k : k, sign = k < 0 ? -1 : 1; }
    __device__ int at(int left) const { return (size >> (left - 1)) & 1 ? sign : 0; }
};

struct SignedDigit {
    uint32 plus, minus;

    // The non-adjacent form is (3k - k) / 2 digit by digit. Where it would need a digit of weight 2^T, that digit and
    // the next non-zero one, 2^T - 2^j, become ones from T-1 down to j, which is: both words less 2^j.
    __device__ void encode(int level, int T) {
        const uint32 k = level < 0 ? -level : level;
        const uint32 three_halves = 3 * k >> 1, half = k >> 1;
        plus = three_halves & ~half;
        minus = half & ~three_halves;
        if (plus >> T) {
            const uint32 last = highest_bit(minus);
            plus -= last;
            minus -= last;
        }
        if (level < 0) {
            const uint32 swapped = plus;
            plus = minus;
            minus = swapped;
        }
    }

    __device__ int at(int left) const { return (int)((plus >> (left - 1)) & 1) - (int)((minus >> (left - 1)) & 1); }

    __device__ static uint32 highest_bit(uint32 x) {
        for (int shift = 1; shift < 32; shift *= 2) x |= x >> shift;
        return x - (x >> 1);
    }
};

// A number, or one value a channel (step 1); numbers is null where there is none.
struct Parameter {
    const COMPUTE* numbers;
    int step;
    __device__ COMPUTE of(int channel) const { return numbers[channel * step]; }
};

struct Neuron {
    Parameter v_threshold, psi, shift, unit;
    COMPUTE levels_per_threshold, difference_scale, min_level, max_level;
};

// The neuron's parameters in one channel. Without v_threshold the currents arrive in levels, shift and psi included.
struct Channel {
    COMPUTE v_threshold, psi, shift, unit;

    __device__ void load(const Neuron& neuron, int channel) {
        if (neuron.v_threshold.numbers) {
            v_threshold = neuron.v_threshold.of(channel);
            psi = neuron.psi.numbers ? neuron.psi.of(channel) : v_threshold / 2;
            shift = neuron.shift.of(channel);
        }
        unit = neuron.unit.numbers ? neuron.unit.of(channel) : 1;
    }

    __device__ COMPUTE level(const Neuron& neuron, COMPUTE first, COMPUTE difference) const {
        COMPUTE line;
        if (neuron.v_threshold.numbers) {
            const COMPUTE total = (first + shift) * neuron.levels_per_threshold;
            line = (total + difference * neuron.difference_scale + psi) / v_threshold;
        } else {
            line = first + difference * neuron.difference_scale;
        }
        const COMPUTE k = round_down(line);
        return k < neuron.min_level ? neuron.min_level : k > neuron.max_level ? neuron.max_level : k;  // NaN stays
    }
};

struct alignas(VECTOR * sizeof(STORED)) Currents { STORED values[VECTOR]; };
struct alignas(VECTOR * sizeof(EMITTED)) Emission { EMITTED values[VECTOR]; };

// x: one step, `steps` of them `time_stride` apart. The sum is over differences from the first step, because an input
// that is the same at every step must give exactly the level of that input; from 0 where that step is not finite, of
// which every difference would be NaN.
__device__ inline void sum_currents(
    const STORED* x, long long time_stride, int steps, COMPUTE* first, COMPUTE* difference
) {
    const Currents currents = *reinterpret_cast<const Currents*>(x);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) {
        const COMPUTE current = widen(currents.values[j]);
        first[j] = current - current == 0 ? current : 0;
        difference[j] = current - first[j];
    }
#pragma unroll 4
    for (int t = 1; t < steps; ++t) {
        const Currents later = *reinterpret_cast<const Currents*>(x + t * time_stride);
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) difference[j] += widen(later.values[j]) - first[j];
    }
}

// Memory is taken in the order in which it lies: element i of a step belongs to channel i / inner % channels.
__device__ inline void levels_at(
    const STORED* x, long long time_stride, int steps, INDEX i, int channels, INDEX inner, const Neuron& neuron,
    COMPUTE* level, COMPUTE* unit
) {
    COMPUTE first[VECTOR], difference[VECTOR];
    sum_currents(x + i, time_stride, steps, first, difference);
    INDEX run = 0;
    int c = 0;
    if (channels > 1) {
        run = i % inner;
        c = (int)(i / inner % channels);
    }
    Channel channel;
    channel.load(neuron, c);
#pragma unroll
    for (int j = 0; j < VECTOR; ++j) {
        level[j] = channel.level(neuron, first[j], difference[j]);
        unit[j] = channel.unit;
        if (j + 1 < VECTOR && channels > 1 && ++run == inner) {
            run = 0;
            c = c + 1 == channels ? 0 : c + 1;
            channel.load(neuron, c);
        }
    }
}

#define ARGUMENTS \
    const STORED* x_seq, long long time_stride, int steps, EMITTED* out, long long size, int T, \
    int channels, long long inner, const COMPUTE* v_threshold, int v_threshold_step, const COMPUTE* psi, int psi_step, \
    const COMPUTE* shift, int shift_step, const COMPUTE* unit, int unit_step, \
    COMPUTE levels_per_threshold, COMPUTE difference_scale, COMPUTE min_level, COMPUTE max_level

#define NEURON \
    {{v_threshold, v_threshold_step}, {psi, psi_step}, {shift, shift_step}, {unit, unit_step}, \
     levels_per_threshold, difference_scale, min_level, max_level}

#define FOR_EACH_VECTOR(i) \
    for (INDEX i = ((INDEX)blockIdx.x * blockDim.x + threadIdx.x) * VECTOR; i < (INDEX)size; \
         i += (INDEX)gridDim.x * blockDim.x * VECTOR)

// x_seq [steps, size] -> spikes [T, size]
extern "C" __global__ void spike_train(ARGUMENTS) {
    const Neuron neuron = NEURON;
    FOR_EACH_VECTOR(i) {
        COMPUTE level[VECTOR], worth[VECTOR];
        levels_at(x_seq, time_stride, steps, i, channels, (INDEX)inner, neuron, level, worth);
        CODE word[VECTOR];
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) word[j].encode(level[j] == level[j] ? (int)level[j] : 0, T);
        EMITTED* to = out + i;
        for (int left = T; left > 0; --left, to += size) {
            Emission emission;
#pragma unroll
            for (int j = 0; j < VECTOR; ++j)
                narrow(level[j] == level[j] ? (COMPUTE)word[j].at(left) : level[j], emission.values[j]);  // NaN stays
            *reinterpret_cast<Emission*>(to) = emission;
        }
    }
}

// x_seq [steps, size] -> what the level stands for, [size]
extern "C" __global__ void decoded_level(ARGUMENTS) {
    const Neuron neuron = NEURON;
    FOR_EACH_VECTOR(i) {
        COMPUTE level[VECTOR], worth[VECTOR];
        levels_at(x_seq, time_stride, steps, i, channels, (INDEX)inner, neuron, level, worth);
        Emission emission;
#pragma unroll
        for (int j = 0; j < VECTOR; ++j) narrow(level[j] * worth[j], emission.values[j]);
        *reinterpret_cast<Emission*>(out + i) = emission;
    }
}
