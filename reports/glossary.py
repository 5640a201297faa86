"""What the words in a verdict mean: a paragraph each, with formula and source.

Imports nothing heavy, so that ``zoo explain r_hat`` answers at once.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

from storyzoo.errors import SettingError, nearest


@dataclass(frozen=True)
class Entry:
    """One word: what it means, how it is computed, who says so."""

    title: str
    text: str
    formula: str
    source: str
    aliases: tuple[str, ...] = ()


ENTRIES: dict[str, Entry] = {
    "r_hat": Entry(
        "R-hat: do the chains agree?",
        "Chains that started apart should end up describing one distribution. R-hat compares the "
        "spread over all chains with the spread within them, after ranking the draws (so that "
        "heavy tails do no harm), splitting each chain in two (so that drift shows), and once "
        "more on distances from the median (so that a difference in spread shows). 1 is perfect. "
        "Up to 1.01 passes. From 1.01 to 1.05 while the effective sample sizes pass, the run is "
        "too short; above, the chains describe different things. Labels are matched first, since "
        "chains that merely name components differently do agree.",
        "R-hat = sqrt(((S - 1)/S W + B/S) / W), with W the mean variance within the split chains "
        "and B/S the variance of their means, both of the normal scores of the ranks",
        "Vehtari, Gelman, Simpson, Carpenter & Bürkner (2021), Bayesian Analysis 16(2)",
        ("rhat", "potential scale reduction"),
    ),
    "nested_r_hat": Entry(
        "Nested R-hat: have many short chains forgotten where they started?",
        "With dozens of chains each may be short, but then R-hat, which compares chains one by "
        "one, can't tell a chain that is still near its start from one that is merely short. So "
        "chains start in groups, the superchains: those of one group at one point, each group "
        "elsewhere. Nested R-hat compares the spread of the groups' means with the spread within "
        "groups, after ranking the draws, and once more on distances from the median. 1 is "
        "perfect; it is asked to be at most 1.01, or what independent draws would reach where "
        "there are fewer than fifty in a group. It sees what depends on the start; a place that "
        "no group started near and no chain found it can't see.",
        "sqrt(1 + B/W), B the variance of the superchains' means, W the mean over superchains of "
        "the variance between their chains' means plus the mean variance within their chains; "
        "at most max(1.01, sqrt(1 + 1/(M N) + 1e-4)) for superchains of M chains of N draws",
        "Margossian, Hoffman, Sountsov, Riou-Durand, Vehtari & Gelman (2024), Bayesian Analysis",
        ("nested rhat", "superchain", "superchains"),
    ),
    "ess_bulk": Entry(
        "Bulk ESS: how many independent draws are these worth, in the middle?",
        "Successive draws of a chain are alike, so a thousand of them may tell no more than fifty "
        "independent ones. The bulk effective sample size says how many independent draws would "
        "give the same error of a mean. 100 per chain are asked for, or 400 in all of many short "
        "chains that started in groups: with fewer, neither means nor R-hat can be relied on.",
        "ESS = M S / (1 + 2 sum_t rho_t), rho_t the autocorrelation at lag t over M split chains "
        "of S draws each, of the normal scores of the ranks, cut off by Geyer's monotone rule",
        "Vehtari et al. (2021), Bayesian Analysis 16(2); Geyer (1992), Statistical Science 7(4)",
        ("ess", "effective sample size", "ess_bulk_min"),
    ),
    "ess_tail": Entry(
        "Tail ESS: how many independent draws are these worth, in the tails?",
        "The ends of an interval rest on few draws, which may be more alike than those in the "
        "middle: a chain can visit a tail in one long stretch. The tail effective sample size is "
        "that of the 5 % or of the 95 % quantile, whichever is smaller. 100 per chain are asked "
        "for, or 400 in all of many short chains; below, don't quote intervals.",
        "min over p in {5 %, 95 %} of the ESS of the indicator x <= q_p",
        "Vehtari et al. (2021), Bayesian Analysis 16(2)",
        ("tail",),
    ),
    "ess_per_second": Entry(
        "ESS per second: how fast does a method earn its answer?",
        "The smallest bulk effective sample size over all unknowns, per second of wall-clock time "
        "with warm-up counted and compilation left out. It compares samplers on one problem and "
        "one machine; it means nothing while R-hat fails.",
        "min bulk ESS / (seconds - compile seconds)",
        "Hoffman & Gelman (2014), JMLR 15",
    ),
    "divergences": Entry(
        "Divergences: where did the sampler break down?",
        "Hamiltonian Monte Carlo follows the slope of the log density in small steps. Where the "
        "density bends more sharply than a step can follow, the energy, which ought to stay "
        "constant, runs away, and the trajectory is thrown out. So the draws leave that region "
        "out, most often the neck of a funnel, and every average is biased. One divergence is one "
        "too many. The cure is seldom a smaller step, mostly another parametrisation: a "
        "non-centred one, or a prior that keeps scales away from zero.",
        "H(q_t, p_t) - H(q_0, p_0) > 1000 along a trajectory",
        "Betancourt (2017), arXiv:1701.02434",
        ("diverging", "divergence", "funnel"),
    ),
    "e_bfmi": Entry(
        "E-BFMI: does the sampler reach all energies?",
        "Each draw gets a fresh momentum, which sets how far the energy can change from one draw "
        "to the next. Where the posterior spreads over far more energies than that (heavy tails, "
        "a funnel), the chain diffuses between them and may never see the extremes. The fraction "
        "below is near 1 when each draw is free to go anywhere; under 0.3 the tails are suspect.",
        "E-BFMI = sum_s (E_s - E_{s-1})^2 / sum_s (E_s - mean E)^2, chain by chain; over all at "
        "once where many are short",
        "Betancourt (2016), arXiv:1604.00695",
        ("bfmi", "energy"),
    ),
    "tree_depth": Entry(
        "Tree depth: were trajectories cut off?",
        "The no-U-turn sampler doubles a trajectory until it turns back. At depth d that takes "
        "2^d - 1 steps, and there is a limit. Draws cut off at the limit are still valid, but "
        "they are closer together than need be, so that chains creep and each draw costs the "
        "most. If more than one in twenty is cut off, the parameters' scales differ too much or "
        "some are nearly collinear: standardise, or reparameterise.",
        "share of draws whose tree reached the maximal depth <= 5 %",
        "Hoffman & Gelman (2014), JMLR 15; Stan Development Team, Runtime warnings",
        ("treedepth", "max_tree_depth"),
    ),
    "mcse": Entry(
        "MCSE: how much would a mean change in another run?",
        "The Monte Carlo standard error is the error of a posterior mean that comes from having "
        "finitely many draws; it has nothing to do with how uncertain the parameter is. At a "
        "tenth of the posterior's sd it adds half a per cent to the uncertainty. Digits beyond it "
        "mean nothing and are not shown.",
        "MCSE = sd / sqrt(ESS of the mean); asked for: MCSE <= 0.1 sd",
        "Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., §10.5",
        ("monte carlo error", "monte carlo standard error"),
    ),
    "chains": Entry(
        "Chains: why four?",
        "One chain can't be compared with anything, and two or three leave it to chance whether "
        "a second mode, or a chain that is stuck, is noticed. Four are asked for.",
        "number of chains >= 4",
        "Vehtari et al. (2021), Bayesian Analysis 16(2), §4",
    ),
    "moving": Entry(
        "Moving: is a chain stuck?",
        "A chain whose every proposal is rejected stays at one point. Where all its draws of a "
        "parameter are equal while those of other chains differ, it is stuck. A parameter that "
        "is constant in all chains (a zero of a triangular matrix) is constant by construction "
        "and is not counted.",
        "max_s x_s = min_s x_s within a chain, but not over all of them",
        "Vehtari et al. (2021), Bayesian Analysis 16(2)",
        ("stuck", "stuck chain"),
    ),
    "finite": Entry(
        "Finite: is every draw a number?",
        "A draw that is infinite, or not a number, comes from an overflow in the density or in a "
        "transform of the parameters. Averages over it are void.",
        "|x_s| < infinity for every draw of every parameter",
        "arithmetic: a mean over a draw that is not finite is not finite",
        ("nan", "overflow"),
    ),
    "multimodality": Entry(
        "Multimodality: are there several answers?",
        "A posterior can have several peaks that no chain crosses between. Chains started apart "
        "then each settle at one, and how much weight each peak gets depends on where chains "
        "happened to start. It shows as chains that are each steady while a gap of more than two "
        "within-chain sd parts their means. Chains that all start at one point can't show it: the "
        "verdict then says that multimodality was not tested. Peaks that differ only in how "
        "components are numbered are no disagreement (see label_switching).",
        "gap between neighbouring chain means > 2 sd within, both halves of every chain agreeing "
        "within half an sd; two equal normals 2 sd apart or closer have a single peak",
        "Yao, Vehtari & Gelman (2022), JMLR 23(79); Schilling, Watkins & Watkins (2002), The "
        "American Statistician 56(3)",
        ("modes", "one_mode"),
    ),
    "label_switching": Entry(
        "Label switching: component 1 here is component 2 there",
        "The parts of a mixture have no names: numbering them otherwise leaves the density as it "
        "was. So chains, restarts and methods number them differently, and may swap them on the "
        "way; averages over a part, and its R-hat, are then nonsense although nothing is wrong. "
        "Each draw's parts are therefore matched to those of one reference draw before anything "
        "is judged, by the permutation with the least total distance, after checking that the log "
        "joint is indeed unchanged by permutations.",
        "argmin over permutations sigma of sum_k d(theta_sigma(k), reference_k)",
        "Stephens (2000), JRSS B 62(4); Papastamoulis & Iliopoulos (2010), JCGS 19(2)",
        ("relabelling", "labels", "exchangeable"),
    ),
    "k_hat": Entry(
        "k-hat: is an approximation near enough to the posterior?",
        "Draws from an approximation q can be corrected by weights p/q, unless q misses so much "
        "of the posterior p that a few weights outgrow all others. k-hat is the shape of a Pareto "
        "distribution fitted to the largest weights: they have about 1/k finite moments. Below "
        "0.5 the correction works well, up to 0.7 usefully; above, q is too narrow or of another "
        "shape, and its intervals are wrong. With few draws the limit is lower. In very many "
        "dimensions k-hat rises even for a q whose margins are good: it judges q as a whole. In "
        "one or two dimensions it is the least able to see that q is too narrow. Where draws were "
        "resampled by their weights, it is that of the draws before.",
        "k-hat < min(1 - 1/log10 S, 0.7), S the number of draws",
        "Yao, Vehtari, Simpson & Gelman (2018), ICML; Vehtari, Simpson, Gelman, Yao & Gabry "
        "(2024), JMLR 25(72)",
        ("khat", "pareto k", "psis"),
    ),
    "k_hat_loo": Entry(
        "Pointwise k-hats: can this example be left out on paper?",
        "ELPD-LOO leaves an example out without fitting again, by giving draws that fit it badly "
        "more weight. Where the example holds the posterior in place, a few draws get all the "
        "weight and its score is too hopeful. Then compare by held-out data. This speaks of the "
        "score alone: it happens with perfect draws (with eight schools, or for every document "
        "of a topic model), so that it never decides the verdict.",
        "k-hat of the weights 1 / p(y_n | theta_s) < min(1 - 1/log10 S, 0.7)",
        "Vehtari, Gelman & Gabry (2017), Statistics and Computing 27(5)",
        ("loo_k_hat", "pareto_k_loo"),
    ),
    "elpd_loo": Entry(
        "ELPD-LOO: how well are left-out examples foretold?",
        "The expected log predictive density sums, over examples, the log probability that the "
        "story fitted to all others gives to the one left out; nothing is fitted again, draws are "
        "reweighted. Higher is better; a difference counts when it is several times its standard "
        "error. Draws of an approximation need its weights p/q as well: without them a q that is "
        "too narrow would be rewarded. A point has no such score.",
        "sum_n log sum_s w_ns p(y_n | theta_s), w_ns ~ 1/p(y_n | theta_s), times p/q for an "
        "approximation, smoothed and normalised; se = sqrt(N var_n)",
        "Vehtari, Gelman & Gabry (2017), Statistics and Computing 27(5); Magnusson et al. (2019), "
        "ICML",
        ("loo", "elpd", "elpd_loo_se"),
    ),
    "elbo": Entry(
        "ELBO: what variational inference climbs",
        "The evidence lower bound is the log probability of the data less how far the guide q is "
        "from the posterior. Raising it brings q nearer, but its value does not say how near: that "
        "is what k-hat is for. It is estimated from draws and jumps about, so it is smoothed; the "
        "run ends when the smoothed value has stopped rising.",
        "ELBO = E_q[log p(y, theta) - log q(theta)] = log p(y) - KL(q || p(theta | y))",
        "Blei, Kucukelbir & McAuliffe (2017), JASA 112(518)",
        ("settled", "elbo_nats"),
    ),
    "learning_curve": Entry(
        "Learning curve: has the ascent by noisy gradients settled?",
        "Where a likelihood's normaliser can only be sampled its gradient is noisy, and an ascent "
        "ends when its steps have become small, whether or not it has arrived. So the rows fitted "
        "are scored along the way, exactly or by an estimate. The last quarter of the steps must "
        "have changed their score by less than a fiftieth of all that it rose, or by less than two "
        "standard errors of the normaliser, and no earlier score may be higher by more. A curve "
        "that falls says that the chains, which tell the gradient, have lost the model.",
        "score_t = mean_n log p(x_n | theta_t), nats per row; |score_T - score_{3T/4}| <= 0.02 "
        "(max score - score_0)",
        "Fischer & Igel (2014), Pattern Recognition 47(1)",
        ("curve",),
    ),
    "over_fitting": Entry(
        "Over-fitting: are rows that were kept apart told worse than before?",
        "The score of the rows fitted rises to the end; that of rows kept apart can fall again, "
        "as the point learns what is peculiar to the rows fitted. What was kept must tell the "
        "rows kept apart no worse than the best point of the curve did, by more than two standard "
        "errors of the difference row by row. Of two scores on the same rows the errors over the "
        "rows mostly cancel.",
        "mean_n (log p(x_n | theta_best) - log p(x_n | theta_kept)) <= 2 se, over rows kept apart",
        "Prechelt (2012), Neural Networks: Tricks of the Trade, 2nd ed.",
        ("overfitting", "early stopping", "validation"),
    ),
    "gradient_noise": Entry(
        "Gradient noise: is what the gradient adds drowned by what is added on purpose?",
        "Langevin dynamics adds noise of a known size to every step. A gradient from a slice of "
        "the examples, or from chains of the model, brings noise of its own on top, so that draws "
        "spread further than the posterior. Its share falls with the step. At most a tenth, in the "
        "coordinate where it is greatest, passes. Chains of the model that mix slowly err in ways "
        "that this can't see.",
        "alpha = e/4 V G, e the step, V the squared width of a coordinate, G the variance of its "
        "gradient",
        "Welling & Teh (2011), ICML, §4.2",
        ("alpha", "minibatch noise"),
    ),
    "starts": Entry(
        "Starts: did variational inference find its best optimum twice?",
        "The ELBO has several optima, and a guide covers one mode of the posterior. The best of "
        "several starts is kept; at least two of them must reach it (up to one nat and a "
        "ten-thousandth), or a better one may have been missed.",
        "#{i : ELBO_i >= best - 1 - 1e-4 |best|} >= 2",
        "Blei, Kucukelbir & McAuliffe (2017), JASA 112(518)",
    ),
    "paths": Entry(
        "Paths: did more than one find where the weight lies?",
        "Pathfinder climbs from several starts and keeps one normal of each path; the draws of all "
        "are reweighted by p/q. A path that ended at a minor mode gets next to no weight, and so "
        "does one whose normal is poor. At least two paths must carry a quarter of an equal share "
        "each, or end as high as the one that carries most; else the place that holds the weight "
        "was found once, and another that holds more may have been missed.",
        "#{l : sum_s w_ls >= 1 / (4 L), or |height_l - height of the heaviest| <= 0.01} >= 2, w "
        "the importance weights of the draws of L paths",
        "Zhang, Carpenter, Gelman & Vehtari (2022), JMLR 23(306)",
        ("path", "pathfinder"),
    ),
    "converged": Entry(
        "Converged: did the ascent end at a top?",
        "EM and MAP climb until a step gains no more than the tolerance. An ascent that ran out "
        "of steps or of time, or was interrupted, ends on a slope.",
        "objective_t - objective_{t-1} <= tolerance per example",
        "Dempster, Laird & Rubin (1977), JRSS B 39(1)",
    ),
    "restarts": Entry(
        "Restarts: was the best mode found by luck?",
        "An ascent ends at the nearest top, so it is run from several starts. If a fifth of them "
        "or more reach the best sane mode, a much better one is unlikely to have been missed; if "
        "one in fifty does, search on.",
        "share of restarts with objective >= best - 0.01 - 1e-4 |best| nats, asked for: 20 %",
        "McLachlan & Peel (2000), Finite Mixture Models, Wiley",
        ("restart",),
    ),
    "degenerate": Entry(
        "Degenerate component: a spike on a few points",
        "A component that shrinks onto a handful of points, or onto a plane, raises the "
        "likelihood without bound. Such a peak says nothing about the data. A component with no "
        "more than D + 1 points, or whose smallest variance sits at the floor, is degenerate: it "
        "is named, set aside and never counts as the best mode. Fewer components, tied "
        "covariances, or priors (objective=posterior) are the cure.",
        "n_k <= D + 1, or the smallest eigenvalue of the covariance at its floor",
        "McLachlan & Peel (2000), Finite Mixture Models, Wiley; Day (1969), Biometrika 56(3)",
        ("degenerate_component", "degenerate component", "singularity"),
    ),
    "point_estimate": Entry(
        "Point estimate: one value, no uncertainty",
        "EM and MAP return the parameters of highest density: quick, good for predictions from "
        "much data, silent about how sure one may be. They maximise the density of the "
        "parameters as the story writes them (no Jacobian), so another parametrisation has "
        "another mode. The verdict `point estimate` says that the search was sound, not that the "
        "point stands for the posterior.",
        "argmax_theta log p(y | theta) + log p(theta)",
        "Gelman et al. (2013), Bayesian Data Analysis, 3rd ed., ch. 13",
        ("point", "map", "em", "mode", "objective"),
    ),
    "verdict": Entry(
        "Verdict: what the five words mean",
        "trust: draws from the posterior, and every check passes. too short: R-hat between 1.01 "
        "and 1.05 while the effective sample sizes and all else pass; run longer. do not trust: a "
        "check of the posterior or of the optimum fails. approximate: draws of an approximation, "
        "sound as far as its checks see, but biased by construction. point estimate: a mode, "
        "found soundly. Checks of leave-one-out scores and of likelihood estimates never decide.",
        "all checks of scope posterior and optimum pass",
        "Gelman et al. (2020), Bayesian workflow, arXiv:2011.01808",
        ("trust", "too short", "do not trust", "approximate"),
    ),
    "heldout_log_likelihood": Entry(
        "Held-out log likelihood: how well are new examples foretold?",
        "Part of the rows (the set's own split, else a fixed fifth) is kept from every method; "
        "the story fitted to the rest gives each of them a log probability, averaged over draws "
        "inside the logarithm, or with the point plugged in. In nats per example, in the data's "
        "original units. It compares any methods and stories on the same rows; its standard error "
        "is over examples.",
        "1/N* sum_n log (1/S sum_s p(y*_n | theta_s))",
        "Gneiting & Raftery (2007), JASA 102(477)",
        ("held-out", "heldout", "heldout_log_likelihood_nats_per_example"),
    ),
    "log_likelihood": Entry(
        "Log likelihood: how probable are the rows that were fitted?",
        "The same of the rows that the story was fitted to: with one point the likelihood at that "
        "point, with draws averaged over them inside the logarithm. It rises with every parameter "
        "added, so compare by held-out rows. It is exact unless it stands as a mean over draws, "
        "with its Monte Carlo error, or with bounds: then the story has a normaliser that can only "
        "be estimated.",
        "sum_n log (1/S sum_s p(y_n | theta_s))",
        "Gelman, Hwang & Vehtari (2014), Statistics and Computing 24(6)",
        ("likelihood", "log_likelihood_nats", "log_likelihood_nats_per_example"),
    ),
    "likelihood_known": Entry(
        "Likelihood known: do the bounds of an estimated likelihood meet?",
        "Some stories give the probability of an example only up to a sum over more states than "
        "can be visited. Annealed importance sampling estimates that sum by chains that are led "
        "from a simple distribution to the story's own. Run forward it tends to miss modes, and "
        "takes the likelihood for too high; run backward from the story's own states it takes it "
        "for too low. Between the two lies the truth. If they are no more than a nat apart the "
        "likelihood is known that well; if not it is not known, even where the standard error "
        "is small or the bounds meet, since chains that all miss a mode agree: so at least a "
        "quarter of the chains' weights must be effective. The check speaks of likelihoods and "
        "of the scores that rest on them, never of the parameters.",
        "log p(v) = - F(v) - log Z, |upper - lower| <= 1 nat per example, by log Z from "
        "log mean exp(w) forward and - log mean exp(-w) backward, w the chains' log weights",
        "Burda, Grosse & Salakhutdinov (2015), AISTATS; Salakhutdinov & Murray (2008), ICML",
        ("ais", "annealed importance sampling", "estimated likelihood", "log Z", "bounds"),
    ),
    "bits_per_dim": Entry(
        "Bits per dimension: a density's cost of one number",
        "The held-out log likelihood in bits rather than nats, per number of an example (a pixel, "
        "a feature), with its sign changed: what an ideal code would spend on it. Lower is "
        "better. For continuous data it depends on their units and may be negative.",
        "- log p(y*) / (D log 2)",
        "Theis, van den Oord & Bethge (2016), ICLR",
        ("bits per dim", "bits"),
    ),
    "bits_per_character": Entry(
        "Bits per character: the cost of one character of text",
        "What an ideal code built on the story spends on a character of held-out text. Lower is "
        "better. Plain eight-bit text costs 8, English to a good model about 1.",
        "- sum_t log2 p(x_t | x_<t) / T",
        "Shannon (1951), Bell System Technical Journal 30(1)",
        ("bpc",),
    ),
    "step_by_step": Entry(
        "Step by step: what do the draws foretell together?",
        "Each step of a held-out sequence is foretold by the mean of what all draws say, those "
        "that told the steps before badly too. Closer to zero is better. The log likelihood "
        "averages the probabilities of whole sequences instead, in which one draw soon counts for "
        "all; it is what `zoo compress` spends.",
        "mean over steps of log(mean_s p(x_t | x_<t, theta_s))",
        "Gan, Li, Chen, Pu, Su & Carin (2017), ACL, on recurrent networks",
    ),
    "perplexity": Entry(
        "Perplexity: between how many words does the story waver?",
        "The exponential of the held-out cost per word: a perplexity of 900 is as unsure as a "
        "fair choice among 900 words. Lower is better. It compares models over the same "
        "vocabulary and tokens only. Topics are asked by document completion: half of the words "
        "of each held-out document, drawn by a fixed seed, are seen, and the others foretold from "
        "the mixture that they point to.",
        "exp(- sum_t log p(w_t | seen half) / T), t over the words not seen",
        "Jelinek, Mercer, Bahl & Baker (1977), JASA 62(S1); Wallach, Murray, Salakhutdinov & "
        "Mimno (2009), ICML, section 5.2",
    ),
    "npmi": Entry(
        "NPMI: do a topic's words belong together?",
        "The words that a topic ranks highest ought to occur in the same documents more often "
        "than chance has it. 1 is always together, 0 is chance, -1 never. It follows what people "
        "call a coherent topic better than perplexity does.",
        "mean over pairs of log(p(a, b) / (p(a) p(b))) / -log p(a, b)",
        "Bouma (2009), GSCL; Lau, Newman & Baldwin (2014), EACL",
        ("coherence",),
    ),
    "c_v": Entry(
        "C_V: do a topic's words keep the same company?",
        "Each of the ten words that a topic ranks highest is described by its NPMI with all ten; "
        "the measure is how nearly these descriptions point one way. Here words are company where "
        "they stand in one document: counts know no order, and the published measure, which "
        "slides a window over 110 words, gives other values. It is there where gensim is: "
        "pip install 'storyzoo[topics]'.",
        "mean cosine(v_i, sum_j v_j), v_ij = NPMI_ij",
        "Röder, Both & Hinneburg (2015), WSDM",
    ),
    "topic_diversity": Entry(
        "Topic diversity: do topics differ?",
        "The share of different words among the 25 that each topic ranks highest. Near 1 topics "
        "are varied; near 1 / K all are one and the same.",
        "|union of top words| / (25 K)",
        "Dieng, Ruiz & Blei (2020), TACL 8",
    ),
    "shared_topics": Entry(
        "Shared topics: do runs find the same?",
        "Topics of every two chains, or restarts, are matched one to one, and those whose words' "
        "probabilities have a cosine of at least 0.8 count as found by both. What only one run "
        "finds may be of use, but should not be leant on.",
        "mean over pairs of |{k: cosine(phi_k, phi'_match(k)) >= 0.8}|",
        "Greene, O'Callaghan & Cunningham (2014), ECML PKDD",
        ("stability",),
    ),
    "left_to_right": Entry(
        "Left to right: how probable is a whole new document?",
        "Words of a held-out document are foretold one after another from those before, its "
        "mixture of topics integrated out by particles, given the (mean) topics. Closer to zero "
        "is better. ELPD-LOO asks for documents that were fitted; where its k-hats fail, as they "
        "do for topics, this and perplexity of held-out documents are what to compare by.",
        "log p(w_d | topics) = sum_n log p(w_n | w_<n, topics)",
        "Wallach, Murray, Salakhutdinov & Mimno (2009), ICML; Buntine (2009), ACML",
    ),
    "log_evidence": Entry(
        "Log evidence: how probable are the data under the whole story?",
        "The likelihood averaged over the prior. Laplace's method takes a normal around the mode, "
        "and counts every renumbering of exchangeable parts as a mode of its own (+ log K!). It "
        "depends on the priors far more than predictions do, and is undefined under improper "
        "ones.",
        "log p(y) ~ log p(y, theta_0) + D/2 log 2 pi - 1/2 log det H + log K!",
        "MacKay (2003), Information Theory, Inference, and Learning Algorithms, ch. 27-28",
        ("evidence", "marginal likelihood"),
    ),
    "distance_sd": Entry(
        "Distance in sd: how far is a method's mean from the trusted one?",
        "For each parameter, the difference between a method's posterior mean and that of the "
        "best trusted fit, in the latter's posterior sd; the worst parameter is named. Labels are "
        "matched first. Below a tenth nobody would notice; above one the method tells another "
        "story. It sees means only: see sliced_wasserstein for the rest.",
        "max_i |mean_i - reference mean_i| / reference sd_i",
        "Magnusson et al. (2024), posteriordb, arXiv:2407.04967",
        ("distance",),
    ),
    "sliced_wasserstein": Entry(
        "Sliced Wasserstein: how far is a method's whole posterior from the trusted one?",
        "The draws are standardised by the trusted posterior and projected on many random "
        "directions; along each, the distance between the two sorted sets is taken, and the root "
        "of the mean square is given. Zero is the same distribution; a shift of every parameter "
        "by one sd gives 1, and so does a point at the trusted mean of independent parameters. "
        "Two sets of 2,000 draws from one distribution are about 0.05 apart.",
        "SW_2^2 = mean over directions u of the integral over p in (0, 1) of "
        "(Q_p(u.x) - Q_p(u.y))^2, Q_p the p-quantile",
        "Bonneel, Rabin, Peyré & Pfister (2015), Journal of Mathematical Imaging and Vision 51(1)",
        ("wasserstein", "sliced wasserstein"),
    ),
    "calibration": Entry(
        "Calibration: does a method know what it knows?",
        "Draw parameters from the prior, data from the story given them, and fit these. Were the "
        "method exact, the truth would be one more draw of each posterior, so its rank among the "
        "draws would take every value equally often. Ranks that pile at both ends tell of "
        "posteriors that are too narrow, in the middle of ones that are too wide, at one end of "
        "ones that are shifted. The line of ranks (their ECDF less the diagonal) is held against "
        "exact limits for the whole of it, and p-values are adjusted for all quantities together; "
        "below 0.01 one fails. 200 simulations nearly always see an sd that is wrong by a third "
        "or a mean that is off by 0.4 sd, and mostly miss half of that. It judges the method over "
        "data such as the prior tells, not for the data at hand. Labels that may be permuted are "
        "matched to one draw that is not ranked; matched to the truth, even exact draws would "
        "fail.",
        "rank = #{s : theta_s < theta_true} among L independent draws, uniform on 0, ..., L",
        "Talts, Betancourt, Simpson, Vehtari & Gelman (2018), arXiv:1804.06788; Säilynoja, Bürkner "
        "& Vehtari (2022), Statistics and Computing 32:32; Modrák et al. (2023), Bayesian Analysis",
        ("sbc", "simulation-based calibration", "calibrate", "calibrated", "ecdf"),
    ),
    "gradient_evaluations": Entry(
        "Gradient evaluations: what a fit cost, on any machine",
        "How often the gradient of the log density was computed (passes over the data for EM). "
        "Unlike seconds it does not depend on the machine or on the compiler; a minibatch counts "
        "as one.",
        "number of gradients over warm-up and draws, all chains, starts or restarts",
        "Hoffman & Gelman (2014), JMLR 15",
        ("gradients",),
    ),
}
"""By the name that checks, tables and ``summary.json`` use."""


def explain(name: str, width: int = 79) -> str:
    """What ``zoo explain NAME`` prints; SettingError with the nearest word where it is unknown."""
    entry = find(name)
    paragraphs = [
        entry.title,
        textwrap.fill(entry.text, width),
        textwrap.fill(entry.formula, width, initial_indent="    ", subsequent_indent="    "),
        textwrap.fill(f"Source: {entry.source}.", width),
    ]
    return "\n\n".join(paragraphs)


def find(name: str) -> Entry:
    """The entry of a word, however it is spelt: ``R-hat``, ``r_hat``, ``rhat``."""
    words = _words()
    key = _plain(name)
    if key not in words:
        known = [*ENTRIES, *(alias for entry in ENTRIES.values() for alias in entry.aliases)]
        raise SettingError(f"nothing is known of {name!r}: {nearest(name.lower(), known)}")
    return ENTRIES[words[key]]


def _words() -> dict[str, str]:
    words = {_plain(alias): name for name, entry in ENTRIES.items() for alias in entry.aliases}
    return words | {_plain(name): name for name in ENTRIES}


def _plain(name: str) -> str:
    """Letters and digits alone, in lower case."""
    return "".join(letter for letter in name.lower() if letter.isalnum())
