"""Recipes with every kind of part and every named field that is not a default's: never trained, only read."""

# ruff: noqa: F403, F405

from pathways_lite.recipe import *

MODEL = Model(
    d_model=32, n_layers=4, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64, vocab_size=512, block="serial", norm="layer",
    norm_epsilon=1e-5, qk_norm=True, rope_base=5e5, tie_embeddings=False, logit_scale=0.5, logit_soft_cap=30.0,
    attention_soft_cap=50.0, window=(64, None), dropout=0.1, init="normal", dtype="float32", scan_layers=False,
    remat="dots", attention="reference",
)  # fmt: skip
PLAIN = Model(d_model=32, n_layers=4, n_heads=4, head_dim=8, d_ff=64, vocab_size=512)
DATA = Data(
    corpus="corpora/mine", fingerprint="0" * 64, seq_len=128, shuffle_seed=7, round=0.5, boundaries="none", workers=1,
    threads=3, prefetch=4,
)  # fmt: skip
TOKENS = SpecialTokens(
    s2s=500, nlu=501, nlg=502, prefix=503, suffix=504, middle=505, separator=506, end_of_span=507, first_sentinel=499,
    sentinels=100,
)  # fmt: skip
SCHEDULES = (
    Constant(warmup=Steps(n=10)),
    Linear(warmup="1e5 tokens", end=0.1),
    Cosine(warmup=Flops(n=1e12), end=0.2),
    WSD(warmup="5 %", decay=Fraction(n=0.3), end=0.01, shape="one_minus_sqrt"),
    PaLM(warmup=Tokens(n=4096), knee="100 steps"),
    Cosine(),
)
OPTIMIZERS = (
    AdamW(learning_rate=1e-3, schedule=SCHEDULES[0], b1=0.8, b2=0.9, epsilon=1e-9, weight_decay=0.2),
    Adafactor(
        learning_rate=1e-3, schedule=SCHEDULES[1], b1=0.8, decay_exponent=0.7, update_clip=2, weight_decay_exponent=None
    ),
    Lion(learning_rate=2e-4, schedule=SCHEDULES[2], b1=0.8, b2=0.9, weight_decay=0.5, clip_norm=None),
    Muon(
        learning_rate=0.01, adam_learning_rate=1e-3, schedule=SCHEDULES[3], momentum=0.9, ns_steps=4, b1=0.8, b2=0.9,
        weight_decay=0.1, clip_norm=2.0,
    ),
    ScheduleFree(learning_rate=1e-3, schedule=SCHEDULES[4], b1=0.8, b2=0.9, weight_decay=0.1),
    SGD(learning_rate=0.2, schedule=SCHEDULES[5], momentum=0.9, nesterov=True),
)  # fmt: skip
STARTS = (
    Scratch(),
    Continue(optimizer="keep"),
    Restore(path="runs/other", digest="1" * 64, optimizer="keep"),
    Merge(of=("runs/a", Ingredient(path="runs/b", weight=2.0, digest="2" * 64)), last=2, decay=0.9),
    Grow(operator=Stack(), noise=0.1, optimizer="grow"),
    Grow(operator=Interpolate(), optimizer="keep"),
    Grow(operator=Blocks(order="12-34*3")),
    Grow(operator=DropAndStack()),
    Grow(operator=Direct(split="even")),
    Grow(operator=Zero(order="interpolate")),
    Grow(operator=Random(order="interpolate", ramp="100 steps")),
    Grow(operator=Learned(steps=50, learning_rate=1e-2)),
    Grow(operator=Compose(depth=Interpolate(), width=Zero())),
)
SPANS = SpanCorruption(rate=0.2, mean_span=4.0, mode="nlu")
MEMBERS = (Weighted(weight=1.0, denoiser=PrefixLM(mode="s2s")), Weighted(weight=2.0, denoiser=SPANS))
OBJECTIVES = (
    Causal(z_loss=0.0),
    PrefixLM(z_loss=1e-3, layout="fixed", tokens=TOKENS, mode="s2s"),
    SPANS,
    FillInTheMiddle(rate=0.7, spm=0.3),
    CodeGen2(rate=0.7, least=0.1, most=0.4, mean_span=16.0),
    Denoisers(members=MEMBERS),
    UL2R(tokens=TOKENS),
    UL2(z_loss=0.0),
)
RULES = (
    Uniform(),
    LinUpper(temperature=0.5, final_temperature=1.0),
    Upper(temperature=0.5),
    Quadratic(temperature=0.5),
    Extremes(temperature=0.5),
    Focal(gamma=1.0),
    Top(share=0.25),
)
REFERENCE = Reference(path="runs/reference", digest="3" * 64, identity="4" * 16, model=PLAIN)
PRUNING = (
    Prune(
        sparsity=0.8, start_sparsity=0.1, begin=0.1, end=0.9, compute="dense", shape="cubic", every=7,
        criterion=Magnitude(), allocation="global", structure=Unstructured(), scope=("layers.mlp.*",),
        regrowth=Regrowth(by="random", share=0.2, falls=False, seed=3),
    ),
    Prune(sparsity=0.5, criterion=FirstOrder(decay=0.8), structure=NM(n=2, m=4)),
    Prune(sparsity=0.5, criterion=Movement(decay=0.9), structure=Heads()),
    Prune(sparsity=0.5, criterion=RandomScores(seed=2), structure=Channels()),
    Prune(sparsity=0.5, structure=WholeBlocks()),
)  # fmt: skip
MIXTURES = (
    DataMixture(
        phases=(
            MixturePhase(weights=Given(weights={"books": 2, "web": 1})),
            MixturePhase(start="40 %", weights=UniMax(epochs=2.0)),
            MixturePhase(start="60 %", weights=Temperature(tau=5.0, times={"math": 8})),
        ),
        by="loss",
    ),
    cooldown(high=4.0, low=2.0, at="60 %"),
    upsampling({"math": 8}, last=0.3, tau=2.0),
    DataMixture(phases=(MixturePhase(weights=LearnedWeights(path="runs/proxy", identity="5" * 16)),)),
)
BUDGETS = ("300 steps", "2e6 tokens", "1e15 flops", Steps(n=5), Tokens(n=4096), Flops(n=1e12))


def stage(name, **fields):
    settings = {
        "name": name, "start": Scratch(), "model": PLAIN, "data": DATA, "optimizer": AdamW(), "batch_size": 8,
        "budget": "10 steps",
    } | fields  # fmt: skip
    return Stage(**settings)


def recipe():
    mixed = [DATA.model_copy(update={"round": None, "mixture": mixture}) for mixture in MIXTURES]
    proxies = (DoReMi(reference=REFERENCE, step=0.5, smoothing=1e-2), DoGE(mu=0.1, smoothing=0.1, target="books"))
    full = stage(
        "full",
        model=MODEL,
        batch_size=Ramp(steps=((0, 8), (10, 16))),
        microbatch=4,
        mesh=Mesh(pod=1, data=2, fsdp=-1, context=1, tensor=2),
        guard=SpikeGuard(policy="rewind", threshold=2.0, window=20, rewind_steps=10, skip_batches=5, max_rewinds=2),
        evaluation=Evaluation(every=50, tokens=1000),
        saving=Saving(every=20, keep=2),
        log_every=2,
    )
    weighed = Reweighting(rule=Top(share=0.5), sample="token", burn_in="10 steps", reference=REFERENCE)
    stages = [
        full,
        *(stage(f"start_{i}", start=start) for i, start in enumerate(STARTS)),
        *(stage(f"optimizer_{i}", optimizer=optimizer) for i, optimizer in enumerate(OPTIMIZERS)),
        *(stage(f"objective_{i}", objective=objective) for i, objective in enumerate(OBJECTIVES)),
        *(stage(f"rule_{i}", reweighting=Reweighting(rule=rule)) for i, rule in enumerate(RULES)),
        stage("weighed", reweighting=weighed),
        *(stage(f"pruning_{i}", pruning=pruning) for i, pruning in enumerate(PRUNING)),
        *(stage(f"mixture_{i}", data=data) for i, data in enumerate(mixed)),
        *(stage(f"proxy_{i}", domain_weights=proxy) for i, proxy in enumerate(proxies)),
        *(stage(f"budget_{i}", budget=budget) for i, budget in enumerate(BUDGETS)),
    ]
    return Recipe(name="every_kind", seed=11, stages=stages)
