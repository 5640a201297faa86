data {
  int<lower=1> N;
  vector[N] y;
}
parameters {
  ordered[2] loc;
  vector<lower=0>[2] scale;
  real<lower=0, upper=1> theta;
}
model {
  loc ~ normal(0, 2);
  scale ~ normal(0, 2);
  theta ~ beta(5, 5);
  for (n in 1:N) {
    target += log_mix(theta, normal_lpdf(y[n] | loc[1], scale[1]),
                      normal_lpdf(y[n] | loc[2], scale[2]));
  }
}
