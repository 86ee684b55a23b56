"""Disentanglement of codes whose factors are known: perfect, permuted, doubled, mixed and random; sprites."""

import math

import pytest
import torch
from sklearn.metrics import mutual_info_score

from vaekit.evaluate import (
    dci,
    explicitness,
    factor_vae_score,
    mig,
    modularity,
    mutual_informations,
    sap,
    sprites,
)
from vaekit.evaluate.examples import Unavailable

GRID = torch.cartesian_prod(torch.arange(3), torch.arange(4), torch.arange(5), torch.arange(4))
PERFECT = GRID.double()
SCORES = {
    "mig": mig,
    "sap": sap,
    "factor_vae": lambda z, v: factor_vae_score(z, v, votes=200),
    "modularity": modularity,
    "disentanglement": lambda z, v: dci(z, v).disentanglement,
    "completeness": lambda z, v: dci(z, v).completeness,
    "informativeness": lambda z, v: dci(z, v).informativeness,
}


def rotated(codes):
    q = torch.linalg.qr(torch.randn(codes.shape[1], codes.shape[1], dtype=torch.float64)).Q
    return (codes - codes.mean(0)) / codes.std(0) @ q


@pytest.mark.parametrize("name", SCORES)
def test_a_code_that_is_the_factors_scores_one_however_permuted_and_scaled(name):
    score = SCORES[name]
    assert score(PERFECT, GRID) == pytest.approx(1.0, abs=1e-6)
    order = torch.tensor([2, 0, 3, 1])
    moved = PERFECT[:, order] * torch.tensor([1.0, -2.0, 0.7, 1.5]) + 3
    assert score(moved, GRID) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("name", SCORES)
def test_a_mixed_code_scores_less_and_a_random_one_least(name):
    score, mixed, noise = SCORES[name], rotated(PERFECT), torch.randn(240, 4)
    limit = 0.95 if name in ("modularity", "factor_vae", "informativeness") else 0.7
    assert score(mixed, GRID) < limit
    if name != "modularity":  # that what one knows is spread evenly is not to be seen in a code that knows nothing
        assert score(noise, GRID) < 0.6


@pytest.mark.parametrize("name", SCORES)
def test_scores_are_the_same_each_time_and_leave_the_random_state_alone(name):
    codes = PERFECT + torch.randn(240, 4)
    state = torch.get_rng_state()
    assert SCORES[name](codes, GRID) == SCORES[name](codes, GRID)
    assert torch.equal(state, torch.get_rng_state())


def test_mutual_information_is_that_of_scikit_learn_between_bins_and_factor():
    codes = PERFECT + torch.randn(240, 4)
    found = mutual_informations(codes, GRID, bins=6)
    for i in range(4):
        z = codes[:, i].contiguous()
        edges = torch.linspace(float(z.min()), float(z.max()), 7, dtype=torch.float64)[1:-1]
        binned = torch.bucketize(z, edges, right=True)
        for j in range(4):
            assert float(found[i, j]) == pytest.approx(mutual_info_score(binned, GRID[:, j]), abs=1e-9)


def test_mig_is_the_gap_over_the_entropy_by_hand():
    """v in {0, 1, 2, 3}: z_0 = v, z_1 tells only whether v > 1: (log 4 - log 2) / log 4 = 1/2. A copy: 0."""
    v = torch.arange(4).repeat(50)[:, None]
    halves = torch.cat([v, v > 1], 1).double()
    assert mig(halves, v) == pytest.approx(0.5)
    assert mig(v.double().repeat(1, 2), v) == pytest.approx(0.0, abs=1e-12)
    uneven = torch.tensor([0] * 150 + [1] * 50)[:, None]
    assert mig(uneven.double(), uneven) == pytest.approx(1.0), "divided by the entropy of the factor as it is"
    few = mig(torch.arange(40).double()[:, None].repeat(5, 1), torch.arange(40)[:, None].repeat(5, 1), bins=20)
    assert few == pytest.approx(math.log(20) / math.log(40)), "bins too few to tell all values apart"


def test_the_gap_of_sap_is_that_of_squared_correlations_and_of_thresholds():
    v = torch.arange(4).repeat(50)[:, None]
    noisy = torch.cat([v, v + 2 * torch.randn(200, 1)], 1).double()
    correlation = torch.corrcoef(torch.cat([noisy, v], 1).T)[:2, 2] ** 2
    assert sap(noisy, v) == pytest.approx(float(correlation[0] - correlation[1]))
    constant = torch.cat([v, torch.zeros(200, 1)], 1).double()
    assert sap(constant, v, categorical=[0]) == pytest.approx(1 - 1 / 4)
    # an order that says nothing: thresholds find the classes, a line does not
    shuffled = torch.tensor([1.0, 3.0, 0.0, 2.0]).double()[v]
    assert sap(torch.cat([shuffled, constant[:, 1:]], 1), v, categorical=[0]) == pytest.approx(0.75)
    assert sap(shuffled, v) < 0.2
    rare = (torch.arange(2000) % 20 == 0).long()[:, None]  # of 20 guesses "no" 19 are right, and tell nothing
    seen = torch.cat([rare + torch.randn(2000, 1), torch.zeros(2000, 1)], 1)
    assert 0.12 < sap(seen, rare, categorical=[0]) < 0.3


def test_dci_by_hand():
    """One dimension holds both factors: complete, and not disentangled. One factor in two halves: the other way."""
    v = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(100, 1)
    both = torch.stack([2 * v[:, 0] + v[:, 1], torch.zeros(400).long()], 1).double()
    found = dci(both, v)
    assert found.completeness == pytest.approx(1.0) and found.disentanglement < 0.2 and found.informativeness == 1.0
    four = torch.arange(4).repeat(100)[:, None]
    halves = torch.cat([four // 2, four % 2], 1).double()
    found = dci(torch.cat([halves, torch.zeros(400, 1).double()], 1), torch.cat([four, v[:, :1]], 1))
    share = found.importance[:, 0] / found.importance[:, 0].sum()
    assert share[:2].min() > 0.2 and share[2] == 0
    entropy = -(share[:2] * share[:2].log()).sum() / math.log(3)
    other = found.importance[:, 1] / found.importance[:, 1].sum()
    other_entropy = -torch.special.entr(other).sum().neg() / math.log(3)
    weight = found.importance.sum(0) / found.importance.sum()
    by_hand = weight[0] * (1 - entropy) + weight[1] * (1 - other_entropy)
    assert found.completeness == pytest.approx(float(by_hand))


def test_boosting_agrees_with_the_forest_on_a_perfect_code():
    found = dci(PERFECT[:, :2], GRID[:, :2], model="boosting", trees=5)
    assert (found.disentanglement, found.completeness, found.informativeness) == pytest.approx((1.0, 1.0, 1.0))


def test_the_factor_vae_score_leaves_dimensions_out_that_do_not_vary():
    """A dead dimension, whose scaled variance is noise, would be the quietest in every vote."""
    dead = torch.cat([PERFECT, 1e-6 * torch.randn(240, 1)], 1)
    assert factor_vae_score(dead, GRID, votes=200) == pytest.approx(1.0)
    v = GRID[:, [0, 2]].repeat(4, 1)  # noise that is large beside another dimension, and small beside its own
    noisy = v * torch.tensor([3.0, 0.8]) + torch.randn(960, 2) * torch.tensor([1.2, 0.2])
    assert factor_vae_score(noisy, v) > 0.95
    assert factor_vae_score(torch.zeros(240, 2), GRID) == pytest.approx(1 / 4)
    assert factor_vae_score(torch.randn(240, 4), GRID) < 0.5


def test_modularity_by_hand():
    """z_0 tells both factors alike: 1 - 1/(2 - 1) = 0; z_1 tells one: 1."""
    v = torch.cartesian_prod(torch.arange(2), torch.arange(2)).repeat(20, 1)
    codes = torch.stack([2 * v[:, 0] + v[:, 1], v[:, 0]], 1).double()
    assert modularity(codes, v) == pytest.approx(0.5)
    assert modularity(torch.cat([v.double(), torch.zeros(80, 2)], 1), v) == pytest.approx(0.5), "unused ones count 0"


def test_explicitness_is_one_for_factors_that_a_line_can_tell():
    v = torch.randint(2, (300, 3))
    mix = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64)).Q
    assert explicitness(v.double() @ mix, v) == pytest.approx(1.0)
    assert explicitness(torch.randn(300, 3), v) < 0.4
    assert explicitness(torch.randn(80, 100), torch.randint(2, (80, 1))) < 0.7, "learned by heart"
    counted = torch.arange(3).repeat(100)[:, None]  # the value in the middle is on no side of a line
    assert explicitness(counted.double(), counted) < 0.9
    assert explicitness(torch.nn.functional.one_hot(counted[:, 0]).double(), counted) == pytest.approx(1.0)


@pytest.mark.parametrize("values", [torch.tensor([5, 900, -3])])
def test_factors_may_have_any_whole_numbers_as_values(values):
    v = torch.arange(3).repeat(20)[:, None]
    assert mig(v.double(), values[v]) == pytest.approx(1.0)
    assert factor_vae_score(v.double(), values[v], votes=20) == 1.0


@pytest.mark.parametrize("score", [mig, sap, modularity, factor_vae_score, explicitness, dci])
def test_codes_and_factors_that_do_not_fit_are_refused(score):
    with pytest.raises(ValueError, match="expected codes"):
        score(PERFECT[:5], GRID)
    with pytest.raises(ValueError, match="whole numbers"):
        score(PERFECT, PERFECT)
    with pytest.raises(ValueError, match="NaN"):
        score(PERFECT * math.nan, GRID)
    with pytest.raises(Unavailable, match=r"\[1\] have one value"):
        score(PERFECT, torch.cat([GRID[:, :1], 0 * GRID[:, :1]], 1))


def test_values_too_rare_to_judge_by_are_told():
    v = torch.tensor([0] * 20 + [1])[:, None]
    with pytest.raises(Unavailable, match="occurs once"):
        factor_vae_score(v.double(), v)
    with pytest.raises(Unavailable, match="too rare"):
        explicitness(v.double(), v)


# -- sprites ---------------------------------------------------------------------------------------------------------


def test_the_grid_has_every_combination_once_and_no_image_twice():
    images, factors = sprites(levels=(3, 2, 4, 3, 3), block=50)
    assert len(factors.unique(dim=0)) == len(factors) == 3 * 2 * 4 * 3 * 3
    assert len(images.flatten(1).unique(dim=0)) == len(images)
    assert images.dtype == torch.float32 and 0 == images.min() and images.max() == 1
    assert [int(each) for each in factors.max(0).values] == [2, 1, 3, 2, 2]


def test_every_orientation_of_every_shape_is_another_image():
    images, factors = sprites(levels=(3, 1, 40, 1, 1), size=64)
    distance = torch.cdist(images.flatten(1).double(), images.flatten(1).double()) + 1e9 * torch.eye(120)
    assert float(distance.min()) > 0.5


@pytest.mark.parametrize("size", [32, 64])
def test_the_area_is_that_of_the_scale_whatever_shape_place_and_orientation(size):
    images, factors = sprites(200, size=size)
    area = images.sum((1, 2, 3)) * (2 / size) ** 2
    side = 0.3 + 0.1 * factors[:, 1]
    torch.testing.assert_close(area, side**2, rtol=0.06 * 32 / size, atol=0)


def test_shapes_are_where_their_factors_say_and_inside_the_picture():
    images, factors = sprites(levels=(3, 2, 5, 4, 4))
    place = (2 * torch.arange(32) + 1) / 32 - 1
    mass = images[:, 0] / images.sum((2, 3, 1))[:, None, None]
    x, y = (mass.sum(1) * place).sum(1), (mass.sum(2) * place).sum(1)
    torch.testing.assert_close(x, -0.45 + 0.3 * factors[:, 3], rtol=0, atol=0.01)
    torch.testing.assert_close(y, -0.45 + 0.3 * factors[:, 4], rtol=0, atol=0.01)
    edge = torch.cat([images[..., 0], images[..., -1], images[..., 0, :], images[..., -1, :]])
    assert float(edge.max()) < 1 and len(images[(images == 1).flatten(1).sum(1) < 5]) == 0


def test_the_ellipse_turns_by_a_quarter_over_its_orientations():
    images, _ = sprites(levels=(2, 1, 4, 1, 1), size=64)
    place = (2 * torch.arange(64) + 1) / 64 - 1 + 0.45
    ellipses = images[4:, 0] / images[4:].sum((1, 2, 3))[:, None, None]
    xx = (ellipses.sum(1) * place**2).sum(1)
    yy = (ellipses.sum(2) * place**2).sum(1)
    xy = torch.einsum("bij,i,j->b", ellipses, place, place)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    torch.testing.assert_close(angle, math.pi / 8 * torch.arange(4.0), rtol=0, atol=0.02)


def test_images_change_smoothly_with_every_factor():
    """Antialiased: a step of a 200th of the way changes no pixel by more than a part."""
    for levels in ((1, 200, 1, 1, 1), (1, 1, 200, 1, 1), (1, 1, 1, 200, 1), (1, 1, 1, 1, 200)):
        images, _ = sprites(levels=levels)
        assert 0 < float((images[1:] - images[:-1]).abs().max()) < 0.2


def test_sprites_follow_the_seed_and_not_the_block():
    one, same, other = sprites(9, seed=1), sprites(9, seed=1, block=2), sprites(9, seed=2)
    assert torch.equal(one[0], same[0]) and torch.equal(one[1], same[1]) and not torch.equal(one[1], other[1])
    for j, most in enumerate((3, 4, 8, 8, 8)):
        assert sprites(500)[1][:, j].unique().tolist() == list(range(most))


@pytest.mark.parametrize(
    "bad", [{"n": 0}, {"size": 4}, {"levels": (4, 1, 1, 1, 1)}, {"levels": (1, 1, 1)}, {"levels": (1, 0, 1, 1, 1)}]
)
def test_sprites_of_no_sense_are_refused(bad):
    with pytest.raises(ValueError, match=f"{next(iter(bad))}: expected"):
        sprites(**bad)
