data {
  int<lower=1> J;
  vector[J] effect;
  vector<lower=0>[J] noise;  // stderr is a macro of C
}
parameters {
  real mu;
  real<lower=0> tau;
  vector[J] theta_raw;
}
transformed parameters {
  vector[J] theta = mu + tau * theta_raw;
}
model {
  mu ~ normal(0, 5);
  tau ~ cauchy(0, 5);
  theta_raw ~ std_normal();
  effect ~ normal(theta, noise);
}
