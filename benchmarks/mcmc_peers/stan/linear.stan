data {
  int<lower=1> N;
  int<lower=1> D;
  matrix[N, D] x;
  vector[N] y;
}
parameters {
  real alpha;
  vector[D] beta;
  real<lower=0> sigma;
}
model {
  alpha ~ normal(0, 2.5);
  beta ~ normal(0, 2.5);
  sigma ~ exponential(1);
  y ~ normal_id_glm(x, alpha, beta, sigma);
}
