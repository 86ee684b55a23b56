"""How well single dimensions of a code stand for single factors of the data.

Every function takes codes `(n, d)`, such as the means of q(z|x), and factors `(n, f)`, whole numbers, of the same
examples, whose factors should vary independently. All are without a unit, and higher is better; none changes where
dimensions are permuted, and all fall where they are mixed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from vaekit.evaluate.examples import Unavailable
from vaekit.optional import require


def mutual_informations(codes: Tensor, factors: Tensor, *, bins: int = 20) -> Tensor:
    """I(z_i; v_j) of each dimension and each factor, `(d, f)` nats, from histograms.

    A dimension is cut into `bins` intervals of one width between its extremes. Counts of n examples overstate
    independent pairs by about (bins - 1)(values - 1)/2n.

    Args:
        codes: (n, d).
        factors: (n, f).
        bins: intervals; at least as many as a factor has values, to tell them apart.
    """
    codes, ranks = _checked(codes, factors)
    if bins < 2:
        raise ValueError(f"bins: expected at least 2, got {bins}.")
    low, high = codes.min(0).values, codes.max(0).values
    width = torch.where(high > low, high - low, 1.0)
    binned = ((codes - low) / width * bins).long().clamp_max(bins - 1)
    columns = []
    for rank in ranks.T:
        values = int(rank.max()) + 1
        cell = (torch.arange(codes.shape[1]) * bins + binned) * values + rank[:, None]
        joint = torch.bincount(cell.flatten(), minlength=codes.shape[1] * bins * values).double()
        joint = joint.reshape(-1, bins, values) / len(codes)
        columns.append(_entropy(joint.sum(1)) + _entropy(joint.sum(2)) - _entropy(joint.flatten(1)))
    return torch.stack(columns, 1).clamp_min(0)


def mig(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    """Mutual information gap: mean_j (I(z_1st; v_j) - I(z_2nd; v_j)) / H(v_j), best and second-best dimension of each.

    1 where each factor is known from one dimension, and no other dimension says anything of it.

    Args:
        codes: (n, d).
        factors: (n, f).
        bins: see `mutual_informations`.

    References:
        Isolating Sources of Disentanglement in Variational Autoencoders (Chen et al., 2018),
        https://arxiv.org/abs/1802.04942

    Example:
        >>> import torch
        >>> factors = torch.cartesian_prod(torch.arange(3), torch.arange(4))
        >>> round(mig(factors.double(), factors), 6)
        1.0
    """
    found = mutual_informations(codes, factors, bins=bins)
    _, ranks = _checked(codes, factors)
    entropy = torch.stack([_entropy(torch.bincount(rank).double() / len(rank)) for rank in ranks.T])
    return float((_gap(found) / entropy).mean())


@dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness, informativeness.

    Args:
        disentanglement: 1 where each dimension matters for one factor.
        completeness: 1 where each factor is predicted from one dimension.
        informativeness: accuracy of the predictions on held-out examples, mean over factors.
        importance: how much each dimension counts for each factor, `(d, f)`.
    """

    disentanglement: float
    completeness: float
    informativeness: float
    importance: Tensor


def dci(
    codes: Tensor,
    factors: Tensor,
    *,
    model: Literal["forest", "boosting"] = "forest",
    trees: int = 20,
    held_out: float = 0.25,
    seed: int = 0,
) -> DCI:
    """Predict each factor from the code with trees, and see which dimensions they use.

        disentanglement  Σ_i ρ_i (1 - H_f(R_i·))    rows of R made to add up to 1, entropy to the base f
        completeness     Σ_j ρ_j (1 - H_d(R_·j))    columns, base d

    R are the trees' importances, ρ the share of all importance in a row or a column.

    Args:
        codes: (n, d).
        factors: (n, f).
        model: "forest" (random forest that looks at all dimensions at each split) or "boosting" (gradient boosting, as
            in the study by Locatello et al., 2019; slow).
        trees: how many, for "boosting" per value of the factor.
        held_out: share of the examples that informativeness is taken on.
        seed: what the split and the trees are drawn from.

    References:
        A Framework for the Quantitative Evaluation of Disentangled Representations (Eastwood & Williams, 2018),
        https://openreview.net/forum?id=By-7dz-AZ
    """
    codes, ranks = _checked(codes, factors)
    ensemble = require("sklearn.ensemble", user="dci", extra="train")
    makers: dict[str, Any] = {
        "forest": lambda: ensemble.RandomForestClassifier(trees, max_features=None, random_state=seed),
        "boosting": lambda: ensemble.GradientBoostingClassifier(n_estimators=trees, random_state=seed),
    }
    if model not in makers:
        raise ValueError(f"model: expected 'forest' or 'boosting', got {model!r}.")
    fit, test = _split(len(codes), held_out, seed)
    x, columns, accuracy = codes.numpy(), [], []
    for rank in ranks.T:
        made = makers[model]().fit(x[fit], rank.numpy()[fit])
        columns.append(torch.as_tensor(made.feature_importances_).double())
        accuracy.append(made.score(x[test], rank.numpy()[test]))
    importance = torch.stack(columns, 1)
    share = importance / importance.sum().clamp_min(1e-12)
    return DCI(
        float(share.sum(1) @ _specific(importance)),
        float(share.sum(0) @ _specific(importance.T)),
        sum(accuracy) / len(accuracy),
        importance,
    )


def sap(codes: Tensor, factors: Tensor, *, categorical: Sequence[int] = ()) -> float:
    """Separated attribute predictability: mean_j (S_1st,j - S_2nd,j), S_ij how well z_i alone predicts v_j.

    S is the squared correlation for ordered factors. For those without an order it is the balanced accuracy of the best
    thresholds, as many as the factor's values less one; what says nothing scores 1 / values there, and so the gap is at
    most 1 - 1 / values.

    Args:
        codes: (n, d).
        factors: (n, f).
        categorical: numbers of the factors without an order, such as 0 for the sprites' shape.

    References:
        Variational Inference of Disentangled Latent Concepts from Unlabeled Observations (Kumar et al., 2018),
        https://arxiv.org/abs/1711.00848
    """
    codes, ranks = _checked(codes, factors)
    if any(not 0 <= j < ranks.shape[1] for j in categorical):
        raise ValueError(f"categorical: expected numbers of factors, 0 to {ranks.shape[1] - 1}, got {categorical}.")
    values = factors.double().cpu()
    centred, factor = codes - codes.mean(0), values - values.mean(0)
    norms = (centred.square().sum(0)[:, None] * factor.square().sum(0)).clamp_min(1e-300)
    scores = (centred.T @ factor).square() / norms
    for j in categorical:
        scores[:, j] = torch.tensor([_thresholds(code, ranks[:, j]) for code in codes.T], dtype=torch.float64)
    return float(_gap(scores).mean())


def factor_vae_score(
    codes: Tensor,
    factors: Tensor,
    *,
    votes: int = 800,
    batch: int = 64,
    least: float = 0.05,
    seed: int = 0,
) -> float:
    """Accuracy of guessing which factor was held fixed, from the dimension that varied least.

    A vote: examples that agree in a factor v_k; d* = argmin_i Var(z_i) / Var_all(z_i) over them. Half of the votes say
    for each d* which k it stands for, by majority, the other half how often that is right. At random: 1 / f.

    Args:
        codes: (n, d).
        factors: (n, f); each value of a factor at least twice.
        votes: in each half.
        batch: examples in a vote, drawn with replacement.
        least: share of the most varied dimension's variance below which a dimension counts as unused.
        seed: what votes are drawn from.

    References:
        Disentangling by Factorising (Kim & Mnih, 2018), https://arxiv.org/abs/1802.05983
    """
    codes, ranks = _checked(codes, factors)
    if votes < 1 or batch < 2:
        raise ValueError(f"votes, batch: expected at least 1 vote of at least 2 examples, got {votes} and {batch}.")
    variance = codes.var(0)
    used = variance > least * variance.max()
    scaled = codes[:, used] / variance[used].sqrt()
    if scaled.shape[1] == 0:
        return 1 / ranks.shape[1]  # constant codes: a guess
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.randint(ranks.shape[1], (2 * votes,), generator=generator)
    quietest = torch.empty(2 * votes, dtype=torch.long)
    for k in range(ranks.shape[1]):
        (mine,) = (fixed == k).nonzero(as_tuple=True)
        order, counts = ranks[:, k].argsort(stable=True), ranks[:, k].bincount()
        if int(counts.min()) < 2:
            raise Unavailable(f"factor_vae_score: a value of factor {k} occurs once. Give more examples.")
        value = torch.randint(len(counts), (len(mine), 1), generator=generator)
        first, draws = counts.cumsum(0) - counts, torch.rand(len(mine), batch, generator=generator)
        group = order[first[value] + (draws * counts[value]).long().minimum(counts[value] - 1)]
        for vote, members in zip(mine.split(256), group.split(256), strict=True):
            quietest[vote] = scaled[members].var(1).argmin(1)
    table = torch.zeros(scaled.shape[1], ranks.shape[1], dtype=torch.long)
    table.index_put_((quietest[:votes], fixed[:votes]), torch.tensor(1), accumulate=True)
    return float((table.argmax(1)[quietest[votes:]] == fixed[votes:]).double().mean())


def modularity(codes: Tensor, factors: Tensor, *, bins: int = 20) -> float:
    """mean_i (1 - Σ_{j≠j*} I_ij² / (I_ij*² (f - 1))): 1 where each dimension knows of one factor, j* its best one.

    A dimension that knows nothing at all, to the bit, counts 0; with one factor each other one counts 1.

    Args:
        codes: (n, d).
        factors: (n, f).
        bins: see `mutual_informations`.

    References:
        Learning Deep Disentangled Embeddings with the F-Statistic Loss (Ridgeway & Mozer, 2018),
        https://arxiv.org/abs/1802.05312
    """
    squares = mutual_informations(codes, factors, bins=bins).square()
    best = squares.max(1).values
    others = (squares.sum(1) - best) / (best.clamp_min(1e-30) * max(squares.shape[1] - 1, 1))
    return float(torch.where(best > 1e-24, 1 - others, 0.0).mean())


def explicitness(codes: Tensor, factors: Tensor, *, held_out: float = 0.25, seed: int = 0) -> float:
    """Area under the ROC curve of a logistic regression for each value of each factor against the others, their mean.

    On held-out examples, brought from [½, 1] to [0, 1]. One number that counts up, as a code for an ordered factor, is
    not explicit in this sense: values in the middle can't be told by one threshold.

    Args:
        codes: (n, d).
        factors: (n, f); each value often enough to be in both parts of the split.
        held_out: share of the examples that the curve is taken on.
        seed: what the split is drawn from.

    References:
        Learning Deep Disentangled Embeddings with the F-Statistic Loss (Ridgeway & Mozer, 2018),
        https://arxiv.org/abs/1802.05312
    """
    codes, ranks = _checked(codes, factors)
    linear = require("sklearn.linear_model", user="explicitness", extra="train")
    metrics = require("sklearn.metrics", user="explicitness", extra="train")
    fit, test = _split(len(codes), held_out, seed)
    mean, spread = codes[fit].mean(0), codes[fit].std(0)
    x = ((codes - mean) / torch.where(spread > 0, spread, 1.0)).numpy()
    areas = []
    for j, rank in enumerate(ranks.T):
        for value in range(int(rank.max()) + 1):
            target = (rank == value).numpy()
            if not 0 < target[fit].sum() < len(fit) or not 0 < target[test].sum() < len(test):
                raise Unavailable(
                    f"explicitness: a value of factor {j} is too rare to be held out. Give more examples."
                )
            model = linear.LogisticRegression(max_iter=2000).fit(x[fit], target[fit])
            areas.append(float(metrics.roc_auc_score(target[test], model.decision_function(x[test]))))
    return max(0.0, 2 * sum(areas) / len(areas) - 1)


def _checked(codes: Tensor, factors: Tensor) -> tuple[Tensor, Tensor]:
    """Codes in double precision and the ranks of the factors' values, 0, 1, …, on the CPU."""
    if codes.ndim != 2 or factors.ndim != 2 or len(codes) != len(factors) or len(codes) < 2:
        raise ValueError(
            f"expected codes (n, d) and factors (n, f) of at least 2 examples, got {tuple(codes.shape)} and "
            f"{tuple(factors.shape)}."
        )
    if factors.is_floating_point():
        raise ValueError(f"factors: expected whole numbers, got {factors.dtype}. Round them, or cut them into bins.")
    codes = codes.detach().double().cpu()
    if not torch.isfinite(codes).all():
        raise ValueError("codes: hold NaN or infinite values.")
    ranks = torch.stack([column.unique(return_inverse=True)[1] for column in factors.cpu().T], 1)
    constant = [j for j, rank in enumerate(ranks.T) if int(rank.max()) == 0]
    if constant:
        raise Unavailable(f"factors: {constant} have one value each. Leave these columns out.")
    return codes, ranks


def _entropy(p: Tensor) -> Tensor:
    """Nats, over the last dimension."""
    return torch.special.entr(p).sum(-1)


def _gap(scores: Tensor) -> Tensor:
    """Best minus second-best dimension for each factor: `(d, f)` → (f,). A lone dimension has no rival."""
    padded = torch.cat([scores, torch.zeros_like(scores[:1])])
    best = padded.topk(2, 0).values
    return best[0] - best[1]


def _specific(importance: Tensor) -> Tensor:
    """1 - entropy of each row, to the base of its length; 1 where there is nothing to choose from."""
    size = importance.shape[1]
    if size == 1:
        return torch.ones(len(importance), dtype=torch.float64)
    rows = importance / importance.sum(1, keepdim=True).clamp_min(1e-12)
    return 1 - _entropy(rows) / torch.log(torch.tensor(size, dtype=torch.float64))


def _thresholds(code: Tensor, rank: Tensor) -> float:
    """Balanced accuracy of the best thresholds on one dimension."""
    trees = require("sklearn.tree", user="sap", extra="train")
    values = int(rank.max()) + 1
    x, y = code.numpy()[:, None], rank.numpy()
    model = trees.DecisionTreeClassifier(max_leaf_nodes=values, class_weight="balanced", random_state=0).fit(x, y)
    right = torch.as_tensor(model.predict(x) == y).double()
    counts = rank.bincount(minlength=values)
    return float((torch.zeros(values, dtype=torch.float64).index_add_(0, rank, right) / counts).mean())


def _split(n: int, held_out: float, seed: int) -> tuple[Any, Any]:
    if not 0 < held_out < 1 or n < 4:
        raise ValueError(f"held_out: expected a share between 0 and 1 of at least 4 examples, got {held_out} of {n}.")
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    cut = min(max(1, round(held_out * n)), n - 1)
    return order[cut:].numpy(), order[:cut].numpy()
