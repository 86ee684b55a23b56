"""Optimizers, schedules, players, moving average, accumulation, phases and precision, against loops and closed forms."""

import math
import warnings

import pytest
import torch

import vaekit
from vaekit import Trainer, term, use
from vaekit.device import networks_in, pick_memory_format, pick_precision
from vaekit.train import Callback
from vaekit.train.data import TensorBatches
from vaekit.train.schedules import Schedule

X = torch.rand(64, 6, generator=torch.Generator().manual_seed(0))


def model(**args):
    torch.manual_seed(0)
    return vaekit.build("mlp", latent=2, input_shape=(6,), **{"hidden": (8,), **args})


def adversarial():
    torch.manual_seed(0)
    return vaekit.build("adversarial_ae", latent=2, input_shape=(6,), encoder=use("mlp", hidden=(8,)))


def train(vae, data=X, val=None, **args):
    return Trainer(vae, data, val, **{"epochs": 2, "batch_size": 16, "device": "cpu", **args})


def weights(vae):
    return torch.cat([p.detach().flatten() for p in vae.parameters()])


def batches(epochs, size=16, seed=0):
    for e in range(1, epochs + 1):
        yield from (x for x, _ in TensorBatches(X, None, size, shuffle=True, seed=seed).epoch(e))


def by_hand(vae, optimizers, epochs=2, after=lambda: None):
    """The loop that one would write; `optimizers` are asked step by step, counted from 1."""
    torch.manual_seed(0)
    for i, x in enumerate(batches(epochs), 1):
        vae.zero_grad()
        vae.loss(x).total.backward()
        for optimizer in optimizers(i):
            optimizer.step()
        after()


class Watch(Callback):
    """What is seen after each step."""

    def __init__(self, look):
        self.look, self.seen = look, []

    def logged(self, trainer, values):
        self.seen.append(self.look(trainer))


# -- optimizers and players ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lion", "lamb", "timm.adamw", "adopt"])
def test_timms_optimizers_go_by_name_and_equal_timms(name):
    import timm.optim

    vae, twin = model(), model()
    train(vae, optimizer=use(name, weight_decay=0.1), lr=1e-3).fit()
    optimizer = timm.optim.create_optimizer_v2(
        list(twin.parameters()), opt=name[5:] if "." in name else name, lr=1e-3, weight_decay=0.1
    )
    by_hand(twin, lambda i: [optimizer])
    assert torch.equal(weights(vae), weights(twin))


def test_an_optimizers_arguments_reach_it():
    vae, twin = model(), model()
    train(vae, optimizer={"name": "sgd", "momentum": 0.9, "nesterov": True}, lr=0.01).fit()
    sgd = torch.optim.SGD(twin.parameters(), 0.01, momentum=0.9, nesterov=True, fused=True)
    by_hand(twin, lambda i: [sgd])
    assert torch.equal(weights(vae), weights(twin))


def test_parts_have_rates_of_their_own():
    vae, twin = model(), model()
    train(vae, lr={"encoder": 1e-2, "decoder": 1e-4, "decoder.body.layers.0.bias": 1e-1, "rest": 1e-3}).fit()
    names = dict(twin.named_parameters())
    rate = {
        name: 1e-2 if name.startswith("encoder.") else 1e-4 if name.startswith("decoder.") else 1e-3 for name in names
    }
    assert "decoder.body.layers.0.bias" in rate
    rate["decoder.body.layers.0.bias"] = 1e-1
    adam = torch.optim.Adam([{"params": [p], "lr": rate[name]} for name, p in names.items()], fused=True)
    by_hand(twin, lambda i: [adam])
    torch.testing.assert_close(weights(vae), weights(twin), rtol=1e-6, atol=1e-7)


def test_frozen_parts_stay_with_their_statistics_and_thaw_after_the_run():
    torch.manual_seed(0)
    encoder = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.BatchNorm1d(8))
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), encoder=encoder, decoder=use("mlp", hidden=(8,)))
    before = {k: v.clone() for k, v in vae.state_dict().items()}
    train(vae, freeze=["encoder", "sampler.head"]).fit()
    moved = {k.split(".")[0] for k, v in vae.state_dict().items() if not torch.equal(v, before[k])}
    assert moved == {"decoder"} and all(p.requires_grad for p in vae.parameters())


def test_players_move_by_their_own_optimizers_as_by_hand():
    vae, twin = adversarial(), adversarial()
    trainer = train(
        vae, lr=1e-3, optimizer="sgd",
        players={"adversarial_latent": {"optimizer": use("adam", betas=(0.5, 0.9)), "lr": 1e-2, "every": 3, "offset": 1}},
    )  # fmt: skip
    trainer.fit()
    sides = twin.players()
    sgd = torch.optim.SGD(sides["vae"], 1e-3, fused=True)
    adam = torch.optim.Adam(sides["adversarial_latent"], 1e-2, betas=(0.5, 0.9), fused=True)
    by_hand(twin, lambda i: [sgd, adam] if i % 3 == 2 else [sgd])
    assert torch.equal(weights(vae), weights(twin))
    assert [p.name for p in trainer.players] == ["vae", "adversarial_latent"]
    assert {"lr/vae", "lr/adversarial_latent", "grad_norm/vae", "grad_norm/adversarial_latent"} <= set(
        trainer.history.rows[0]
    )


def test_alternating_players_never_move_at_one_step():
    vae = adversarial()
    sides = {name: list(held) for name, held in vae.players().items()}
    watch = Watch(lambda _: [torch.cat([p.detach().flatten() for p in held]).clone() for held in sides.values()])
    start = watch.look(None)
    players = {"vae": {"every": 2}, "adversarial_latent": {"every": 2, "offset": 1}}
    train(vae, players=players, callbacks=[watch], log_every=1).fit()
    for i, (before, after) in enumerate(zip([start, *watch.seen], watch.seen, strict=False)):
        assert [not torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [i % 2 == 0, i % 2 == 1]


def test_each_players_gradients_are_clipped_by_their_own_norm():
    vae, twin = adversarial(), adversarial()
    trainer = train(vae, optimizer="sgd", lr=0.1, grad_clip={"vae": 0.05})
    history = trainer.fit()
    sides = twin.players()
    sgd = torch.optim.SGD(twin.parameters(), 0.1, fused=True)
    norms = []
    torch.manual_seed(0)
    for x in batches(2):
        twin.zero_grad()
        twin.loss(x).total.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(sides["vae"], 0.05)))
        sgd.step()
    torch.testing.assert_close(weights(vae), weights(twin), rtol=1e-5, atol=1e-6)
    assert min(norms) > 0.05 and history["grad_norm/vae"][0] == pytest.approx(sum(norms[:4]) / 4, rel=1e-5)


@pytest.mark.parametrize(
    ("args", "match"),
    [
        ({"lr": {"encodr": 1.0}}, r"no weight's name begins with 'encodr'\. Did you mean 'encoder'\? Parts: encoder, sampler, decoder"),
        ({"lr": {"encoder": -1.0}}, "lr should be positive, got -1.0 for 'encoder'"),
        ({"freeze": ["decodr"]}, "freeze: no weight's name begins with 'decodr'. Did you mean 'decoder'"),
        ({"freeze": "decoder"}, r"freeze should be a list of parts, such as \['decoder'\]"),
        ({"freeze": ["encoder", "sampler", "decoder"]}, "no weight to train"),
        ({"players": {"vea": {}}}, "players: there is no player 'vea'. Did you mean 'vae'"),
        ({"players": {"vae": {"evry": 2}}}, r"players\['vae'\]: there is no argument 'evry'\. Did you mean 'every'"),
        ({"players": {"vae": {"every": 2, "offset": 2}}}, "0 ≤ offset < every"),
        ({"grad_clip": 0.0}, "grad_clip should be positive"),
        ({"optimizer": use("adam", beta=1)}, r"optimizer 'adam' has no argument 'beta'\. Did you mean 'betas'"),
        ({"schedule": "cosin"}, "there is no schedule 'cosin'. Did you mean cosine"),
        ({"schedule": use("cosine", T_mx=1)}, "schedule 'cosine' has no argument 'T_mx'. Did you mean 'T_max'"),
        ({"schedule": "timm.cosin"}, "'timm.cosin' can't be made with .*Timm has cosine"),
        ({"ema": 1.0}, r"ema is the decay of the average, in \(0, 1\)"),
        ({"accumulate": 0}, "accumulate should be a whole number"),
        ({"phases": [{"epochs": 1, "lrs": 1}]}, r"phases\[0\] can't change 'lrs'\. Did you mean 'lr'"),
        ({"phases": [{"lr": 1.0}, {"epochs": 1}]}, r"phases\[0\] needs epochs or steps"),
        ({"phases": [{"epochs": 1}, {"epochs": 2}]}, r"epochs=2, and the phases have \[1, 2\]"),
        ({"phases": [{"epochs": 1, "weights": {"kld": 1}}, {}]}, "no constant weight 'kld'. Known: nll, kl"),
    ],
)  # fmt: skip
def test_bad_arguments(args, match):
    with pytest.raises(ValueError, match=match):
        train(model(), **args)


# -- schedules -------------------------------------------------------------------------------------------------------


def rates(**args):
    watch = Watch(lambda trainer: trainer.players[0].lr)
    train(model(), lr=0.1, log_every=1, callbacks=[watch], **args).fit()
    return [0.1 if i < 0 else watch.seen[i] for i in range(-1, len(watch.seen))][:-1]


def cosine(i, n):
    return 0.05 * (1 + math.cos(math.pi * i / n))


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        (None, [0.1] * 8),
        ("cosine", [cosine(i, 8) for i in range(8)]),
        ("linear", [0.1 * (1 - i / 8) for i in range(8)]),
        (use("step", step_size=3, gamma=0.5), [0.1 * 0.5 ** (i // 3) for i in range(8)]),
        (use("exponential", gamma=0.5), [0.1 * 0.5**i for i in range(8)]),
        ({"name": "CosineAnnealingLR", "T_max": 16}, [cosine(i, 16) for i in range(8)]),
        (lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: 1 / (1 + i)), [0.1 / (1 + i) for i in range(8)]),
        ("timm.cosine", [cosine(i, 8) for i in range(8)]),
    ],
    ids=["constant", "cosine", "linear", "step", "exponential", "class", "function", "timm"],
)  # fmt: skip
def test_schedules_follow_their_formulas_over_the_steps_of_the_run(schedule, wanted):
    assert rates(schedule=schedule) == pytest.approx(wanted, abs=1e-9)


def test_warmup_rises_linearly_before_the_schedule():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    schedule = Schedule(use("cosine", warmup=4), optimizer, 12)
    seen = []
    for _ in range(12):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step(), schedule.step()
    assert seen == pytest.approx(
        [0.1 * (1 / 5 + 4 / 5 * i / 4) for i in range(4)] + [cosine(i, 8) for i in range(8)], abs=1e-9
    )


@pytest.mark.parametrize(
    "name", ["onecycle", "polynomial", "warmrestarts", "plateau", "multistep", "timm.poly", "timm.tanh"]
)
def test_other_schedules_run(name):
    choice = use(name, milestones=[3]) if name == "multistep" else name
    assert len(train(model(), schedule=choice).fit()) == 2


def test_a_plateau_is_seen_in_the_score():
    history = train(model(), schedule=use("plateau", patience=0, factor=0.1, threshold=1e9), lr=1e-2, epochs=4).fit()
    assert history["lr/vae"] == pytest.approx([1e-2, 1e-3, 1e-4, 1e-5])


def test_a_schedule_over_an_unknown_length_needs_steps():
    with pytest.raises(ValueError, match="'cosine' needs the number of steps. Give steps="):
        train(model(), iter([X[:8]]), schedule="cosine")


# -- moving average --------------------------------------------------------------------------------------------------


def test_the_moving_average_is_the_closed_form():
    vae = model()
    watch = Watch(lambda trainer: (weights(trainer.vae).clone(), weights(trainer.model).clone()))
    trainer = train(vae, X, X, ema=0.8, epochs=4, lr=1e-2, callbacks=[watch], log_every=1)
    history = trainer.fit()
    passed = [theta.double() for theta, _ in watch.seen]
    decay = [min(0.8, (1 + t) / (10 + t)) for t in range(len(passed))]
    for n, (_, average) in enumerate(watch.seen):
        # θ̄_n = Σ_i θ_i (1 - d_i) Π_{j>i} d_j, with the first weights taken whole
        share = [(1 - decay[i] if i else 1.0) * math.prod(decay[i + 1 : n + 1]) for i in range(n + 1)]
        assert sum(share) == pytest.approx(1)
        wanted = sum(s * theta for s, theta in zip(share, passed, strict=False))
        torch.testing.assert_close(average.double(), wanted, rtol=1e-5, atol=1e-6)
    assert decay[-1] == pytest.approx(16 / 25) and not torch.equal(*watch.seen[-1])
    kept = trainer.model
    with torch.no_grad():
        torch.manual_seed(1)
        assert history["val/total"][-1] == pytest.approx(float(kept.eval().loss(X[:16]).total), rel=0.2)
    assert trainer.evaluate()["total"] == pytest.approx(history["val/total"][-1])


# -- accumulation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        {"recipe": "mlp", "loss": {"nll": 1.0, "kl": vaekit.ramp(0, 1, steps=5)}},
        {"recipe": "mlp", "loss": {"nll": vaekit.geco(5.0, rate=0.2), "kl": 1.0}},
        {"recipe": "adversarial_ae"},
    ],
)
def test_four_batches_of_a_quarter_are_one_whole(args):
    x = torch.rand(4 * 128 + 100, 16, generator=torch.Generator().manual_seed(1))
    build = dict(args)
    recipe = build.pop("recipe")

    def run(**args):
        torch.manual_seed(0)
        vae = vaekit.build(recipe, latent=16, input_shape=(16,), encoder=use("mlp", hidden=(8,)), **build)
        history = Trainer(vae, x, epochs=3, lr=1e-3, optimizer="sgd", device="cpu", **args).fit()
        return weights(vae), history

    small, whole = run(batch_size=32, accumulate=4), run(batch_size=128)
    torch.testing.assert_close(small[0], whole[0], rtol=0, atol=1e-6)
    assert small[1]["step"] == whole[1]["step"] == [5, 10, 15]
    assert small[1]["train/total"] == pytest.approx(whole[1]["train/total"], rel=1e-5)


# -- phases ----------------------------------------------------------------------------------------------------------


def test_phases_are_the_runs_that_one_would_start_after_each_other(tmp_path):
    vae = model()
    phases = [
        {"epochs": 1, "freeze": ["decoder"]},
        {"epochs": 2, "lr": 1e-2, "optimizer": "sgd", "weights": {"kl": 0.1}, "batch_size": 8},
    ]
    history = train(vae, epochs=None, phases=phases, seed=None, ema=0.5).fit()
    twin = model()
    torch.manual_seed(0)
    moved = [p for name, p in twin.named_parameters() if not name.startswith("decoder")]
    adam = torch.optim.Adam(moved, 1e-3, fused=True)
    torch.random.manual_seed(0)
    sgd = torch.optim.SGD(twin.parameters(), 1e-2, fused=True)

    def epoch(optimizer, size, number):
        for x, _ in TensorBatches(X, None, size, shuffle=True, seed=0).epoch(number):
            twin.zero_grad()
            twin.loss(x).total.backward()
            optimizer.step()

    class Seeded(Callback):
        def begin(self, trainer):
            torch.manual_seed(0)

    vae = model()
    history = train(vae, epochs=None, phases=phases, callbacks=[Seeded()]).fit()
    torch.manual_seed(0)
    epoch(adam, 16, 1)
    twin.objective.numbers["kl"] = 0.1
    epoch(sgd, 8, 2), epoch(sgd, 8, 3)
    assert torch.equal(weights(vae), weights(twin)) and history["step"] == [4, 12, 20]
    assert vae.objective.numbers["kl"] == 1.0, "it is the model's again"


@pytest.mark.parametrize("stop", [2, 4, 6, 9])
def test_phases_are_gone_on_with(tmp_path, stop):
    phases = [{"steps": 5, "freeze": ["decoder"]}, {"steps": 7, "lr": 1e-2, "schedule": "cosine", "accumulate": 2}]

    class Stop(Callback):
        def logged(self, trainer, values):
            if trainer.step == stop:
                trainer.stop()

    whole, cut, again = model(), model(), model()
    options = {"epochs": None, "phases": phases, "log_every": 1}
    train(whole, **options).fit()
    train(cut, **options, output_dir=tmp_path, callbacks=[Stop()]).fit()
    assert train(again, **options, output_dir=tmp_path).fit()["step"][-1] == 12
    assert torch.equal(weights(again), weights(whole))


def test_the_last_phase_takes_what_is_left():
    trainer = train(model(), epochs=5, phases=[{"epochs": 2}, {"lr": 1e-4}])
    assert [phase.epochs for phase in trainer.phases] == [2, 3]
    assert trainer.fit()["lr/vae"] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-4])


# -- precision and layout --------------------------------------------------------------------------------------------


def test_networks_compute_in_half_precision_and_everything_else_in_single():
    vae = model()
    seen = {}

    def note(name):
        def hook(module, given, made):
            seen.setdefault(name, (given[0].dtype, getattr(made, "dtype", None)))

        return hook

    inside = next(m for m in vae.encoder.modules() if isinstance(m, torch.nn.Linear))
    inside.register_forward_hook(note("a layer of the encoder"))
    vae.encoder.register_forward_hook(note("encoder")), vae.decoder.register_forward_hook(note("decoder"))
    vae.likelihood.register_forward_hook(note("likelihood"))
    with networks_in(torch.bfloat16, torch.device("cpu"), vae.encoder, vae.decoder):
        out = vae(X)
    single, half = torch.float32, torch.bfloat16
    assert seen["a layer of the encoder"] == (single, half)
    assert seen["encoder"] == seen["decoder"] == (single, single) and seen["likelihood"][0] == single
    level = out.levels[0]
    assert level.z.dtype == level.q.mean.dtype == out.y.dtype == single
    assert torch.equal(vae.reconstruct(X), vae.reconstruct(X)) and "forward" not in vars(vae.encoder)


@pytest.mark.parametrize("recipe", ["vae", "vq_vae", "adversarial_ae"])
def test_bf16_trains_about_as_single_precision(recipe):
    def run(precision):
        torch.manual_seed(0)
        vae = vaekit.build(recipe, latent=(2, 4, 4) if recipe == "vq_vae" else 2, input_shape=(1, 8, 8))
        x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        return vae, Trainer(vae, x, x, epochs=2, batch_size=16, precision=precision, device="cpu").fit()

    (vae, half), (_, single) = run("bf16"), run("fp32")
    assert {p.dtype for p in vae.parameters()} == {torch.float32} and "forward" not in vars(vae.encoder)
    assert (
        half["val/total"] == pytest.approx(single["val/total"], rel=0.05) and half["val/total"] != single["val/total"]
    )


def test_fp16_overflows_move_neither_weights_nor_schedules_nor_averages():
    vae = model()
    trainer = train(vae, precision="fp16", ema=0.9, schedule="linear", epochs=1, log_every=1)
    trainer.updates.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**60)  # overflows at first
    start, seen = weights(vae).clone(), []

    def look(_):
        state = trainer.players[0].optimizer.state
        steps = {float(s["step"]) for s in state.values()} or {0.0}
        seen.append((torch.equal(weights(vae), start), trainer.players[0].schedule.count, trainer.ema.updates, steps))

    trainer.callbacks.append(Watch(look))
    trainer.fit()
    skipped = [stayed for stayed, *_ in seen].count(True)
    assert seen[0] == (True, 0, 0, {0.0}) and trainer.guard.skipped == 0
    for i, (_, count, updates, steps) in enumerate(seen):
        moved = max(0, i + 1 - skipped)
        assert count == updates == moved and steps == {float(moved)}


def test_precision_and_layout_are_picked_for_the_device(monkeypatch):
    cpu, card = torch.device("cpu"), torch.device("cuda:0")
    assert pick_precision("auto", cpu) is None and pick_precision("fp32", cpu) is None
    for capability, wanted in (((9, 0), torch.bfloat16), ((7, 5), None)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, c=capability: c)
        assert pick_precision("auto", card) == wanted and pick_precision("fp16", card) == torch.float16
    with pytest.raises(ValueError, match="'cuda:0' has no bf16 in hardware. Use 'fp16' or 'fp32'"):
        pick_precision("bf16", card)
    assert pick_memory_format("auto", card) == torch.channels_last
    assert pick_memory_format("auto", cpu) == torch.contiguous_format


def test_channels_last_gives_the_same_model():
    def run(memory_format):
        torch.manual_seed(0)
        vae = vaekit.build("conv", latent=2, input_shape=(3, 8, 8))
        x = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        Trainer(vae, x, epochs=1, batch_size=16, memory_format=memory_format, device="cpu").fit()
        return vae

    a, b = run("contiguous"), run("channels_last")
    torch.testing.assert_close(weights(a), weights(b), rtol=1e-3, atol=1e-4)
    kernel = next(p for p in b.encoder.parameters() if p.ndim == 4 and p.shape[1] > 1)
    assert kernel.is_contiguous(memory_format=torch.channels_last)


def test_augmentation_meets_training_batches_alone():
    sizes = []

    def augment(x):
        sizes.append(len(x))
        return x.flip(1)

    vae, twin = model(), model()
    train(vae, X, X, augment=augment).fit()
    with warnings.catch_warnings():
        train(twin, X.flip(1), X).fit()
    assert sizes == [16] * 8 and torch.equal(weights(vae), weights(twin))


def test_the_term_of_a_critic_is_named_in_the_history():
    loss = [term("nll"), term("adversarial_latent", weight=0.1, label="latent")]
    torch.manual_seed(0)
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), hidden=(8,), loss=loss)
    assert {"grad_norm/latent", "train/latent_critic", "lr/latent"} <= set(train(vae).fit().rows[0])


def test_a_game_counts_steps_and_not_the_batches_that_make_one():
    vae = vaekit.build("mlp", latent=2, input_shape=(6,), hidden=(8,), loss=["nll", "kl", vaekit.term("adversarial")])
    vaekit.Trainer(vae, torch.rand(64, 6), epochs=1, batch_size=8, accumulate=4, device="cpu").fit()
    assert vae.objective.terms["adversarial"].step == 2
