/* Special functions and small linear algebra for generated code. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#ifndef SCALAR_MATH
/* Vector forms of the mathematical library: a call within a vector loop becomes one for all lanes. */
#define VECTOR_FORM __attribute__((simd("notinbranch")))
VECTOR_FORM double exp(double);
VECTOR_FORM double log(double);
VECTOR_FORM double log1p(double);
VECTOR_FORM double expm1(double);
VECTOR_FORM double tanh(double);
VECTOR_FORM double erf(double);
VECTOR_FORM double sin(double);
VECTOR_FORM double cos(double);
VECTOR_FORM double pow(double, double);
#endif

static inline double square(double x) { return x * x; }
static inline double cube(double x) { return x * x * x; }
static inline double sign_of(double x) { return (x > 0.0) - (x < 0.0); }
static inline int64_t is_nan(double x) { return x != x; }
static inline double sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }
static inline double larger(double a, double b) { return (a > b || a != a) ? a : b; }
static inline double smaller(double a, double b) { return (a < b || a != a) ? a : b; }
static inline double at_least(double x, double low) { return x < low ? low : x; }
static inline double at_most(double x, double high) { return x > high ? high : x; }
static inline double finite_or_zero(double x) { return fabs(x) == INFINITY ? 0.0 : x; }
static inline double times_log(double x, double y) { return x == 0.0 ? 0.0 : x * log(y); }

static inline double remainder_of(double x, double y) {
    const double r = fmod(x, y);
    return r != 0.0 && (r < 0.0) != (y < 0.0) ? r + y : r;
}

static inline int64_t whole_remainder(int64_t x, int64_t y) {
    const int64_t r = y == 0 ? 0 : x % y;
    return r != 0 && (r < 0) != (y < 0) ? r + y : r;
}

/* Indices: one that may count from the end, one that is kept inside. */
static inline int64_t from_start(int64_t i, int64_t n) { return i < 0 ? i + n : i; }
static inline int64_t within(int64_t i, int64_t n) { return i < 0 ? 0 : i < n ? i : n - 1; }

static inline double log_add_exp(double a, double b) {
    const double top = larger(a, b), gap = -fabs(a - b);
    return fabs(top) == INFINITY ? top : top + log1p(exp(gap));
}

static inline double log_gamma(double x) {
    int sign;
    return lgamma_r(x, &sign);
}

/* Reflection, recurrence up to 10, then the asymptotic series (Abramowitz and Stegun, 6.3). */
static inline double digamma(double x) {
    double result = 0.0;
    if (x == 0.0) return copysign(INFINITY, -x);
    if (x < 0.0) {
        if (x == floor(x)) return NAN;
        result = -M_PI / tan(M_PI * x);
        x = 1.0 - x;
    }
    for (; x < 10.0; x += 1.0) result -= 1.0 / x;
    const double y = 1.0 / (x * x);
    return result + log(x) - 0.5 / x
        - y * (1.0 / 12 - y * (1.0 / 120 - y * (1.0 / 252 - y * (1.0 / 240 - y * (1.0 / 132
        - y * (691.0 / 32760 - y / 12))))));
}

static inline double trigamma(double x) {
    double sign = 1.0, result = 0.0;
    if (x < 0.5) {
        const double s = sin(M_PI * x);
        sign = -1.0;
        result = -(M_PI * M_PI) / (s * s);
        x = 1.0 - x;
    }
    for (; x < 10.0; x += 1.0) result += 1.0 / (x * x);
    const double y = 1.0 / (x * x);
    return sign * (result + 1.0 / x + 0.5 * y + y / x * (1.0 / 6 - y * (1.0 / 30 - y * (1.0 / 42
        - y * (1.0 / 30 - y * (5.0 / 66 - y * (691.0 / 2730 - y * 7.0 / 6)))))));
}

/* Quantile of the standard normal: Acklam's rational start, two steps of Halley's method. */
static inline double inverse_normal(double p) {
    if (p <= 0.0) return p == 0.0 ? -INFINITY : NAN;
    if (p >= 1.0) return p == 1.0 ? INFINITY : NAN;
    double x;
    if (p < 0.02425 || p > 0.97575) {
        const double r = sqrt(-2.0 * log(p < 0.5 ? p : 1.0 - p));
        x = (((((-7.784894002430293e-03 * r - 3.223964580411365e-01) * r - 2.400758277161838e+00)
            * r - 2.549732539343734e+00) * r + 4.374664141464968e+00) * r + 2.938163982698783e+00)
            / ((((7.784695709041462e-03 * r + 3.224671290700398e-01) * r + 2.445134137142996e+00)
            * r + 3.754408661907416e+00) * r + 1.0);
        if (p > 0.5) x = -x;
    } else {
        const double r = p - 0.5, s = r * r;
        x = (((((-3.969683028665376e+01 * s + 2.209460984245205e+02) * s - 2.759285104469687e+02)
            * s + 1.383577518672690e+02) * s - 3.066479806614716e+01) * s + 2.506628277459239e+00)
            * r / (((((-5.447609879822406e+01 * s + 1.615858368580409e+02) * s
            - 1.556989798598866e+02) * s + 6.680131188771972e+01) * s - 1.328068155288572e+01)
            * s + 1.0);
    }
    for (int step = 0; step < 2; ++step) {
        const double e = (p < 0.5 ? 0.5 * erfc(-x * M_SQRT1_2) - p
                                  : (1.0 - p) - 0.5 * erfc(x * M_SQRT1_2));
        const double u = e * sqrt(2.0 * M_PI) * exp(0.5 * x * x);
        x -= u / (1.0 + 0.5 * x * u);
    }
    return x;
}

static inline double inverse_erf(double y) {
    if (fabs(y) >= 1.0) return fabs(y) == 1.0 ? copysign(INFINITY, y) : NAN;
    double x = fabs(y) < 0.9 ? inverse_normal(0.5 * (1.0 + y)) * M_SQRT1_2
                             : copysign(-inverse_normal(0.5 * (1.0 - fabs(y))) * M_SQRT1_2, y);
    const double slope = 2.0 / sqrt(M_PI) * exp(-x * x);
    if (slope > 0.0) {
        const double gap = fabs(y) < 0.9 ? erf(x) - y : copysign((1.0 - fabs(y)) - erfc(fabs(x)), y);
        x -= gap / slope;
    }
    return x;
}

/* exp(x^2) erfc(x): continued fraction where the factors would overflow. */
static inline double scaled_erfc(double x) {
    if (x < 20.0) return exp(x * x) * erfc(x);
    const double y = 1.0 / (2.0 * x * x);
    return 1.0 / (x * sqrt(M_PI)) * (1.0 - y * (1.0 - 3.0 * y * (1.0 - 5.0 * y * (1.0 - 7.0 * y))));
}

static inline double log_normal_cdf(double x) {
    if (x > -1.0) return log1p(-0.5 * erfc(x * M_SQRT1_2));
    return log(0.5 * scaled_erfc(-x * M_SQRT1_2)) - 0.5 * x * x;
}

/* exp(-|x|) I_n(x) for n of 0 and 1: the power series, all of one sign, then the asymptotic one
   (Abramowitz and Stegun, 9.6.10 and 9.7.1). */
static inline double scaled_bessel(int n, double x) {
    const double size = fabs(x), mu = 4.0 * n * n;
    double term = 1.0, sum = 1.0;
    if (size < 20.0) {
        for (int k = 1; k < 100 && term > 1e-17 * sum; ++k)
            sum += term *= 0.25 * x * x / ((double)k * (k + n));
        sum *= exp(-size) * (n ? 0.5 * size : 1.0);
    } else {
        for (int k = 1; k < 30 && fabs(term) > 1e-17; ++k)
            sum += term *= ((2.0 * k - 1.0) * (2.0 * k - 1.0) - mu) / (8.0 * k * size);
        sum /= sqrt(2.0 * M_PI * size);
    }
    return n && x < 0.0 ? -sum : sum;
}

static inline double scaled_bessel_0(double x) { return scaled_bessel(0, x); }
static inline double scaled_bessel_1(double x) { return scaled_bessel(1, x); }
static inline double bessel_0(double x) { return exp(fabs(x)) * scaled_bessel(0, x); }
static inline double bessel_1(double x) { return exp(fabs(x)) * scaled_bessel(1, x); }

/* -- stacks of small matrices in row-major order ------------------------------------------- */

/* Lower factor L of A = L L'; all NaN where A is not positive definite. */
static void cholesky(int64_t count, int64_t n, const double *a, double *factor) {
    for (int64_t b = 0; b < count; ++b, a += n * n, factor += n * n) {
        int good = 1;
        for (int64_t i = 0; i < n; ++i) {
            for (int64_t j = 0; j <= i; ++j) {
                double s = a[n * i + j];
                for (int64_t k = 0; k < j; ++k) s -= factor[n * i + k] * factor[n * j + k];
                if (i == j) {
                    good &= s > 0.0;
                    factor[n * i + i] = sqrt(s);
                } else {
                    factor[n * i + j] = s / factor[n * j + j];
                }
            }
            for (int64_t j = i + 1; j < n; ++j) factor[n * i + j] = 0.0;
        }
        if (!good) for (int64_t i = 0; i < n * n; ++i) factor[i] = NAN;
    }
}

/* x = L^-1 y, L lower triangular (n, n), y and x (n, m). */
static void solve_lower(int64_t count, int64_t n, int64_t m, int64_t unit, const double *l,
                        const double *y, double *x) {
    for (int64_t b = 0; b < count; ++b, l += n * n, y += n * m, x += n * m)
        for (int64_t i = 0; i < n; ++i) {
            const double scale = unit ? 1.0 : 1.0 / l[n * i + i];
            for (int64_t c = 0; c < m; ++c) x[m * i + c] = y[m * i + c];
            for (int64_t k = 0; k < i; ++k)
                for (int64_t c = 0; c < m; ++c) x[m * i + c] -= l[n * i + k] * x[m * k + c];
            for (int64_t c = 0; c < m; ++c) x[m * i + c] *= scale;
        }
}

/* x = U^-1 y, U upper triangular. */
static void solve_upper(int64_t count, int64_t n, int64_t m, int64_t unit, const double *u,
                        const double *y, double *x) {
    for (int64_t b = 0; b < count; ++b, u += n * n, y += n * m, x += n * m)
        for (int64_t i = n - 1; i >= 0; --i) {
            const double scale = unit ? 1.0 : 1.0 / u[n * i + i];
            for (int64_t c = 0; c < m; ++c) x[m * i + c] = y[m * i + c];
            for (int64_t k = i + 1; k < n; ++k)
                for (int64_t c = 0; c < m; ++c) x[m * i + c] -= u[n * i + k] * x[m * k + c];
            for (int64_t c = 0; c < m; ++c) x[m * i + c] *= scale;
        }
}

/* Inverse by Gauss and Jordan with the largest pivot of each column; NaN where singular. */
static void invert(int64_t count, int64_t n, const double *a, double *inverse) {
    for (int64_t b = 0; b < count; ++b, a += n * n, inverse += n * n) {
        double m[n * n];
        memcpy(m, a, sizeof(double) * (size_t)(n * n));
        for (int64_t i = 0; i < n; ++i)
            for (int64_t j = 0; j < n; ++j) inverse[n * i + j] = i == j;
        for (int64_t c = 0; c < n; ++c) {
            int64_t pivot = c;
            for (int64_t i = c + 1; i < n; ++i)
                if (fabs(m[n * i + c]) > fabs(m[n * pivot + c])) pivot = i;
            for (int64_t j = 0; j < n; ++j) {
                double t = m[n * c + j];
                m[n * c + j] = m[n * pivot + j];
                m[n * pivot + j] = t;
                t = inverse[n * c + j];
                inverse[n * c + j] = inverse[n * pivot + j];
                inverse[n * pivot + j] = t;
            }
            const double scale = m[n * c + c] == 0.0 ? NAN : 1.0 / m[n * c + c];
            for (int64_t j = 0; j < n; ++j) m[n * c + j] *= scale, inverse[n * c + j] *= scale;
            for (int64_t i = 0; i < n; ++i) {
                const double by = m[n * i + c];
                if (i == c) continue;
                for (int64_t j = 0; j < n; ++j) {
                    m[n * i + j] -= by * m[n * c + j];
                    inverse[n * i + j] -= by * inverse[n * c + j];
                }
            }
        }
    }
}

