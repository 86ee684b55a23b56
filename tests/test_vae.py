"""What one does with a model."""

import huggingface_hub
import pytest
import torch

import vaekit
from tests.networks import DiagonalFit
from vaekit import use
from vaekit.walks import slerp


@pytest.fixture
def vae():
    return vaekit.build("mlp", latent=3, input_shape=(1, 4, 5), hidden=(16,))


@pytest.fixture
def x():
    return torch.rand(6, 1, 4, 5)


def test_a_pass_gives_an_output_with_distributions(vae, x):
    out = vae(x, sample_shape=(7, 2))
    (level,) = out.levels
    assert out.z.shape == level.z.shape == (7, 2, 6, 3) and out.y.shape == (7, 2, 6, 1, 4, 5)
    assert level.q.batch_shape == (6,) and level.q.event_shape == level.p.event_shape == (3,)
    assert out.p_x.batch_shape == (7, 2, 6) and out.p_x.event_shape == (1, 4, 5)
    assert out.log_weight().shape == (7, 2, 6)


def test_encode_draws_one_or_many_and_its_mode_stays(vae, x):
    level = vae.encode(x)
    assert level.z.shape == (6, 3) and vae.encode(x, n=5).z.shape == (5, 6, 3)
    assert torch.equal(level.mode, vae.encode(x).mode) and not torch.equal(level.z, vae.encode(x).z)


def test_decode_and_predict_take_leading_draws(vae):
    z = torch.randn(2, 5, 6, 3)
    assert vae.decode(z).shape == (2, 5, 6, 1, 4, 5)
    torch.testing.assert_close(vae.decode(z)[1, 2], vae.predict(z[1, 2]).mean)


def test_reconstruct_is_the_decoded_mode_and_leaves_the_mode_of_training_alone(vae, x):
    vae.encoder.eval()
    torch.testing.assert_close(vae.reconstruct(x), vae.decode(vae.encode(x).mode))
    assert vae.training and vae.decoder.training and not vae.encoder.training
    assert not torch.equal(vae.reconstruct(x, sample=True), vae.reconstruct(x, sample=True))


def test_helpers_run_in_evaluation_mode():
    vae = vaekit.build("mlp", latent=2, input_shape=(1, 4, 4), encoder={"dropout": 0.5}, decoder={"dropout": 0.5})
    x = torch.rand(3, 1, 4, 4)
    assert vae.training and torch.equal(vae.reconstruct(x), vae.reconstruct(x))


def test_samples_come_from_the_generator_and_leave_the_global_state_alone(vae):
    g = torch.Generator()
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    a, b = vae.sample(4, generator=g.manual_seed(7)), vae.sample(4, generator=g.manual_seed(7))
    c = vae.sample(4, generator=g)
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(before, torch.random.get_rng_state())


def test_temperature_scales_the_spread_of_z(vae):
    g = torch.Generator()
    linear = vae.decoder
    zs = []
    linear.register_forward_pre_hook(lambda module, args: zs.append(args[0]))
    for t in (1.0, 0.5):
        vae.sample(5, temperature=t, generator=g.manual_seed(0))
    torch.testing.assert_close(zs[1], 0.5 * zs[0])


def test_interpolation_starts_and_ends_at_the_reconstructions(vae, x):
    for path in ("linear", "slerp"):
        steps = vae.interpolate(x[:2], x[2:4], steps=5, path=path)
        assert steps.shape == (5, 2, 1, 4, 5)
        torch.testing.assert_close(steps[0], vae.reconstruct(x[:2]))
        torch.testing.assert_close(steps[-1], vae.reconstruct(x[2:4]))


def test_slerp_keeps_the_norm_and_halves_the_angle():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    torch.testing.assert_close(slerp(a, b, torch.tensor([[0.5]])), torch.tensor([[3.0, 3.0]]) / 2**0.5)
    torch.testing.assert_close(slerp(a, a, torch.tensor([[0.5]])), a)


def test_traversal_changes_one_dimension_at_a_time(vae, x):
    seen = []
    vae.decoder.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    out = vae.traverse(x[:2], dims=[2, 0], steps=3, span=2.0)
    assert out.shape == (2, 3, 2, 1, 4, 5)
    z, mode = seen[0].reshape(2, 3, 2, 3), vae.encode(x[:2]).mode
    torch.testing.assert_close(z[0, :, :, 2], torch.tensor([-2.0, 0.0, 2.0])[:, None].expand(3, 2))
    torch.testing.assert_close(z[0, :, :, :2], mode[None, :, :2].expand(3, 2, 2))
    torch.testing.assert_close(z[1, :, :, 1:], mode[None, :, 1:].expand(3, 2, 2))


def test_a_map_latent_serves_everywhere():
    vae = vaekit.build("conv", latent=(2, 3, 4), input_shape=(1, 6, 8), width=8)
    x = torch.rand(2, 1, 6, 8)
    assert vae.interpolate(x, x, steps=3, path="slerp").shape == (3, 2, 1, 6, 8)
    assert vae.traverse(x, steps=2).shape == (10, 2, 2, 1, 6, 8)
    assert vae.log_prob(x, n=10).shape == (2,) and vae.elbo(x).shape == (2,)


def test_a_condition_reaches_every_helper():
    vae = vaekit.build("conditional_vae", latent=2, input_shape=(1, 6, 6), classes=3)
    x, cond = torch.rand(4, 1, 6, 6), torch.tensor([0, 1, 2, 0])
    for result in (
        vae.reconstruct(x, cond), vae.sample(4, cond), vae.decode(torch.randn(4, 2), cond),
        vae.interpolate(x, x, 3, cond)[0], vae.traverse(x, [0], 2, cond=cond)[0, 0],
    ):  # fmt: skip
        assert result.shape == x.shape
    assert vae.log_prob(x, 5, cond).shape == vae.elbo(x, 2, cond).shape == vae.encode(x, cond=cond).z.shape[:1]


def test_condition_dropout_hides_labels_in_training_only():
    condition = vaekit.condition["class"](classes=3, dim=4, dropout=0.5)
    labels = torch.zeros(2000, dtype=torch.long)
    hidden = (condition(labels, 2000) == condition(None, 2000)).all(-1).float().mean()
    assert 0.45 < hidden < 0.55
    assert not (condition.eval()(labels, 2000) == condition(None, 2000)).all(-1).any()


def test_other_precisions_work(x):
    for dtype in (torch.float64, torch.bfloat16):
        vae = vaekit.build("conv", latent=3, input_shape=(1, 4, 5), width=8).to(dtype)
        report = vae.loss(x)
        report.total.backward()
        assert torch.isfinite(report.total) and vae.sample(2).dtype == (
            dtype if dtype == torch.float64 else torch.float32
        )


def test_autocast_keeps_the_likelihood_in_single_precision(vae, x):
    with torch.autocast("cpu", torch.bfloat16):
        out = vae(x)
    assert out.y.dtype == out.z.dtype == out.p_x.log_prob(x).dtype == torch.float32


def test_slightly_different_inputs_give_the_same_result(vae, x):
    expected = vae.reconstruct(x)
    for other in (x.double(), x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2), x.clone().requires_grad_()):
        torch.testing.assert_close(vae.reconstruct(other), expected)


def test_a_fitted_prior_takes_the_place_of_the_old_one_and_is_saved(vae, x, tmp_path):
    data = [(batch, None) for batch in torch.rand(40, 5, 1, 4, 5)]
    assert vae.fit_prior("tests.networks:DiagonalFit", data, smallest=1e-4) is vae
    z = torch.cat([vae.encode(b).mode for b, _ in data])
    torch.testing.assert_close(vae.prior.loc, z.mean(0), rtol=0, atol=0.3)
    assert isinstance(vae.prior, DiagonalFit) and vae.spec.args["prior"].args == {"smallest": 1e-4}
    vae.save_pretrained(tmp_path)
    again = vaekit.load(tmp_path, trust=True)
    torch.testing.assert_close(again.prior.loc, vae.prior.loc)
    torch.testing.assert_close(again.prior.scale, vae.prior.scale)


def test_a_prior_without_fit_is_refused(vae, x):
    with pytest.raises(TypeError, match="prior 'standard' has no `fit`: give it to vaekit.build"):
        vae.fit_prior("standard", x)
    with pytest.raises(ValueError, match="data is empty"):
        vae.fit_prior(use("tests.networks:DiagonalFit"), [])


def test_a_report_prints_its_terms(vae, x):
    assert "nll" in str(vae.loss(x)) and "kl" in str(vae.loss(x))


def test_pushing_uploads_the_saved_files_and_a_card(vae, x, monkeypatch):
    seen = {}

    class Api:
        def __init__(self, token):
            seen["token"] = token

        def create_repo(self, repo_id, private, exist_ok):
            seen["repo"] = (repo_id, private, exist_ok)

        def upload_folder(self, repo_id, folder_path, commit_message):
            import pathlib

            seen["files"] = sorted(p.name for p in pathlib.Path(folder_path).iterdir())
            seen["card"] = pathlib.Path(folder_path, "README.md").read_text()
            seen["model"] = vaekit.load(folder_path)
            return "the commit"

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert vae.push_to_hub("someone/digits", private=True, token="t") == "the commit"
    assert seen["files"] == ["README.md", "model.safetensors", "spec.json"] and seen["token"] == "t"
    assert seen["repo"] == ("someone/digits", True, True) and 'vaekit.load("someone/digits")' in seen["card"]
    assert "x ─► encoder" in seen["card"] and seen["model"].spec == vae.spec
    assert f"shape `({', '.join(map(str, vae.input_shape))})`" in seen["card"] and "{kingma2014," in seen["card"]
    code = seen["card"].split("```python\n")[1].split("```")[0].replace("vaekit.load", "(lambda _: vae)")
    made = {"vae": vae, "x": x}
    exec(code, made)
    assert made["x_again"].shape == x.shape and len(made["x_new"]) == 8


def test_a_repository_on_the_hub_is_loaded_from_its_snapshot(vae, x, tmp_path, monkeypatch):
    vae.save_pretrained(tmp_path)
    asked = []
    monkeypatch.setattr("vaekit.saving.unanswered_by_hub", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **_: asked.append(repo) or str(tmp_path))
    torch.testing.assert_close(vaekit.load("someone/digits").reconstruct(x), vae.reconstruct(x))
    assert asked == ["someone/digits"]


def test_without_a_network_the_cache_is_taken_or_missed_soon(vae, x, tmp_path, monkeypatch):
    repository = tmp_path / "models--someone--digits"
    vae.save_pretrained(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    client, alone = huggingface_hub.snapshot_download, []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda *a, **k: alone.append(k["local_files_only"]) or client(*a, **k)
    )
    torch.testing.assert_close(vaekit.load("someone/digits").reconstruct(x), vae.reconstruct(x))
    with pytest.raises(vaekit.CheckpointError, match=r"someone/else: is no folder .*refused.*, and its cache does not"):
        vaekit.load("someone/else")
    assert alone == [True, True], "the client itself would try for a minute and more"


def test_a_repository_that_can_not_be_had_and_a_folder_that_is_not_there(tmp_path, monkeypatch):
    def unreachable(*_, **__):
        raise OSError("no route")

    monkeypatch.setattr("vaekit.saving.unanswered_by_hub", lambda: None)
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(vaekit.CheckpointError, match=r"someone/digits: is no folder here, .*hub \(no route\)"):
        vaekit.load("someone/digits")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(vaekit.CheckpointError, match=r"runs/best/model\.safetensors: not found"):
        vaekit.load("runs/best")
