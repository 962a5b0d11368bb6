import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.attention_contract import SCALE, Shape, arrays
from pathways_kernels.attention import Spans, api, attention
from pathways_kernels.attention.spans import causal

SHAPE = Shape(2, 5, 5, 4, 2, 8)


def call(q=None, k=None, v=None, spans=None, **options):
    defaults = arrays(SHAPE)
    q, k, v = (d if x is None else x for x, d in zip((q, k, v), defaults, strict=False))
    return attention(q, k, v, causal(2, 5) if spans is None else spans, **{"scale": SCALE, **options})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"q": jnp.zeros((2, 5, 4))}, r"q float32\[2, 5, 4\].*expected q \[B, T, H, D\]"),
        ({"k": jnp.zeros((2, 6, 2, 8))}, r"k float32\[2, 6, 2, 8\].*both \[B, S, K, D\]"),
        ({"q": jnp.zeros((3, 5, 4, 8))}, "same batch"),
        ({"q": jnp.zeros((2, 5, 4, 9))}, "head dim"),
        ({"q": jnp.zeros((2, 5, 3, 8))}, "3 query heads to be a multiple"),
        ({"q": jnp.zeros((2, 0, 4, 8))}, "every axis to have at least one entry"),
        ({"q": jnp.zeros((2, 5, 4, 8), jnp.bfloat16)}, "one floating type"),
        ({"spans": causal(2, 4)}, r"spans.start is int32\[2, 4\]; expected int32\[2, 5\]"),
        ({"spans": Spans(np.zeros((2, 5), np.int32), np.ones((2, 5)))}, r"spans.stop is float"),
        ({"scale": jnp.float32(1)}, "scale is .* expected a finite Python number"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"logits_soft_cap": 0.0}, "logits_soft_cap is 0.0"),
        ({"implementation": "flash"}, "no attention implementation 'flash'; there are: .*chunked, reference"),
    ],
)
def test_arguments_that_do_not_fit_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        call(**arguments)


def constant(value):
    def run(q, k, v, spans, *, scale, logits_soft_cap=None):
        return jnp.full_like(q, value)

    return run


def test_a_backend_is_preferred_on_its_platform_only(monkeypatch):
    monkeypatch.setattr(
        api,
        "BACKENDS",
        {
            "refuser": api.Backend(
                constant(1), ("cpu",), unsupported_reason=lambda request: f"D is {request.q.shape[3]}, not 64."
            ),
            "elsewhere": api.Backend(constant(2), ("tpu", "cuda")),
            "here": api.Backend(constant(3), ("cpu",)),
            "too_late": api.Backend(constant(4), ("cpu", "tpu")),
            "portable": api.Backend(constant(5)),
            "never": api.Backend(constant(6), ("rocm",)),
        },
    )
    assert (call() == 3).all()
    assert (call(implementation="portable") == 5).all()
    with pytest.raises(
        ValueError, match=r"'refuser' does not support this call: D is 8, not 64\. These do: elsewhere, here"
    ):
        call(implementation="refuser")
    for platform, value in (("tpu", "2.0"), ("rocm", "5.0")):
        text = jax.jit(call).trace().lower(lowering_platforms=(platform,)).as_text()
        assert f"dense<{value}" in text.replace("00000e+00", "0")


def test_no_backend_left_is_an_error(monkeypatch):
    refuser = api.Backend(constant(1), unsupported_reason=lambda request: "never.")
    monkeypatch.setattr(api, "BACKENDS", {"refuser": refuser})
    with pytest.raises(ValueError, match="no attention implementation of refuser supports"):
        call()
