data {
  int<lower=1> N;
  int<lower=1> K;
  int<lower=1> D;
  array[N] vector[D] y;
  vector[D] centre;
  vector<lower=0>[D] scatter;
  real<lower=0> half_df;
  real<lower=0> shrinkage;
}
parameters {
  simplex[K] weight;
  array[K] vector[D] loc;
  array[K] vector<lower=0>[D] variance;
}
model {
  vector[K] log_weight = log(weight);
  array[K] vector[D] scale = sqrt(variance);
  weight ~ dirichlet(rep_vector(5, K));
  for (k in 1:K) {
    variance[k] ~ inv_gamma(half_df, scatter / 2);
    loc[k] ~ normal(centre, scale[k] / sqrt(shrinkage));
  }
  for (n in 1:N) {
    vector[K] joint = log_weight;
    for (k in 1:K) joint[k] += normal_lpdf(y[n] | loc[k], scale[k]);
    target += log_sum_exp(joint);
  }
}
