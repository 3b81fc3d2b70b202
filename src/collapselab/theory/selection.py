"""Closed forms beyond one learner: several models, filters with errors, self-reward, added noise, parallel agents.

The data-processing inequality bounds all of them: real text -> training set -> model -> samples -> next model is a Markov
chain, so no later model knows more about the truth than the first (Cover & Thomas 2006, theorem 2.8.1). No architecture of a
synthesiser escapes it, only a channel to the world: fresh real text, a verifier that is right more often than wrong, or
built-in prior information. A symbolic synthesiser (the same answer each time) freezes what it has instead of losing it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

# --- several models that train on each other's samples ----------------------------------------------------------------


def ecosystem(weights: np.ndarray, shares: Sequence[float], documents: float) -> np.ndarray:
    """C_kl = E <p_k - p*, p_l - p*> / H* by generation, float64 (generations, K, K), for K exact learners with
    q_k = alpha p* + (1 - alpha) sum_j W_kj p_j, each trained on N draws of its own q_k:

    D = (1 - alpha)^2 W C W^T, C' = D + diag((1 - D_kk)/N). The diversity of model k is 1 - C_kk, that of the average of all
    1 - mean of C.

    Args:
        weights: W, (K, K), rows sum to 1.
    """
    c, out = np.zeros_like(weights, dtype=float), []
    for share in shares:
        d = (1 - share) ** 2 * weights @ c @ weights.T
        c = d + np.diag((1 - np.diag(d)) / documents)
        out.append(c)
    return np.asarray(out)


def topology(name: str, models: int) -> np.ndarray:
    """W of `committee` (all learn from all), `hub` (all from the first), `isolated`, or `ring` (half its own, half of the
    neighbour's)."""
    one = np.eye(models)
    return {
        "committee": np.full((models, models), 1 / models),
        "hub": np.tile(one[0], (models, 1)),
        "isolated": one,
        "ring": (one + np.roll(one, 1, axis=1)) / 2,
    }[name]


def effective_size(weights: np.ndarray, documents: float) -> float:
    """Size of the single model that loses diversity at the same rate in the long run, without real text and for large N:
    N / sum pi_k^2, pi the stationary law of W. pi' C pi is a martingale but for the noise sum pi_k^2 (1 - D_kk)/N.

    A committee of K delays by K, the maximum; a hub gains nothing; isolated lineages (pi not unique; uniform here) die one by
    one while the average keeps H* (1 - 1/K).
    """
    pi = np.full(len(weights), 1 / len(weights))
    for _ in range(10000):  # a power iteration of (I + W)/2, which has no cycles
        pi = (pi + pi @ weights) / 2
    return float(documents / np.sum(pi**2))


# --- filters ------------------------------------------------------------------------------------------------------------


def filtered(p0: np.ndarray, accept: np.ndarray, generations: int) -> np.ndarray:
    """Laws (generations, K) of a replicator, which accepts a class with probability a and learns what was accepted: p_t
    proportional to p_0 a^t, t = 0 .. generations - 1.

    Two classes, right and wrong: odds_t = odds_0 (TPR/FPR)^t, so that the sign of Youden's J = TPR - FPR decides.
    """
    t = np.arange(generations)[:, None]
    weight = p0 * (accept / accept[p0 > 0].max()) ** t
    return np.asarray(weight / weight.sum(1, keepdims=True))


def filter_gain(correct: np.ndarray, tpr: float, fpr: float) -> np.ndarray:
    """Gain of accuracy in one step of a filter, p' - p = p (1 - p) J / acceptance, for Youden's J = TPR - FPR and the acceptance
    p TPR + (1 - p) FPR."""
    return np.asarray(correct * (1 - correct) * (tpr - fpr) / (correct * tpr + (1 - correct) * fpr))


def anchored(p0: np.ndarray, accept: np.ndarray, shares: Sequence[float], anchor: np.ndarray) -> np.ndarray:
    """Laws of `filtered` with a share alpha of answers of the law `anchor` (K,) in each set, row 0 being p_0:
    p' = alpha anchor + (1 - alpha) p a / (p . a)."""
    out = [np.asarray(p0, float)]
    for share in shares[1:]:
        chosen = out[-1] * accept
        out.append(share * anchor + (1 - share) * chosen / chosen.sum())
    return np.asarray(out)


def hack_peak(p0: np.ndarray, accept: np.ndarray) -> float:
    """Step t* at which the accuracy under `filtered` peaks, for classes (wrong, correct, hack) accepted with s_w < s_c < s_h:
    the filter prefers a systematic false positive to the truth.

    d ln p_c / dt = ln s_c - mean of ln s is 0 where p_w s_w^t ln(s_c/s_w) = p_h s_h^t ln(s_h/s_c), so
    t* = ln[p_w ln(s_c/s_w) / (p_h ln(s_h/s_c))] / ln(s_h/s_w). Then accuracy falls to 0 while the accepted share rises.
    Negative if accuracy falls from the start.
    """
    (w, _, h), (sw, sc, sh) = p0, accept
    return math.log(w * math.log(sc / sw) / (h * math.log(sh / sc))) / math.log(sh / sw)


def critical_anchor(accept: np.ndarray, anchor: np.ndarray) -> float:
    """Share of an anchor without hacks above which hacks die out under `anchored`: 1 / sum_j anchor_j s_h/(s_h - s_j).

    Without hacks the fixed point has p_j = alpha anchor_j x / (x - s_j) with x = (mean of s)/(1 - alpha) and sum p = 1; hacks grow
    by s_h/x, so the threshold is x = s_h. For an anchor of correct answers alone it is 1 - s_c/s_h; wrong answers in the
    anchor lower the mean acceptance and raise it.
    """
    return float(1 / np.sum(anchor[:2] * accept[2] / (accept[2] - accept[:2])))


def anchor_limit(accept: np.ndarray, share: float) -> float:
    """Accuracy that `anchored` tends to with a share alpha of correct answers: min(1, alpha s_h/(s_h - s_c)).

    Below the critical share hacks remain, so x of `critical_anchor` is s_h, and p_c = alpha x/(x - s_c); wrong answers die out
    in any case, for s_w < s_c.
    """
    return float(min(1.0, share * accept[2] / (accept[2] - accept[1])))


# --- majority-vote self-reward --------------------------------------------------------------------------------------------


def self_reward(
    answers: np.ndarray,
    correct: int,
    gain: float,
    attempts: int,
    generations: int,
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Multiply the odds of the majority's answer by `gain` in each step; in a large vote it is the model's most likely answer
    and remains so.

    Args:
        answers: (questions, answers), p_0 of each question; `correct` is the column of the right answer.
        weights: (questions,) weight of each question, with sum 1; None: equal weights.

    Returns:
        By generation, t = 0 .. generations - 1: `reward`, the mean agreement with the majority (tends to 1); `pass_at_1` and
        `pass_at_k`, P(a right answer among k attempts), which tend to P(the plurality is right): pass@1 rises to it, pass@k
        falls to it. The model learns nothing that the vote did not know.
    """
    top = answers.argmax(1)
    chosen = np.zeros_like(answers)
    chosen[np.arange(len(top)), top] = 1
    reward, first, among = [], [], []
    for t in range(generations):
        weight = answers * np.where(chosen > 0, 1.0, gain**-t)
        p = weight / weight.sum(1, keepdims=True)
        reward.append(np.average((p * chosen).sum(1), weights=weights))
        first.append(np.average(p[:, correct], weights=weights))
        among.append(np.average(1 - (1 - p[:, correct]) ** attempts, weights=weights))
    return {"reward": np.asarray(reward), "pass_at_1": np.asarray(first), "pass_at_k": np.asarray(among)}


def beta_questions(a: float, b: float, nodes: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Quadrature over questions with P(correct) ~ Beta(a, b), as p and weights (2 x nodes,), for functions that are smooth on
    either side of 1/2, where the vote turns.

    Gauss-Jacobi on each half, whose weight absorbs the density's end at 0 or 1; each half has its exact mass. `self_reward` is
    then exact to 1e-8 for a + b up to 1,000. Beyond, the density is narrow: 100 times as many equally likely quantiles, exact
    to 1e-4.
    """
    from scipy.special import betainc, betaincinv, roots_jacobi  # importing it takes half a second

    if a + b > 1000:
        places = (np.arange(200 * nodes) + 0.5) / (200 * nodes)
        return np.asarray(betaincinv(a, b, places)), np.full(len(places), 1 / len(places))

    def half(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
        x, weight = roots_jacobi(nodes, 0.0, a - 1)
        p = (x + 1) / 4
        density = weight * np.exp((b - 1) * np.log1p(-p))
        return p, density / density.sum() * betainc(a, b, 0.5)

    wrong, under = half(a, b)
    right, over = half(b, a)
    return np.concatenate([wrong, 1 - right]), np.concatenate([under, over])


# --- added noise ----------------------------------------------------------------------------------------------------------


def injected(p: np.ndarray, noise: float, documents: float, generations: int) -> dict[str, np.ndarray]:
    """Laws of an exact learner without real text if uniform noise u replaces a document with probability eps, by generation
    (t = g + 1): q = (1 - eps) p_t + eps u. Generation 0 is trained on N real documents, without noise.

    `diversity`: E H / H*, with h' = (1 - 1/N)[(1 - eps)^2 h + (1 - (1 - eps)^2)(1 - 1/K)], for <p, u> = 1/K: noise restores it,
    even above 1. `signal` = (1 - eps)^g: E p_t - u = signal (p* - u), what is left of the truth, which noise destroys faster.
    `distance` = E ||p_t - p*||^2 / H*.
    """
    keep, uniform, truth = 1 - 1 / documents, 1 - 1 / len(p), 1 - float(np.sum(p**2))
    h, values = keep * truth, []
    for _ in range(generations):
        values.append(h)
        h = keep * ((1 - noise) ** 2 * h + (1 - (1 - noise) ** 2) * uniform)
    diversity = np.asarray(values)
    signal = (1 - noise) ** np.arange(generations)
    overlap = signal * (1 - truth) + (1 - signal) / len(p)  # <E p_t, p*>
    return {
        "diversity": diversity / truth,
        "signal": signal,
        "distance": ((1 - diversity) - 2 * overlap + (1 - truth)) / truth,
    }


# --- many at once -----------------------------------------------------------------------------------------------------------


def effective_agents(agents: np.ndarray, correlation: float) -> np.ndarray:
    """Effective number of agents: as many independent ones have the same variance of the mean as n whose errors correlate with
    rho, n / (1 + (n - 1) rho), at most 1/rho (Kish 1965, the design effect)."""
    return np.asarray(agents / (1 + (agents - 1) * correlation))


def amdahl(agents: np.ndarray, parallel: float) -> np.ndarray:
    """Speed-up of n workers if a share `parallel` of the work can be divided: 1 / (1 - p + p/n) (Amdahl 1967)."""
    return np.asarray(1 / (1 - parallel + parallel / agents))
