"""Encoders and decoders made of transformers: blocks against torch's, patches, tokens without an order, sizes."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import vaekit
from vaekit.layers.patches import FromTokens, ToTokens, grid_of, patch_sides, patchify, unpatchify
from vaekit.layers.positions import FourierPositions, Positions, fourier, sincos
from vaekit.layers.transformer import Block, TokenAttention, TokenMLP, Transformer
from vaekit.testing import check

TINY = {"width": 16, "depth": 2, "heads": 2}
SMALL = {
    "vit": TINY,
    "latent_query_vit": {**TINY, "tokens": 4},
    "perceiver": {**TINY, "tokens": 4, "bands": 4},
}
MODERN = {"norm": "rms", "qk_norm": True, "mlp": "swiglu"}
SIZES = [(13,), (12,), (9, 14), (8, 12), (5, 6, 7)]
CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


def moved(module):
    """Weights away from where they start, so that nothing is zero by chance of its beginning."""
    with torch.no_grad():
        for p in module.parameters():
            p += 0.1 * torch.randn_like(p)
    return module


def encoder(name, in_shape=(3, 9, 14), latent=(5,), cond_dim=0, **args):
    return moved(vaekit.encoder[name](in_shape, latent, cond_dim, **{**SMALL[name], **args})).eval()


def decoder(name, latent=(5,), out_shape=(3, 9, 14), cond_dim=0, **args):
    return moved(vaekit.decoder[name](latent, out_shape, cond_dim, **{**SMALL[name], **args})).eval()


# -- attention and blocks, against torch's own ---------------------------------------------------------------------------


def test_self_attention_is_that_of_multihead_attention_with_the_same_weights():
    ours, theirs = moved(TokenAttention(16, 4)).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.to_qkv.weight,
            "in_proj_bias": ours.to_qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x, x, x, need_weights=False)[0])


def test_attention_to_a_context_is_that_of_multihead_attention_with_the_same_weights():
    ours = moved(TokenAttention(16, 4, context_dim=10)).double()
    theirs = nn.MultiheadAttention(16, 4, kdim=10, vdim=10, batch_first=True).double()
    key, value = ours.to_kv.weight.chunk(2)
    theirs.load_state_dict(
        {
            "q_proj_weight": ours.to_q.weight,
            "k_proj_weight": key,
            "v_proj_weight": value,
            "in_proj_bias": torch.cat([ours.to_q.bias, ours.to_kv.bias]),
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    x, context = torch.randn(3, 7, 16, dtype=torch.float64), torch.randn(3, 5, 10, dtype=torch.float64)
    torch.testing.assert_close(ours(x, context), theirs(x, context, context, need_weights=False)[0])


def test_a_transformer_is_a_stack_of_torch_encoder_layers_with_the_same_weights():
    ours = Transformer(
        16, 3, heads=2, mlp_ratio=2.0, mlp="gelu", norm="layer", qk_norm=False, checkpoint=False
    ).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    expected = x
    for block in moved(ours).blocks:
        layer = nn.TransformerEncoderLayer(
            16, 2, 32, dropout=0.0, activation="gelu", norm_first=True, layer_norm_eps=1e-6, batch_first=True
        ).double()
        pairs = {
            "self_attn.in_proj_": block.attention.to_qkv,
            "self_attn.out_proj.": block.attention.out,
            "linear1.": block.mlp.inner,
            "linear2.": block.mlp.outer,
            "norm1.": block.norm1,
            "norm2.": block.norm2,
        }
        layer.load_state_dict({key + n: p for key, m in pairs.items() for n, p in m.named_parameters()})
        expected = layer(expected)
    torch.testing.assert_close(ours(x), expected)


def test_one_batch_of_queries_serves_every_context_as_copies_of_it_do():
    block, x, context = moved(Block(16, 2, context_dim=6)), torch.randn(1, 5, 16), torch.randn(3, 4, 6)
    torch.testing.assert_close(block(x, context), block(x.expand(3, -1, -1), context))


def test_with_qk_norm_the_size_of_queries_and_keys_does_not_matter():
    attention = moved(TokenAttention(16, 2, qk_norm=True)).double()
    x = torch.randn(3, 7, 16, dtype=torch.float64)
    before = attention(x)
    plain = moved(TokenAttention(16, 2)).double()
    for each in (attention, plain):
        with torch.no_grad():
            each.to_qkv.weight[:32] *= 50
            each.to_qkv.bias[:32] *= 50
    torch.testing.assert_close(attention(x), before, rtol=1e-4, atol=1e-4)  # but for the norm's epsilon
    assert not torch.allclose(plain(x), before)


def test_swiglu_is_a_gated_silu_of_about_as_many_weights():
    mlp, x = moved(TokenMLP(48, 4.0, "swiglu")), torch.randn(2, 3, 48)
    (gate, value), (a, b) = mlp.inner.weight.chunk(2), mlp.inner.bias.chunk(2)
    g = x @ gate.T + a
    expected = (g * g.sigmoid() * (x @ value.T + b)) @ mlp.outer.weight.T + mlp.outer.bias
    torch.testing.assert_close(mlp(x), expected)
    sizes = [sum(p.numel() for p in m.parameters() if p.ndim > 1) for m in (mlp, TokenMLP(48, 4.0, "gelu"))]
    assert sizes[0] == sizes[1]  # 3·128 = 2·192


@pytest.mark.parametrize("args", [{}, MODERN])
def test_checkpointing_changes_neither_result_nor_gradient(args):
    x = torch.rand(2, 3, 9, 14)
    found = []
    for checkpoint in (False, True):
        torch.manual_seed(1)
        part = encoder("vit", checkpoint=checkpoint, **args)
        h = part(x)
        h.square().sum().backward()
        found.append([h, *(p.grad for p in part.parameters())])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


# -- patches -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch", [1, 2, 3])
def test_patches_put_together_are_the_data(size, patch):
    x, sides = torch.rand(2, 3, *size), (patch,) * len(size)
    y = unpatchify(patchify(x, sides), grid_of(size, sides), sides)
    assert torch.equal(y[(..., *(slice(s) for s in size))], x)
    assert y.shape[2:] == tuple(-(-s // patch) * patch for s in size)


@pytest.mark.parametrize("size", [(12,), (8, 12), (4, 8, 12)])
def test_embedded_patches_are_a_convolution_whose_stride_is_its_kernel(size):
    patch = (2, 4, 4)[-len(size) :]
    embed, conv = ToTokens(3, patch, 5), CONVOLUTIONS[len(size)](3, 5, patch, stride=patch)
    conv.load_state_dict({"weight": embed.project.weight.unflatten(1, (3, *patch)), "bias": embed.project.bias})
    x = torch.rand(2, 3, *size)
    torch.testing.assert_close(embed(x), conv(x).flatten(2).mT)


@pytest.mark.parametrize("size", [(12,), (8, 12), (4, 8, 12)])
def test_pixels_of_tokens_are_a_transposed_convolution_whose_stride_is_its_kernel(size):
    patch = (2, 4, 4)[-len(size) :]
    grid, rank = grid_of(size, patch), len(size)
    out = FromTokens(5, (3, *size), patch, smooth=False)
    nn.init.zeros_(out.project.bias)  # the convolution has one bias per channel, not per pixel of a patch
    h = torch.randn(2, 5, *grid)
    weight = out.project.weight.T.unflatten(1, (3, *patch))
    expected = getattr(F, f"conv_transpose{rank}d")(h, weight, stride=patch)
    torch.testing.assert_close(out(h.flatten(2).mT, grid), expected)


def test_odd_sides_are_padded_with_their_last_values():
    x = torch.rand(2, 3, 9, 14)
    filled = x[:, :, [*range(9), 8, 8, 8]][..., [*range(14), 13, 13]]
    assert torch.equal(patchify(x, (4, 4)), patchify(filled, (4, 4)))


@pytest.mark.parametrize(
    ("size", "expected"), [((256, 256), 16), ((28, 28), 2), ((16, 16), 1), ((17, 5), 2), ((64, 64), 4), ((1000,), 64)]
)
def test_without_a_patch_the_longest_side_has_at_most_16_of_them_and_more_than_8(size, expected):
    patch = patch_sides(size, None)
    assert patch == (expected,) * len(size)
    assert 8 < max(grid_of(size, patch)) <= 16


def test_a_short_side_has_no_patch_larger_than_itself():
    assert patch_sides((3, 1024), None) == (3, 64)


def test_the_latents_map_says_how_large_a_patch_is():
    assert patch_sides((9, 14), None, grid=(5, 7)) == (2, 2)
    assert patch_sides((8, 32), None, grid=(8, 8)) == (1, 4)
    assert encoder("vit", (3, 9, 14), (4, 3, 7))(torch.rand(2, 3, 9, 14)).shape == (2, 16, 3, 7)


# -- positions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(11,), (4, 6), (3, 4, 5)])
def test_the_product_of_two_sincos_positions_tells_how_far_they_are_apart_and_nothing_else(size):
    width, rank = 26, len(size)
    table = sincos(size, width).double()
    places = torch.cartesian_prod(*[torch.arange(s) for s in size]).reshape(-1, rank)
    n = width // (2 * rank)
    omega = 10_000.0 ** -(torch.arange(n) / n).double()
    apart = places[:, None] - places[None]
    torch.testing.assert_close(table @ table.T, (apart[..., None] * omega).cos().sum((2, 3)), rtol=1e-5, atol=1e-5)


def test_fourier_features_are_sines_and_cosines_of_the_middles_of_cells():
    table = fourier((2, 3), (1.0, 1.5), bands=2)
    u, v = -0.5, 2 / 3  # the middles of the first of two and of the last of three cells of (-1, 1)
    f = torch.tensor([u, u, v, v]) * torch.pi * torch.tensor([1, 1, 1, 1.5])
    expected = torch.cat([f[:2].sin(), f[:2].cos(), torch.tensor([u]), f[2:].sin(), f[2:].cos(), torch.tensor([v])])
    torch.testing.assert_close(table[2], expected)


def test_fourier_positions_keep_their_frequencies_at_another_size():
    coarse, fine = FourierPositions((3, 4), 5), FourierPositions((9, 12), 5)
    table = coarse((9, 12)).unflatten(0, (9, 12))
    torch.testing.assert_close(table[1::3, 1::3].flatten(0, 1), coarse((3, 4)))
    assert not torch.allclose(fine((9, 12)).unflatten(0, (9, 12)), table)


@pytest.mark.parametrize("size", [(4,), (4, 6), (2, 3, 4)])
def test_learned_positions_are_interpolated_to_other_sizes(size):
    positions = Positions(size, 2, "learned")
    places = [2 * torch.arange(s) + 1.0 for s in size]  # middles of cells: linear interpolation keeps a linear table
    linear = torch.stack(torch.meshgrid(*places, indexing="ij")).sum(0).flatten()
    with torch.no_grad():
        positions.table[:, 0], positions.table[:, 1] = linear, 1.0
    twice = positions(tuple(2 * s for s in size))
    expected = torch.stack(torch.meshgrid(*[torch.arange(2 * s) + 0.5 for s in size], indexing="ij")).sum(0)
    inner = (slice(1, -1),) * len(size)  # beyond the outermost middles it is flat
    torch.testing.assert_close(twice[:, 0].unflatten(0, expected.shape)[inner], expected[inner])
    torch.testing.assert_close(twice[:, 1], torch.ones(len(twice)))
    assert positions(size) is positions.table


# -- tokens have no order ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["latent_query_vit", "perceiver"])
def test_permuted_latent_queries_permute_the_encoders_outputs(name):
    part, x, order = encoder(name), torch.rand(2, 3, 9, 14), torch.tensor([2, 0, 3, 1])
    before = part(x)
    with torch.no_grad():
        part.queries.copy_(part.queries[..., order, :])
    torch.testing.assert_close(part(x), before[..., order])
    assert not torch.allclose(before, before[..., order])


@pytest.mark.parametrize("name", ["latent_query_vit", "perceiver"])
def test_permuted_tokens_with_their_places_decode_to_the_same(name):
    part, z, order = decoder(name, (5, 4)), torch.randn(2, 5, 4), torch.tensor([2, 0, 3, 1])
    before = part(z)
    assert not torch.allclose(part(z[..., order]), before)
    with torch.no_grad():
        part.tokens.place.weight.copy_(part.tokens.place.weight[order])
    torch.testing.assert_close(part(z[..., order]), before)


@pytest.mark.parametrize("shape", [(6,), (2, 11), (3, 9, 14), (1, 5, 6, 7)])
def test_a_perceiver_reads_its_inputs_in_any_order(shape):
    part, x = encoder("perceiver", shape), torch.rand(2, *shape)
    inputs = part.inputs(x)
    order = torch.randperm(inputs.shape[1])
    torch.testing.assert_close(part.attend(inputs[:, order]), part(x))
    alone = inputs.clone()  # the values without their positions
    alone[..., : -part.positions.features] = alone[:, order, : -part.positions.features]
    assert not torch.allclose(part.attend(alone), part(x))


def test_a_perceiver_answers_each_position_by_itself():
    part, z = decoder("perceiver", (5, 4), (3, 4, 6)), torch.randn(2, 5, 4)
    fine = part(z, size=(12, 18))  # whose every third middle is one of the coarse grid
    torch.testing.assert_close(fine[..., 1::3, 1::3], part(z))


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", SMALL)
def test_tokens_of_a_condition_have_no_order_and_can_be_left_out(kind, name):
    part = {"encoder": encoder, "decoder": decoder}[kind](name, cond_dim=6)
    given = torch.rand(2, 3, 9, 14) if kind == "encoder" else torch.randn(2, 5)
    cond = torch.randn(2, 3, 6)
    y = part(given, cond)
    torch.testing.assert_close(part(given, cond.flip(1)), y)
    assert not torch.allclose(part(given, cond[:, :2]), y)
    plain = {"encoder": encoder, "decoder": decoder}[kind](name)
    plain.load_state_dict({k: v for k, v in part.state_dict().items() if not k.startswith("cond.")})
    torch.testing.assert_close(part(given), plain(given))


# -- sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("other", [(3, 12, 10), (3, 7, 20), (3, 9, 13)])
def test_an_encoder_at_another_size_is_the_one_that_was_made_for_it(name, other):
    args = {} if name == "perceiver" else {"patch": 2}
    part = encoder(name, (3, 9, 14), **args)
    twin = encoder(name, other, **args)
    twin.load_state_dict(part.state_dict())
    if name == "perceiver":  # whose frequencies belong to the size that it was made for
        twin.positions = part.positions
    x = torch.rand(2, *other)
    torch.testing.assert_close(part(x), twin(x))


@pytest.mark.parametrize("positions", ["sincos", "learned"])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_vit_goes_there_and_back_at_other_sizes(positions, rank):
    shape, latent, other = (2, *(8, 12, 6)[:rank]), (3, *(4, 6, 3)[:rank]), (2, *(12, 8, 10)[:rank])
    there, back = encoder("vit", shape, latent, positions=positions), decoder("vit", latent, shape, positions=positions)
    h = there(torch.rand(2, *other))
    assert h.shape == (2, 16, *(s // 2 for s in other[1:]))
    assert back(h[:, :3]).shape == (2, *other)
    assert back(torch.randn(2, *latent)).shape == (2, *shape)


def test_vit_decoder_at_another_size_is_the_one_that_was_made_for_it():
    part, twin = decoder("vit", (4, 4, 6), (3, 8, 12)), decoder("vit", (4, 5, 3), (3, 10, 6))
    twin.load_state_dict(part.state_dict())
    z = torch.randn(2, 4, 5, 3)
    torch.testing.assert_close(part(z), twin(z))


@pytest.mark.parametrize("name", ["vit", "latent_query_vit"])
def test_an_odd_size_is_cut_from_the_next_whole_one(name):
    latent = (4, 3, 4) if name == "vit" else (4, 5)
    odd, whole = decoder(name, latent, (3, 9, 14), patch=4), decoder(name, latent, (3, 12, 16), patch=4)
    whole.load_state_dict(odd.state_dict())
    z = torch.randn(2, *latent)
    assert torch.equal(odd(z), whole(z)[..., :9, :14])


def test_a_model_with_a_map_takes_other_sizes():
    vae = vaekit.build("vit_vae", latent=(4, 8, 8), input_shape=(3, 32, 32), **TINY)
    x = torch.rand(2, 3, 24, 40)
    assert vae.any_size and vae.reconstruct(x).shape == x.shape
    assert torch.isfinite(vae.loss(x).total)


def test_data_smaller_than_a_patch_are_refused():
    with pytest.raises(ValueError, match=r"data: expected sides of at least 8×8, those of a patch; got 9×7"):
        encoder("vit", (3, 9, 7), patch=8)
    part = encoder("vit", (3, 9, 14), patch=4)
    with pytest.raises(ValueError, match=r"data: expected sides of at least 4×4.*got 3×20"):
        part(torch.rand(2, 3, 3, 20))


@pytest.mark.parametrize(
    ("match", "make"),
    [
        (r"latent: expected a map of as many.*4×4; patches of 3×4 cut .* into 3×4", lambda: encoder("vit", (3, 9, 14), (2, 4, 4))),
        (r"latent: expected a map of .*4×7; patches of 2×2 .* Set latent=\(c, 5, 7\)", lambda: encoder("vit", (3, 9, 14), (2, 4, 7), patch=2)),
        (r"patch: expected a positive side, or 2 of them, got 0", lambda: encoder("vit", patch=0)),
        (r"patch: expected a positive side, or 2 of them, got \(1, 2, 3\)", lambda: encoder("vit", patch=(1, 2, 3))),
        (r"heads: expected a number that divides width=16, got 3", lambda: encoder("vit", heads=3)),
        (r"depth: expected at least 0 blocks, got -1", lambda: encoder("vit", depth=-1)),
        (r"mlp_ratio: expected a positive number, got 0.0", lambda: encoder("vit", mlp_ratio=0.0)),
        (r"width: expected at least 4 for sines and cosines of 2", lambda: encoder("vit", width=2)),
        (r"pool: 'mean' makes one vector .* latent=\(4, 3, 7\) is a map", lambda: encoder("vit", latent=(4, 3, 7), pool="mean")),
        (r"latent: \(4, 6\) is a map of 1 dimensions, and the data have 2", lambda: decoder("vit", (4, 6))),
        (r"tokens: 4 contradicts latent=\(5, 6\)", lambda: encoder("latent_query_vit", latent=(5, 6))),
        (r"latent: expected a row of tokens \(c, K\).*map \(5, 2, 2\)", lambda: encoder("perceiver", latent=(5, 2, 2))),
        (r"tokens: expected at least 1, got 0", lambda: encoder("perceiver", tokens=0)),
        (r"tokens: expected at least 1, got 0", lambda: decoder("perceiver", tokens=0)),
        (r"tokens: expected at least 1, got 0", lambda: decoder("latent_query_vit", tokens=0)),
        (r"bands: expected at least 1 frequency", lambda: decoder("perceiver", bands=0)),
        (r"size: tabular data have no other size", lambda: decoder("perceiver", (5,), (6,))(torch.randn(1, 5), size=(3,))),
    ],
)  # fmt: skip
def test_what_makes_no_network_is_refused(match, make):
    with pytest.raises(ValueError, match=match):
        make()


# -- every part ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["encoder", "decoder"])
@pytest.mark.parametrize("name", SMALL)
def test_a_part_obeys_every_law(kind, name):
    check(kind, name, **SMALL[name])


VARIANTS = [
    ("vit", (5,), {}),
    ("vit", (5, 9, 14), {}),
    ("vit", (5,), {**MODERN, "positions": "learned"}),
    ("vit", (5,), {"pool": "mean"}),
    ("vit", (5,), {"pool": "token", "checkpoint": True}),
    ("vit", (5, 5, 7), {"smooth": True}),
    ("latent_query_vit", (5, 4), {}),
    ("latent_query_vit", (5,), {**MODERN, "positions": "learned", "smooth": True}),
    ("perceiver", (5, 4), {}),
    ("perceiver", (5,), {**MODERN, "checkpoint": True}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "latent", "args"), VARIANTS)
def test_a_gradient_reaches_every_parameter(name, latent, args, dtype):
    pairs = ((encoder, {"smooth"}), (decoder, {"pool"}))
    parts = [make(name, latent=latent, cond_dim=6, **{k: v for k, v in args.items() if k not in not_its}).to(dtype)
             for make, not_its in pairs]  # fmt: skip
    x, z, cond = (t.to(dtype) for t in (torch.rand(2, 3, 9, 14), torch.randn(2, *latent), torch.randn(2, 3, 6)))
    for part, given in zip(parts, (x, z), strict=True):
        y = part(given, cond)
        assert y.dtype == dtype
        (y * torch.randn_like(y)).sum().backward()
        for key, p in part.named_parameters():
            assert p.grad is not None and p.grad.any() and p.grad.isfinite().all(), key


@pytest.mark.parametrize("name", SMALL)
def test_half_precision_gives_about_the_numbers_of_single(name):
    part, x = encoder(name), torch.rand(2, 3, 9, 14)
    expected = part(x)
    found = part.to(torch.bfloat16)(x.to(torch.bfloat16)).float()
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("name", SMALL)
def test_a_decoder_has_no_way_to_be_given_x(name):
    assert set(inspect.signature(vaekit.decoder[name].forward).parameters) - {"size"} == {"self", "z", "cond"}


def test_what_a_vector_latent_reads_of_a_vit():
    x = torch.rand(2, 3, 9, 14)
    torch.manual_seed(3)
    whole = encoder("vit")
    torch.manual_seed(3)
    mean = encoder("vit", pool="mean")
    torch.testing.assert_close(mean(x), whole(x).flatten(2).mean(2))
    token = encoder("vit", pool="token")
    before = token(x)
    assert before.shape == (2, 16)
    with torch.no_grad():
        token.token += torch.randn(16)
    assert not torch.allclose(token(x), before)
    alone = encoder("vit", pool="token", depth=0)  # without blocks nothing of x reaches the token
    torch.testing.assert_close(alone(x), alone.norm(alone.token)[0].expand(2, -1))


def test_without_blocks_a_place_of_a_vit_knows_its_own_patch_and_where_it_is():
    there, back = encoder("vit", (3, 8, 12), (4, 4, 6), depth=0), decoder("vit", (4, 4, 6), (3, 8, 12), depth=0)
    x, z = torch.rand(1, 3, 8, 12, requires_grad=True), torch.randn(1, 4, 4, 6, requires_grad=True)
    there(x)[..., 1, 4].square().sum().backward()
    back(z)[..., 2:4, 8:10].square().sum().backward()
    own_x, own_z = torch.zeros(8, 12, dtype=torch.bool), torch.zeros(4, 6, dtype=torch.bool)
    own_x[2:4, 8:10], own_z[1, 4] = True, True
    assert torch.equal(x.grad[0].abs().sum(0) > 0, own_x)
    assert torch.equal(z.grad[0].abs().sum(0) > 0, own_z)
    for y in (there(torch.ones(1, 3, 8, 12)).flatten(2), patchify(back(torch.ones(1, 4, 4, 6)), (2, 2)).mT):
        assert (torch.cdist(y.mT, y.mT)[0] + torch.eye(24) > 1e-3).all()


def test_a_perceivers_inputs_are_the_values_beside_their_positions():
    part, x = encoder("perceiver", (3, 4, 6)), torch.rand(2, 3, 4, 6)
    inputs = part.inputs(x).unflatten(1, (4, 6))
    assert torch.equal(inputs[:, 2, 5, :3], x[:, :, 2, 5])
    torch.testing.assert_close(inputs[0, 2, 5, 3:], fourier((4, 6), (2.0, 3.0), 4).unflatten(0, (4, 6))[2, 5])


# -- recipes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "w", "depth", "tokens"), [("S", 512, 8, 128), ("B", 768, 12, 64), ("L", 1024, 24, 32)]
)
def test_titok_has_the_parameters_that_its_sizes_say(size, w, depth, tokens):
    spec = vaekit.recipe["titok"](size=size)
    assert spec.args["latent"] == (12, tokens)
    blocks = depth * (12 * w * w + 13 * w)  # qkv and out 4w² + 4w, MLP 8w² + 5w, two norms 4w
    patches, norms = 16 * 16 * 3, 4 * w
    shared = blocks + norms + 256 * w + tokens * w  # a position per patch, a query or place per token
    with torch.device("meta"):
        there = vaekit.encoder["latent_query_vit"]((3, 256, 256), (12, tokens), **spec.args["encoder"].args)
        back = vaekit.decoder["latent_query_vit"]((12, tokens), (3, 256, 256), **spec.args["decoder"].args)
    count = [sum(p.numel() for p in part.parameters()) for part in (there, back)]
    assert count[0] == shared + (patches * w + w)
    mask, codes, smooth = w, 12 * w + w, 3 * 3 * 9 + 3
    assert count[1] == shared + mask + codes + (w * patches + patches) + smooth


@pytest.mark.parametrize("shape", [(3, 64, 64), (1, 28, 28), (3, 20, 33), (2, 50), (1, 9, 10, 11)])
def test_titok_gives_a_row_of_unit_codes_for_any_size(shape):
    vae = vaekit.build("titok", input_shape=shape, tokens=6, codebook_size=32, **TINY)
    level = vae.encode(torch.rand(3, *shape))
    assert level.index.shape == (3, 6) and level.z.shape == (3, 12, 6)
    torch.testing.assert_close(level.z.norm(dim=1), torch.ones(3, 6))
    assert vae.sample(2).shape == (2, *shape)


def test_titok_at_256_has_patches_of_16():
    spec = vaekit.recipe["titok"]()
    with torch.device("meta"):
        part = vaekit.encoder["latent_query_vit"]((3, 256, 256), (12, 128), **spec.args["encoder"].args)
    assert part.patch == (16, 16)


def test_titok_refuses_what_it_can_not_be():
    with pytest.raises(vaekit.BuildError, match=r"recipe 'titok': tokens: 4 contradicts latent=\(12, 8\)"):
        vaekit.build("titok", latent=(12, 8), tokens=4)


@pytest.mark.parametrize(("name", "args"), [("titok", {**TINY, "tokens": 4, "codebook_size": 8}), ("vit_vae", TINY)])
def test_a_recipe_obeys_every_law(name, args):
    check("recipe", name, **args)
