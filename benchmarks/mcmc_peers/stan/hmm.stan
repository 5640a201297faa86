data {
  int<lower=1> T;
  vector[T] y;
}
parameters {
  simplex[2] theta1;
  simplex[2] theta2;
  real<lower=0> low;
  real<lower=0> gap;
}
transformed parameters {
  vector[2] mu = [low, low + gap]';
}
model {
  matrix[2, T] log_omega;
  matrix[2, 2] transition;
  transition[1] = theta1';
  transition[2] = theta2';
  mu[1] ~ normal(3, 1);
  mu[2] ~ normal(10, 1);
  for (t in 1:T) {
    log_omega[1, t] = normal_lpdf(y[t] | mu[1], 1);
    log_omega[2, t] = normal_lpdf(y[t] | mu[2], 1);
  }
  target += hmm_marginal(log_omega, transition, [0.5, 0.5]');
}
