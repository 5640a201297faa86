data {
  int<lower=1> M;
  int<lower=1> V;
  int<lower=1> K;
  matrix<lower=0>[M, V] count;
}
parameters {
  array[M] simplex[K] theta;
  array[K] simplex[V] phi;
}
model {
  matrix[M, K] share;
  matrix[K, V] topic;
  for (m in 1:M) {
    theta[m] ~ dirichlet(rep_vector(1, K));
    share[m] = theta[m]';
  }
  for (k in 1:K) {
    phi[k] ~ dirichlet(rep_vector(1, V));
    topic[k] = phi[k]';
  }
  target += sum(count .* log(share * topic));
}
