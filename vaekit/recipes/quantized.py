"""Latents that are codes."""

from collections.abc import Mapping, Sequence

from vaekit.kinds import recipe
from vaekit.recipes.plain import DataRange, Latent, code_map, plain
from vaekit.spec import Spec, term, use


def _coded(
    latent: Latent,
    input_shape: Sequence[int],
    data_range: DataRange,
    sampler: Spec,
    penalties: Mapping[str, float] | None = None,
) -> Spec:
    """The plain VAE with codes of equal probability, whose KL is a constant; the sampler's penalties are terms."""
    terms = [term(name, weight=weight) for name, weight in (penalties or {}).items()]
    return plain(latent, input_shape, data_range, sampler=sampler, prior=use("uniform"), loss=(term("nll"), *terms))


@recipe("categorical_vae", cite="jang2017")
def categorical_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    categories: int = 10,
    temperature: float = 1.0,
    anneal: float = 3e-5,
) -> Spec:
    """q(z|x) is a product of categoricals, relaxed in training by Gumbel-softmax.

    Args:
        latent: how many categoricals, or a map `(c, *t)` of them.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        categories: length of each one-hot vector.
        temperature: of the relaxation, at the first step.
        anneal: the temperature falls as exp(-anneal · step), to 0.5 at the least.

    References:
        Categorical Reparameterization with Gumbel-Softmax (Jang et al., 2017), https://arxiv.org/abs/1611.01144
    """
    shape = latent * categories if isinstance(latent, int) else (latent[0] * categories, *latent[1:])
    sampler = use("gumbel_softmax", categories=categories, temperature=temperature, anneal=anneal)
    return plain(shape, input_shape, data_range, sampler=sampler, prior=use("uniform"))


@recipe("vq_vae", cite="oord2017")
def vq_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    codebook_size: int = 512,
    commitment: float = 0.25,
    depth: int = 2,
) -> Spec:
    """Each place of z is the nearest vector of a learned codebook.

    To generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        latent: channels of a code, or the whole map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        codebook_size: number of vectors.
        commitment: weight of the encoder's distance from its code.
        depth: halvings from the data to the codes, where latent is an int.

    References:
        Neural Discrete Representation Learning (van den Oord et al., 2017), https://arxiv.org/abs/1711.00937
    """
    shapes = code_map(latent, input_shape, depth), input_shape, data_range
    return _coded(*shapes, use("vq", codebook_size=codebook_size), {"commitment": commitment})


@recipe("rvq_vae", cite=("zeghidour2021", "lee2022"))
def rvq_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    stages: int = 4,
    codebook_size: int = 256,
    commitment: float = 0.25,
    depth: int = 2,
) -> Spec:
    """Each place of z is a sum of codes, each of what those before it left over.

    To generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        latent: channels of a code, or the whole map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        stages: codes per place.
        codebook_size: vectors of each stage.
        commitment: weight of the encoder's distance from its codes.
        depth: halvings from the data to the codes, where latent is an int.

    References:
        SoundStream (Zeghidour et al., 2021), https://arxiv.org/abs/2107.03312; Autoregressive Image Generation
        using Residual Quantization (Lee et al., 2022), https://arxiv.org/abs/2203.01941
    """
    shapes = code_map(latent, input_shape, depth), input_shape, data_range
    return _coded(*shapes, use("residual_vq", depth=stages, codebook_size=codebook_size), {"commitment": commitment})


@recipe("hrq_vae", cite="hosking2023")
def hrq_vae(
    *,
    latent: Latent = 16,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    stages: int = 3,
    codebook_size: int = 64,
    dropout: float = 0.3,
    commitment: float = 0.25,
    depth: int = 2,
) -> Spec:
    """A residual quantizer whose later codes are sometimes left out in training, so that codes go from coarse to fine.

    The paper's depth dropout on nearest codes: its encoder draws codes by Gumbel-softmax, with a KL term and a term on
    the codes' norms, which are not here.

    Args:
        latent: channels of a code, or the whole map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        stages: codes per place.
        codebook_size: vectors of each stage.
        dropout: chance, in training, that the codes after a random stage are left out.
        commitment: weight of the encoder's distance from its codes.
        depth: halvings from the data to the codes, where latent is an int.

    References:
        Attributable and Scalable Opinion Summarization (Hosking et al., 2023), https://arxiv.org/abs/2305.11603
    """
    shapes = code_map(latent, input_shape, depth), input_shape, data_range
    return _coded(
        *shapes,
        use("residual_vq", depth=stages, codebook_size=codebook_size, dropout=dropout),
        {"commitment": commitment},
    )


@recipe("fsq_vae", cite="mentzer2024")
def fsq_vae(
    *,
    latent: Latent = 4,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    levels: Sequence[int] | None = None,
    depth: int = 2,
) -> Spec:
    """Each channel of z is rounded to a few levels: a codebook without vectors to learn, and without a term.

    To generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        latent: channels of a code, or the whole map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        levels: values of each channel; None takes (8, 6, 5) for three channels, (8, 5, 5, 5) for four, and 5
            for each otherwise.
        depth: halvings from the data to the codes, where latent is an int.

    References:
        Finite Scalar Quantization: VQ-VAE Made Simple (Mentzer et al., 2024), https://arxiv.org/abs/2309.15505
    """
    channels = latent if isinstance(latent, int) else latent[0]
    levels = levels or {3: (8, 6, 5), 4: (8, 5, 5, 5)}.get(channels, (5,) * channels)
    shapes = code_map(latent, input_shape, depth), input_shape, data_range
    return _coded(*shapes, use("fsq", levels=levels))


@recipe("lfq_vae", cite="yu2024")
def lfq_vae(
    *,
    latent: Latent = 8,
    input_shape: Sequence[int] = (1, 28, 28),
    data_range: DataRange = (0.0, 1.0),
    commitment: float = 0.25,
    entropy: float = 0.1,
    depth: int = 2,
) -> Spec:
    """Each channel of z is its sign: 2^c codes without vectors to learn, kept in use by an entropy term.

    To generate, fit a prior over the codes after training: `vae.fit_prior("autoregressive", data)`.

    Args:
        latent: bits of a code, or the whole map `(c, *t)`.
        input_shape: the data's shape.
        data_range: smallest and largest value of the data; None for unbounded data.
        commitment: weight of the encoder's distance from its code.
        entropy: weight of sure codes, all of which are used.
        depth: halvings from the data to the codes, where latent is an int.

    References:
        Language Model Beats Diffusion: Tokenizer is Key to Visual Generation (Yu et al., 2024),
        https://arxiv.org/abs/2310.05737
    """
    shapes = code_map(latent, input_shape, depth), input_shape, data_range
    return _coded(*shapes, use("lfq"), {"commitment": commitment, "code_entropy": entropy})
